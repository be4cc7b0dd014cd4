"""Text cut to the room that there is, with "…" where some is missing."""

from __future__ import annotations

from collections.abc import Callable

Parts = tuple[str, str, str]
"""What stands before a mark, the mark, and what stands after it."""


def cut_around(before: str, mark: str, after: str, fits: Callable[[Parts], bool]) -> Parts:
    """A text cut on both sides of the mark until it fits on a line; "…" stands where text is missing.

    The mark itself is cut only where it alone is too long.
    """
    if fits((before, mark, after)):
        return before, mark, after
    left, right = "…" if before else "", "…" if after else ""
    if not fits((left, mark, right)):
        return left, shortened(mark, lambda part: fits((left, part, ""))), ""
    both = _most(max(len(before), len(after)), lambda n: fits(_sides(before, mark, after, n, n)))
    behind = _most(len(after), lambda n: fits(_sides(before, mark, after, both, n)))
    ahead = _most(len(before), lambda n: fits(_sides(before, mark, after, n, behind)))
    return _sides(before, mark, after, ahead, behind)


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """As much of the text from its beginning as fits, with "…" behind it if that is not all."""
    if fits(text):
        return text
    length = _most(min(len(text), 4096), lambda n: fits(text[:n].rstrip() + "…"))
    return text[:length].rstrip() + "…"


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that fits, where all smaller ones fit too; 0 is taken to."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _sides(before: str, mark: str, after: str, ahead: int, behind: int) -> Parts:
    """At most so many characters before and after the mark: whole words, where there are spaces."""
    left, right = before, after
    if len(before) > ahead:
        left = before[len(before) - ahead :]
        if " " in left and before[len(before) - ahead - 1] != " ":
            left = left.partition(" ")[2]
        left = "…" + left.lstrip()
    if len(after) > behind:
        right = after[:behind]
        if " " in right and after[behind] != " ":
            right = right.rpartition(" ")[0]
        right = right.rstrip() + "…"
    return left, mark, right
