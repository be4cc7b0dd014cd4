"""`lens intervene`: the command line of jobs/intervene_settings.py; at the end, tables of effects and their means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from jobs.intervene_settings import InterveneSettings
from launch.stages import command_with_end
from launch.terminal import print_out, print_plain, to_file_or_terminal
from lenscore.interventions.names import ERASE, SAID, TRUTH, WRITE, place_of
from lenscore.readings.words import distinct_words
from storage_layouts.files import write_atomic
from storage_layouts.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return command_with_end(InterveneSettings, argv, _finish)


def _finish(run: RunFolder) -> None:
    """Write the tables of what was asked for as CSV, and pages with attention; print the means over all layers."""
    from lenscore.reports.parts.table_formats import csv_bytes
    from lenscore.statistics import faithfulness, knockouts, turned_answers
    from storage_layouts.interventions import read_answers, read_attention, read_edits, read_effects, read_knockouts

    tables: dict[str, pd.DataFrame] = {}
    printed = []
    effects = read_effects(run).to_pandas()
    if len(effects):
        tables |= {"effects": effects, "summary": faithfulness.summarise(effects)}
        printed.append(_printed(tables["summary"]))
    edits = read_edits(run).to_pandas()
    if len(edits):
        tables |= {"edits": edits, "edits-summary": turned_answers.summarise(edits)}
        tables["answers"] = read_answers(run).to_pandas()
        printed.append(_printed_edits(tables["edits-summary"]))
    blocked = read_knockouts(run).to_pandas()
    if len(blocked):
        tables |= {"knockouts": blocked, "knockout-summary": knockouts.summarise_knockouts(blocked)}
        printed.append(_printed_knockouts(tables["knockout-summary"]))
    attention = read_attention(run)
    pages = []
    if len(attention):
        from launch.attention_pages import localisation_of, write_pages

        found = localisation_of(run, attention)
        if len(found):
            tables["attention-localisation"] = found
            printed.append(_printed_localisation(found))
        pages = write_pages(run, attention)
    for name, table in tables.items():
        write_atomic(run.path / f"{name}.csv", csv_bytes(table))
    for one in printed:
        to_file_or_terminal(120).print(one)
    for edit in (ERASE, WRITE):
        asked = distinct_words(run.config[edit].split(",")) if run.config.get(edit) else []
        known = set(edits.loc[edits["edit"] == edit, "word"])
        if left := [word for word in asked if word not in known]:
            why = _nowhere(place_of(edit, run.config.get("at", "")))
            print_plain(to_file_or_terminal(120), f"--{edit} {','.join(left)}: nothing was done; {why}")
    if empty := sum(receipt.facts.get("empty_answers", 0) for receipt in run.receipts()):
        print_plain(
            to_file_or_terminal(120),
            f"empty answers: those of {empty} of {run.require_plan().items} images, where only the end of the answer "
            "is measured; --prompt asks something else",
        )
    for path in [*(run.path / f"{name}.csv" for name in tables), *pages]:
        print_out(path)


def _nowhere(at: str) -> str:
    """Why a word was erased or written nowhere, by --at."""
    if at == SAID:
        return "no patch of these images has it among the candidates of the lenses (--at says where else)"
    if at.startswith(TRUTH):
        return f"--at {at}: no object of these images is called so"
    return f"--at {at}: no patch of these images is there"


def _printed(summary: pd.DataFrame) -> Table:
    title = "mean over layers and images; recovered: of the effect of the mean state"
    table = _table(title, "target", "lens", "substitute", "divergence, nats a token", "recovered (95 %)")
    for line in _of_all_layers(summary):
        recovered, low, high = (line[name] for name in ("recovered", "recovered_low", "recovered_high"))
        named = (str(line[name]) for name in ("target", "lens", "substitute"))
        shown = f"{recovered:.2f} ({low:.2f} to {high:.2f})" if recovered == recovered else "–"
        table.add_row(*named, f"{line['divergence']:.3g}", shown)
    return table


def _printed_knockouts(summary: pd.DataFrame) -> Table:
    title = "blocked attention, mean over windows and images; more: than as many patches of the background"
    table = _table(title, "target", "from", "layers", "divergence, nats a token (95 %)", "more (95 %)")
    for line in _of_all_layers(summary):
        more = _interval(line, "more") if line["more"] == line["more"] else "–"
        table.add_row(line["target"], line["from"], str(line["layers"]), _interval(line, "divergence"), more)
    return table


def _printed_localisation(found: pd.DataFrame) -> Table:
    title = "attention on objects, for the layer with the largest area under the ROC; ratio: to the share of patches"
    table = _table(title, "map", "tokens", "layer", "ratio (95 %)", "area (95 %)")
    for line in found.sort_values("auc").drop_duplicates(["kind", "tokens"], keep="last").to_dict("records"):
        table.add_row(
            line["kind"], line["tokens"], str(line["layer"]), _interval(line, "ratio"), _interval(line, "auc")
        )
    return table


def _printed_edits(summary: pd.DataFrame) -> Table:
    title = "words erased and written: mean over layers and images"
    columns = ("edit", "lens", "direction", "dose", "divergence, nats a token", "word lost or gained (95 %)")
    table = _table(title, *columns)
    for line in _of_all_layers(summary):
        share, low, high = (100 * line[name] for name in ("turned", "turned_low", "turned_high"))
        named = (str(line[name]) for name in ("edit", "lens", "direction"))
        turned = f"{share:.0f} % of {line['could_turn']} ({low:.0f} to {high:.0f})" if line["could_turn"] else "-"
        table.add_row(*named, f"{line['dose']:g}", f"{line['divergence']:.3g}", turned)
    return table


def _table(title: str, *columns: str) -> Table:
    """A table whose columns of numbers, which name a unit or an interval, stand to the right."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if "," in column or "(" in column else "left")
    return table


def _of_all_layers(summary: pd.DataFrame) -> list[dict[Any, Any]]:
    from lenscore.statistics.faithfulness import ALL_LAYERS

    return summary[summary["layer"] == ALL_LAYERS].to_dict("records")


def _interval(line: dict[Any, Any], name: str) -> str:
    return f"{line[name]:.3g} ({line[f'{name}_low']:.3g} to {line[f'{name}_high']:.3g})"


if __name__ == "__main__":
    sys.exit(main())
