"""Tables as CSV, Markdown and LaTeX. Text from outside cannot break the markup around it."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pandas as pd

from lenscore.reports.sections import Table
from storage_layouts.files import write_atomic

_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write a table as ``<name>.csv``, ``.md`` and ``.tex`` into a folder and return these paths."""
    contents = {
        "csv": csv_bytes(table.frame),
        "md": f"{plain(table.caption)}\n\n{markdown(table)}".encode(),
        "tex": latex(table).encode(),
    }
    paths = [folder / f"{table.name}.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_atomic(path, content)
    return paths


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """A table as CSV: shares with six decimals, empty where nothing was answered."""
    return frame.to_csv(index=False, float_format="%.6f", lineterminator="\n").encode()


def markdown(table: Table) -> str:
    """The table for people in Markdown, without its caption."""
    shown = _shown(table)
    lines = [list(map(str, shown.columns)), ["--:" if right else "---" for right in _numeric(table)]]
    lines += [[str(cell) for cell in row] for row in shown.itertuples(index=False)]
    return "".join(f"| {' | '.join(plain(cell) for cell in line)} |\n" for line in lines)


def latex(table: Table) -> str:
    """The table for people in LaTeX, as a ``table`` environment in the style of the package booktabs."""
    shown = _shown(table).map(_latex_text).rename(columns=lambda name: _latex_text(str(name)))
    text: str = shown.style.hide(axis="index").to_latex(
        column_format="".join("r" if right else "l" for right in _numeric(table)),
        hrules=True,
        caption=_latex_text(table.caption),
        label=f"tab:{table.name}",
        position_float="centering",
    )
    return text


def plain(text: str) -> str:
    """Text from outside that cannot break the Markdown around it: one line, no markup."""
    spelled = text.replace("`", "'").replace("<", "‹").replace(">", "›").replace("|", "¦")
    kept = (sign for sign in spelled if sign.isspace() or unicodedata.category(sign) not in ("Cc", "Cf"))
    return " ".join("".join(kept).split())


def _shown(table: Table) -> pd.DataFrame:
    if table.shown is not None:
        return table.shown
    return table.frame.map(lambda cell: f"{cell:.3g}" if isinstance(cell, float) else str(cell))


def _numeric(table: Table) -> list[bool]:
    """Which columns are set to the right: numbers, and texts of the shown table that begin with a digit."""
    shown = _shown(table)
    return [bool(shown[name].astype(str).str.match(r"^[-–\d]").all()) for name in shown.columns]


def _latex_text(text: object) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in plain(str(text)))
