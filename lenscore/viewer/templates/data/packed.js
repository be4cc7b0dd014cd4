// Loading data: scripts whose calls hold packed bytes, see lenscore/viewer/script_bytes.py. Only scripts load from file://.
"use strict";

/** @typedef {[number, string]} PackedBytes  number of bytes, and nearly 16 bits a character */
/** @typedef {[number, number, number]} PackedArray  bytes a number, place of the first byte, count */
/** @typedef {Uint8Array | Uint16Array | Uint32Array} Numbers  the largest value of the type stands for "none" */

const FIRST_CHARACTER = 0x100;
const SURROGATES = [0xd800, 0x800]; // the first, and how many: they are no characters
const WITH_16_BITS = 0xfeff - SURROGATES[1] - FIRST_CHARACTER - 2 ** 15;

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

/** Each character has 15 bits, and most have one more: together these are the end.
 *  @param {PackedBytes} packed @returns {Uint8Array<ArrayBuffer>} */
function unpackBytes([length, text]) {
  const bytes = new Uint8Array(2 * text.length);
  let [bits, held, at] = [0, 0, 0]; // bits that are not yet in a byte, how many, and the place of the next byte
  let [moreBits, moreHeld, end] = [0, 0, (15 * text.length) / 8];
  for (let i = 0; i < text.length; i += 1) {
    const code = text.charCodeAt(i);
    const unit = code - FIRST_CHARACTER - (code < SURROGATES[0] ? 0 : SURROGATES[1]);
    const unit15 = unit & 0x7fff;
    bits = (bits << 15) | unit15;
    held += 7; // and the 8 of this byte
    bytes[at] = bits >>> held;
    at += 1;
    if (held >= 8) {
      held -= 8;
      bytes[at] = bits >>> held;
      at += 1;
    }
    const more = unit15 < WITH_16_BITS ? 1 : 0;
    moreBits = (moreBits << more) | (unit >>> 15);
    moreHeld += more;
    if (moreHeld === 8) {
      moreHeld = 0;
      bytes[end] = moreBits;
      end += 1;
    }
  }
  return bytes.subarray(0, length);
}

/** The bytes before they were compressed. @param {PackedBytes} packed */
async function inflate(packed) {
  const stream = new Blob([unpackBytes(packed)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** @param {Uint8Array} bytes @param {PackedArray} packed @returns {Numbers} */
function unpackNumbers(bytes, [width, start, count]) {
  if (width === 1) return bytes.subarray(start, start + count);
  if (width === 2) return unpackOneOrTwoBytes(bytes, start, count);
  const numbers = new Uint32Array(count);
  for (let part = 0; part < 4; part += 1) {
    const first = start + part * count;
    for (let i = 0; i < count; i += 1) numbers[i] |= bytes[first + i] << (8 * part);
  }
  return numbers;
}

/** Numbers below a limit are one byte. @param {Uint8Array} bytes @param {number} start @param {number} count */
function unpackOneOrTwoBytes(bytes, start, count) {
  const numbers = new Uint16Array(count);
  const limit = bytes[start];
  const first = start + 1;
  let second = first + count;
  for (let i = 0; i < count; i += 1) {
    const byte = bytes[first + i];
    if (byte < limit) {
      numbers[i] = byte;
    } else {
      numbers[i] = limit + (((byte - limit) << 8) | bytes[second]);
      second += 1;
    }
  }
  return numbers;
}

/** Numbers [lines, width] from those [width, lines]. @template {Numbers} T @param {T} numbers @param {number} width
 *  @returns {T} */
function transposed(numbers, width) {
  const turned = /** @type {T} */ (numbers.slice());
  const lines = width && numbers.length / width;
  for (let column = 0, i = 0; column < width; column += 1) {
    for (let at = column; i < (column + 1) * lines; i += 1, at += width) turned[at] = numbers[i];
  }
  return turned;
}
