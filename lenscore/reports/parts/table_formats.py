"""Tables as CSV, Markdown and LaTeX. Untrusted text cannot break the surrounding markup."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pandas as pd

from lenscore.reports.sections import Table
from storage_layouts.files import write_atomic

LONG = 45
"""Longer tables are broken over pages in LaTeX (package longtable)."""
_WIDEST = 60
_NUMBER = re.compile(r"(\$?[-+]?[\d.,]+( %)?( (of|to) [-+]?[\d.,]+)*( \(.*\))?|–)?")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = "=+-@|%＝＋－＠"
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # A row may not start with "[" after "\\", and two hyphens or quotes would become another character.
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
    """Write a table as ``<name>.csv``, ``.md`` and ``.tex`` into a folder. Returns these paths."""
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
    """A table as CSV: floats with six decimals, NaN as an empty cell, text as in `csv_text`."""
    safe = frame.map(lambda cell: csv_text(cell) if isinstance(cell, str) else cell)
    safe = safe.rename(columns=lambda name: csv_text(str(name)))
    return safe.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()


def visible(text: str) -> str:
    r"""Untrusted text on one line with escaped control characters (ESC becomes \x1b).

    Bidirectional marks and undecodable bytes of file names are escaped too.
    """
    return _UNSAFE.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def csv_text(text: str) -> str:
    """Untrusted text as a CSV cell that is safe in terminals and spreadsheets.

    It is `visible`, with an apostrophe before text that a spreadsheet would read as a formula. The viewer's CSV has the
    same rule (`csvText` in image-csv.js).
    """
    shown = visible(text)
    first = next((sign for sign in shown if not sign.isspace() and unicodedata.category(sign)[0] != "C"), "")
    return f"'{shown}" if first and first in _FORMULA else shown


def markdown(table: Table, whole: bool = False) -> str:
    """The table in Markdown, without its caption; long cells are cut, unless ``whole``."""
    shown = _shown(table)
    lines = [list(map(str, shown.columns)), ["--:" if right else "---" for right in _numeric(shown)]]
    lines += [list(row) for row in shown.itertuples(index=False)]
    cut = str if whole else _short
    return "".join(f"| {' | '.join(markdown_text(cut(cell)) for cell in line)} |\n" for line in lines)


def latex(table: Table) -> str:
    r"""The table in LaTeX in the style of the package booktabs: a ``table``, or a ``longtable`` if long.

    It requires ``\usepackage{booktabs,longtable,textcomp}`` and ``\usepackage[T1]{fontenc}``, and any UTF-8 engine.
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
    """Untrusted text that cannot break the surrounding Markdown: one line without markup."""
    spelled = text.replace("`", "'").replace("<", "‹").replace(">", "›").replace("|", "¦")
    kept = (sign for sign in spelled if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf", "Cs"))
    return " ".join("".join(kept).split())


def markdown_text(text: str) -> str:
    """`plain` text with escaped links, images and emphasis; not for text between backticks."""
    # An underscore inside a word is no emphasis, and names of models have many of them.
    return re.sub(r"[\\\[\]*~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain(text))


def latex_text(text: object) -> str:
    """Untrusted text that cannot break the surrounding LaTeX; characters beyond Latin-1 become their code points."""
    return "".join(_LATEX.get(sign, sign if ord(sign) < 256 else f"U+{ord(sign):04X}") for sign in plain(str(text)))


def _shown(table: Table) -> pd.DataFrame:
    return table.frame.map(_cell) if table.shown is None else table.shown


def _cell(value: object) -> str:
    """A number with three digits; a dash for None and NaN."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return "–" if value is None else str(value)


def _numeric(shown: pd.DataFrame) -> list[bool]:
    """Which columns are right-aligned: numbers, optionally with a unit, an interval or a share."""
    return [bool(len(shown)) and all(_NUMBER.fullmatch(str(cell)) for cell in shown[name]) for name in shown]


def _short(text: object) -> str:
    """A cell of limited width; the CSV has the full text."""
    whole = str(text)
    return whole if len(whole) <= _WIDEST else f"{whole[: _WIDEST - 1]}…"
