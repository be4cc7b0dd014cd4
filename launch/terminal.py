r"""Output of commands. File names, labels and the errors of other libraries may hold control characters, which a
terminal would execute; they are printed as visible escapes such as \x1b.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from storage_layouts.printable import printable_lines


class Terminal(Console):
    """A rich console that escapes all control characters but the line end, in tables and progress bars too.

    Words between colons, as in hf:DATASET:train:text, are no names of emoji.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(emoji=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yields the escaped segments; those that control the terminal for rich itself are unchanged."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def shown(path: Path) -> Path:
    """Returns a path as it is printed, with any `..` in it resolved."""
    return path.resolve() if ".." in path.parts else path


def print_out(text: object) -> None:
    """Print results on stdout."""
    print(printable_lines(str(text)))


def print_err(text: object, style: str = "") -> None:
    """Print messages on stderr."""
    print_plain(Terminal(stderr=True), text, style)


def print_plain(console: Console, text: object, style: str = "") -> None:
    """Print text on a console without interpreting or wrapping it."""
    console.print(str(text), style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def to_file_or_terminal(width: int) -> Terminal:
    """Returns stdout with the width of its terminal, or in a file with a fixed width, so that tables are not cut."""
    return Terminal(width=None if sys.stdout.isatty() else width)
