"""Tables as CSV, Markdown and LaTeX. Text from outside cannot break the markup around it."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pandas as pd

from lenscore.reports.sections import Table
from storage_layouts.files import write_atomic

LONG = 45
"""A table of more lines than this is broken over pages in LaTeX (package longtable)."""
_WIDEST = 60
_NUMBER = r"(\$?[-+]?[\d.,]+( %)?( (of|to) [-+]?[\d.,]+)*( \(.*\))?|–)?"
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = "=+-@|%＝＋－＠"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # A line may not begin with "[" behind "\\", and two hyphens or quotes would melt into another sign.
    "[": "{[}",
    "]": "{]}",
    "-": "{-}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "‹": r"\guilsinglleft{}",
    "›": r"\guilsinglright{}",
    "¦": r"\textbar{}",
    "…": r"\ldots{}",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    "\u00a0": "~",
}


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write a table as ``<name>.csv``, ``.md`` and ``.tex`` into a folder and return these paths."""
    contents = {
        "csv": csv_bytes(table.frame),
        "md": f"{markdown_text(table.caption)}\n\n{markdown(table)}".encode(),
        "tex": latex(table).encode(),
    }
    paths = [folder / f"{table.name}.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomic(path, content)
    return paths


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV: shares with six decimals, empty where nothing was answered, text as `csv_text` gives it."""
    safe = frame.map(lambda cell: csv_text(cell) if isinstance(cell, str) else cell)
    safe = safe.rename(columns=lambda name: csv_text(str(name)))
    return safe.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()


def visible(text: str) -> str:
    r"""Text from outside on one line, whose control characters are seen instead of obeyed (ESC becomes \x1b).

    So are marks that turn the direction of writing, and bytes of file names that are no text.
    """
    return _UNSAFE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def csv_text(text: str) -> str:
    """Text from outside as a cell of a CSV file that a terminal shows and a spreadsheet opens without harm.

    It is `visible`, and an apostrophe stands before what begins like a formula: spreadsheets would compute it.
    The viewer's CSV follows the same rule for formulas (`csvText` in image-csv.js).
    """
    shown = visible(text)
    first = next((sign for sign in shown if not sign.isspace() and unicodedata.category(sign)[0] != "C"), "")
    return f"'{shown}" if first and first in _FORMULA else shown


def markdown(table: Table, whole: bool = False) -> str:
    """The table for people in Markdown, without its caption; long cells are cut, unless ``whole``."""
    shown = _shown(table)
    lines = [list(map(str, shown.columns)), ["--:" if right else "---" for right in _numeric(shown)]]
    lines += [list(row) for row in shown.itertuples(index=False)]
    cut = str if whole else _short
    return "".join(f"| {' | '.join(markdown_text(cut(cell)) for cell in line)} |\n" for line in lines)


def latex(table: Table) -> str:
    r"""The table for people in LaTeX in the style of the package booktabs: a ``table``, or a ``longtable`` if long.

    It needs ``\usepackage{booktabs,longtable,textcomp}`` and ``\usepackage[T1]{fontenc}``, and any UTF-8 engine.
    """
    shown = _shown(table)
    columns = "".join("r" if right else "l" for right in _numeric(shown))
    cells = shown.map(lambda cell: latex_text(_short(cell))).rename(columns=lambda name: latex_text(str(name)))
    is_long = len(cells) > LONG
    text: str = cells.style.hide(axis="index").to_latex(
        column_format=columns,
        hrules=True,
        caption=latex_text(table.caption),
        label=f"tab:{table.name}",
        environment="longtable" if is_long else None,
        position_float=None if is_long else "centering",
    )
    return text


def plain(text: str) -> str:
    """Text from outside that cannot break the Markdown around it: one line, no markup."""
    spelled = text.replace("`", "'").replace("<", "‹").replace(">", "›").replace("|", "¦")
    kept = (sign for sign in spelled if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf", "Cs"))
    return " ".join("".join(kept).split())


def markdown_text(text: str) -> str:
    """The same with what would be a link, a picture or emphasis shown as it is; not for text between backticks."""
    # An underscore inside a word is none of these, and names of models are full of them.
    return re.sub(r"[\\\[\]*~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain(text))


def latex_text(text: object) -> str:
    """Text from outside that cannot break the LaTeX around it; signs beyond Latin-1 become their numbers."""
    return "".join(_LATEX.get(sign, sign if ord(sign) < 256 else f"U+{ord(sign):04X}") for sign in plain(str(text)))


def _shown(table: Table) -> pd.DataFrame:
    if table.shown is not None:
        return table.shown
    return table.frame.map(_cell)


def _cell(value: object) -> str:
    """A number with three digits; a dash where there is none."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return "–" if value is None else str(value)


def _numeric(shown: pd.DataFrame) -> list[bool]:
    """Which columns are set to the right: numbers, perhaps with a unit, an interval or a share behind them."""
    return [bool(len(shown)) and bool(shown[name].astype(str).str.fullmatch(_NUMBER).all()) for name in shown]


def _short(text: object) -> str:
    """A cell that leaves room for others; the CSV has all of it."""
    whole = str(text)
    return whole if len(whole) <= _WIDEST else f"{whole[: _WIDEST - 1]}…"
