"""One file of a corpus, wherever it lies, and what is taken of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lenscore.contexts.hub_dataset import downloaded
from lenscore.user_files.finding import sha256_of, stored_path


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus.

    Attributes:
        origin: what run.json calls it: an absolute path, hf://datasets/NAME@COMMIT/PATH, or a name of its own.
        path: where it is; None for a file of the Hub, see `local`.
        share: the fraction of its sentences that are used, chosen by a hash of seed and text.
        column: its text column; "" for that of --column, or one of the usual names.
        checksum: of a file of the Hub, its SHA-256 (64 hex digits), or git's blob id (40) if it is kept in git.
        bytes: its size, if it is a file of the Hub.
        record: what run.json says of the named corpus that it belongs to; None for a file of the user.

    """

    origin: str
    path: Path | None = None
    share: float = 1.0
    column: str = ""
    checksum: str = ""
    bytes: int = 0
    record: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, file: CorpusFile | str | os.PathLike[str]) -> CorpusFile:
        """A file of the user; what is a corpus file already stays."""
        return file if isinstance(file, CorpusFile) else cls(stored_path(Path(file).resolve()), Path(file))

    def local(self) -> Path:
        """Where the file is on this machine; a file of the Hub is downloaded if it is not there yet.

        Raises InputError if it cannot be downloaded, or is not the one that the Hub lists.
        """
        return self.path if self.path is not None else downloaded(self.origin, self.checksum)

    @property
    def name(self) -> str:
        """Its last part, for messages; of a file of the user as it was given, because a link may lead to any name."""
        return self.path.name if self.path is not None and self.record is None else self.origin.rpartition("/")[2]

    @property
    def format_name(self) -> str:
        """The name that says what format it has, and whether it is compressed."""
        return self.name if self.path is None else self.path.name

    def state(self) -> tuple[int, int]:
        """Size and time of the last change; always the same of a file of the Hub, which its address determines."""
        if self.path is None:
            return self.bytes, 0
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def digest(self) -> str:
        """The checksum of a file of the Hub, which is not read; of others the SHA-256, as 64 hex digits."""
        return self.checksum or sha256_of(self.local())
