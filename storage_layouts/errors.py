"""The errors a user may meet: each message names the file or field, what was found, and what to do."""

from __future__ import annotations


class InputError(Exception):
    """Refused input or a user's mistake.

    The message is shown as it is (one line, or a small table), without a traceback; exit code 2.
    """


class IncompleteError(InputError):
    """A run or store has shards without a receipt; repeating the command that made it goes on from there."""


class CorruptError(InputError):
    """A file is missing or its bytes are not those that were written."""
