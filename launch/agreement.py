"""`lens agreement --human DIR --judge FILE|RUN`: agreement between a judge and human annotators."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out
from lenscore.human_study.judge_replies import read_replies
from lenscore.human_study.rater_agreement import Comparison, Rule, compare
from lenscore.human_study.study_files import read_study

_NAMED = 5


@dataclass(frozen=True)
class AgreementCommand:
    """Compare a judge with human annotations of the same patches and words: n, accuracy, Cohen's kappa, Spearman."""

    human: Path
    """Folder of a human study: data.json and the exported answers."""
    judge: Path
    """A judge run, or a file of judge replies in the published format."""
    rule: Rule = "majority"
    """When a patch counts as interpretable: at least half of the annotators say yes, any does, or all do."""
    json: bool = False
    """Print everything as JSON, with the names of all unmatched items."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command = parse(AgreementCommand, argv, "lens agreement")
        with StageProgress(Terminal(stderr=True), "agreement") as progress:
            progress.say(f"reading {command.human}")
            study = read_study(command.human)
            progress.say(f"reading {command.judge}")
            replies = read_replies(command.judge, study.items)
            progress.say("comparing")
            comparison = compare(study, *replies, command.rule)
        if command.json:
            print_out(json.dumps(to_json(comparison, command.rule), indent=1, allow_nan=False))
        else:
            show_tables(comparison, command.rule)
        return 0

    return exit_code(run)


def to_json(comparison: Comparison, rule: Rule) -> dict[str, Any]:
    """Returns the document of ``--json``; undefined values are null."""
    lines = [dataclasses.asdict(line) for line in comparison.agreements]
    for line in lines:
        accuracy = line.pop("accuracy")
        line |= {"accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
        line |= {name: None for name in ("kappa", "spearman") if math.isnan(line[name])}
    return {
        "rule": rule,
        "agreements": lines,
        "outcomes": comparison.outcomes,
        "unmatched": comparison.unmatched,
    }


def show_tables(comparison: Comparison, rule: Rule) -> None:
    """Print a table for each judge, and the answers and items that do not count."""
    console = Terminal()
    for judge, outcomes in comparison.outcomes.items():
        table = Table(
            title=escape(f"{judge} beside people ({rule})"), caption="accuracy with its 95 % interval over images"
        )
        table.add_column("model", overflow="fold")  # names may differ only at their ends
        for heading in ("n", "accuracy", "kappa", "Spearman", "people: yes", "judge: yes"):
            table.add_column(heading, justify="right", no_wrap=True)
        for line in comparison.agreements:
            if line.judge == judge:
                accuracy = line.accuracy.shown
                shown = [_number(line.kappa), _number(line.spearman), str(line.human_yes), str(line.judge_yes)]
                table.add_row(escape(line.model), str(line.n), accuracy, *shown)
        console.print(table)
        others = {name: count for name, count in outcomes.items() if name not in ("yes", "no")}
        if others:
            counted = ", ".join(f"{name} {count}" for name, count in sorted(others.items()))
            console.print(f"answers of {judge} that enter nothing: {counted}", markup=False, highlight=False)
    if comparison.unmatched:
        console.print("what did not match (all names: --json):", highlight=False)
    for kind, names in comparison.unmatched.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        named = ", ".join(names[:_NAMED])
        console.print(f"  {len(names)} {kind}: {named}{more}", markup=False, highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
