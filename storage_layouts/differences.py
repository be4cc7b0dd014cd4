"""A small table of the fields in which two configurations differ."""

from __future__ import annotations

from typing import Any

from storage_layouts.files import canonical_json

ROWS = 20
WIDTH = 44
ABSENT = "(absent)"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Every leaf of nested dicts as JSON text, by its dotted name."""
    if isinstance(value, dict) and value:
        fields: dict[str, str] = {}
        for key, item in value.items():
            fields.update(_flat(item, f"{name}.{key}" if name else str(key)))
        return fields
    return {name: canonical_json(value).decode()}


def _shortened(found: str, asked: str) -> tuple[str, str]:
    """Both texts cut to the column width, such that the first difference is visible."""
    same = next((i for i, (a, b) in enumerate(zip(found, asked, strict=False)) if a != b), 0)
    start = max(0, same - WIDTH // 2) if max(len(found), len(asked)) > WIDTH else 0

    def cut(text: str) -> str:
        part = ("..." if start else "") + text[start:]
        return part if len(part) <= WIDTH else part[: WIDTH - 3] + "..."

    return cut(found), cut(asked)


def differences_table(found: dict[str, Any], asked: dict[str, Any]) -> str:
    """Lines ``field | in the folder | asked for`` for every field that differs, at most 20 of them."""
    left, right = _flat(found), _flat(asked)
    names = [name for name in sorted({*left, *right}) if left.get(name) != right.get(name)]
    rows = [("field", "in the folder", "asked for")]
    for name in names[:ROWS]:
        rows.append((name, *_shortened(left.get(name, ABSENT), right.get(name, ABSENT))))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        "  " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if len(names) > ROWS:
        lines.append(f"  ... and {len(names) - ROWS} more")
    return "\n".join(lines)
