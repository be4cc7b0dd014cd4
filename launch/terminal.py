r"""What commands print. File names, labels and the errors of other libraries may hold control characters, which a
terminal would obey; whatever is printed here shows them as visible escapes such as \x1b.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from storage_layouts.printable import printable_lines


class Terminal(Console):
    """A rich console whose text, in tables and progress bars too, holds no control character but the line end."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something renderable; colours and cursor moves of rich itself stay what they are."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def shown(path: Path) -> Path:
    """A path as it is printed, with any `..` in it resolved."""
    return path.resolve() if ".." in path.parts else path


def say(text: object) -> None:
    """Print lines of results on stdout."""
    print(printable_lines(str(text)))


def tell(text: object, style: str = "") -> None:
    """Print lines about what is going on, or what went wrong, on stderr."""
    Terminal(stderr=True).print(str(text), style=style, markup=False, highlight=False, soft_wrap=True)


def to_file_or_terminal(width: int) -> Terminal:
    """Stdout as wide as its terminal, or of a fixed width in a file, so that tables are not cut."""
    return Terminal(width=None if sys.stdout.isatty() else width)
