"""Text cut to a given space, with "…" for the missing parts."""

from __future__ import annotations

from collections.abc import Callable

Parts = tuple[str, str, str]
"""The text before a mark, the mark, and the text after it."""


def cut_around(before: str, mark: str, after: str, fits: Callable[[Parts], bool]) -> Parts:
    """Returns a text cut on both sides of the mark until it fits. The mark is cut only if it alone is too long."""
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
    """Returns the longest beginning of the text that fits, with "…" if it is not the whole text."""
    if fits(text):
        return text
    length = _most(min(len(text), 4096), lambda n: fits(text[:n].rstrip() + "…"))
    return text[:length].rstrip() + "…"


def _most(most: int, fits: Callable[[int], bool]) -> int:
    """The largest n up to ``most`` that fits, by bisection; 0 is assumed to fit."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _sides(before: str, mark: str, after: str, ahead: int, behind: int) -> Parts:
    """At most so many characters before and after the mark: whole words, if there are spaces."""
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
