// Loading data: scripts whose calls hold packed bytes, see lenscore/viewer/script_bytes.py. Only scripts load from file://.
"use strict";

/** @typedef {[number, string]} PackedBytes  number of bytes, and 15 bits a character */
/** @typedef {[number, number, number]} PackedArray  bytes a number, place of the first byte, count */
/** @typedef {Uint8Array | Uint16Array | Uint32Array} Numbers  the largest value of the type stands for "none" */

const FIRST_CHARACTER = 0x3000;

/** @param {string} address @returns {Promise<void>} */
function loadScript(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.addEventListener("load", () => { script.remove(); resolve(); });
    script.addEventListener("error", () => { script.remove(); reject(new Error(`${address} cannot be read`)); });
    document.head.append(script);
  });
}

/** @param {PackedBytes} packed @returns {Uint8Array<ArrayBuffer>} */
function unpackBytes([length, text]) {
  const bytes = new Uint8Array(length);
  let bits = 0;
  let held = 0; // bits that are not yet in a byte
  for (let i = 0, at = 0; at < length; i += 1) {
    bits = ((bits & 127) << 15) | (text.charCodeAt(i) - FIRST_CHARACTER);
    for (held += 15; held >= 8 && at < length; at += 1) {
      held -= 8;
      bytes[at] = bits >>> held;
    }
  }
  return bytes;
}

/** The bytes before they were compressed. @param {PackedBytes} packed */
async function inflate(packed) {
  const stream = new Blob([unpackBytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @param {Uint8Array} bytes @param {PackedArray} packed @returns {Numbers} */
function unpackNumbers(bytes, [width, start, count]) {
  if (width === 1) return bytes.subarray(start, start + count);
  const numbers = width === 2 ? new Uint16Array(count) : new Uint32Array(count);
  for (let part = 0; part < width; part += 1) {
    const first = start + part * count;
    for (let i = 0; i < count; i += 1) numbers[i] |= bytes[first + i] << (8 * part);
  }
  return numbers;
}
