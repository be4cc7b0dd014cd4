"""The runs of a report: their folders, inputs, commands, times, hosts and versions."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from lenscore.reports.parts.table_formats import markdown, markdown_text, visible
from lenscore.reports.sections import Table
from lenscore.statistics.sources import AnalyzeSource, Sources
from lenscore.viewer.shown_models import ViewerModel
from storage_layouts.errors import InputError
from storage_layouts.files import FileDigest
from storage_layouts.runs import RunFolder
from storage_layouts.shards import part_name

RUN_COLUMNS = ["stage", "run_id", "seed", "label", "model", "made_from", "layers", "time", "host", "lenscore", "commit"]
RUN_COLUMNS += ["folder", "command"]
_SHOWN_COMMANDS = 6
"""Up to this many runs, report.md has their commands; of more only the table has them."""
_SHOWN_FILES = 3


def runs_table(sources: Sources, peers: Sequence[ViewerModel] = ()) -> Table:
    """All runs that were read, each once, with the columns ``RUN_COLUMNS``; missing records of older runs are empty.

    The store of a run precedes it, unless the store was deleted.
    """
    lines = [_line(run, label, more) for run, label, more in _runs(sources)]
    lines += [{"stage": "result files", "run_id": peer.run_id[:6], "label": peer.label} for peer in peers]
    empty = dict.fromkeys(RUN_COLUMNS, "")
    frame = pd.DataFrame([empty | line for line in lines], columns=RUN_COLUMNS, dtype=str)
    seed = (" (seed " + frame["seed"] + ")").where(frame["seed"] != "", "")
    shown = {
        "Run": frame["stage"] + " " + frame["run_id"] + seed,
        "Model": frame["label"],
        "Made from": frame["made_from"],
        "Layers": frame["layers"],
        "UTC": frame["time"].str.slice(0, 16).str.replace("T", " "),
        "Host": frame["host"],
        "Version": (frame["lenscore"] + " " + frame["commit"].str.slice(0, 7)).str.strip(),
        "Folder": frame["folder"],
    }
    return Table("runs", "The runs of this report.", frame, pd.DataFrame(shown))


def runs_text(sources: Sources, peers: Sequence[ViewerModel] = ()) -> str:
    """For report.md: the table of runs, copies of one model, the commands, and the versions."""
    table = runs_table(sources, peers)
    if not len(table.frame):
        return "No run was given.\n"
    parts = [markdown(table, whole=True), "In full: [runs](tables/runs.csv).\n"]
    parts += [f"- {line}\n" for line in _alike(sources.analyses)]
    commands = table.frame[table.frame["command"] != ""]
    if 0 < len(commands) <= _SHOWN_COMMANDS:
        parts.append(_block(commands["command"].to_list()))
    by_versions: dict[str, list[str]] = defaultdict(list)
    for run, _, _ in _runs(sources):
        by_versions[", ".join(f"{name} {version}" for name, version in run.versions.items())].append(run.run_id)
    for versions, runs in by_versions.items():
        parts.append(f"Versions{'' if len(by_versions) == 1 else ' of ' + ', '.join(runs)}: {versions}.\n")
    return "\n".join(parts)


def _runs(sources: Sources) -> list[tuple[RunFolder, str, dict[str, Any]]]:
    """Each run once, with the label of its model and the columns of its stage alone."""
    runs: list[tuple[RunFolder, str, dict[str, Any]]] = []
    for source in sources.analyses:
        layers = source.layers_shown + (f" of {source.depth}" if source.depth else "")
        if store := _store_of(source):
            runs.append((store, source.label, {}))
        runs.append((source.results.run, source.label, {"layers": layers}))
        runs += [(judge.run, judge.summary.model, {}) for judge in source.judges]
        runs += [(run, source.label, {}) for run in source.interventions]
    runs += [(run, "", {}) for run in sources.others]
    first: dict[str, tuple[RunFolder, str, dict[str, Any]]] = {}
    for entry in runs:
        first.setdefault(entry[0].run_id, entry)
    return list(first.values())


def _store_of(source: AnalyzeSource) -> RunFolder | None:
    if source.results.store_path is None:
        return None
    try:
        return RunFolder.open(source.results.store_path)
    except InputError:  # deleted or damaged, as `missing` reports
        return None


def _line(run: RunFolder, label: str, more: dict[str, Any]) -> dict[str, Any]:
    config, created = run.config, run.created
    model = config.get("model") or " + ".join(str(config[part]) for part in ("llm", "vision") if part in config)
    return {
        "stage": run.stage,
        "run_id": run.run_id,
        "seed": str(config.get("seed", "")),
        "label": label,
        "model": model,
        "made_from": _made_from(run),
        "time": created.get("time", ""),
        "host": created.get("host", ""),
        "lenscore": run.versions.get("lenscore", ""),
        "commit": created.get("commit") or "",
        "folder": str(run.path.resolve()),
        "command": created.get("command", ""),
    } | more


def _made_from(run: RunFolder) -> str:
    config, inputs = run.config, run.inputs
    match run.stage:
        case "extract":
            files = [str(file) for file in (*config.get("add", []), *config.get("corpus", []))]
            more = f" and {len(files) - _SHOWN_FILES} more" if len(files) > _SHOWN_FILES else ""
            return ", ".join(files[:_SHOWN_FILES]) + more
        case "analyze":
            images = inputs.get("images") or {}
            count = [f"{images['count']:,} images of {config.get('images', '')}"] if "count" in images else []
            store = (inputs.get("store") or {}).get("run_id")
            tuned = (inputs.get("tuned") or {}).get("id")
            sources = {"extract": store, "tune": tuned}
            return "; ".join([*count, *(f"{stage} {found}" for stage, found in sources.items() if found)])
        case "judge":
            return f"analyze {inputs['results']['run_id']}, judged by {config['judge']}"
        case _:
            return f"data {config['data']}" if config.get("data") else ""


def _alike(analyses: Sequence[AnalyzeSource]) -> Iterator[str]:
    """Sentences about runs of the same images with byte-identical states: their models are copies of each other."""
    groups: dict[object, list[str]] = defaultdict(list)
    for source in analyses:
        if found := _states_of(source):
            groups[found].append(source.label)
    for labels in groups.values():
        if len(labels) > 1:
            yield (
                f"{', '.join(map(markdown_text, labels))}: byte-identical hidden states of the same images, so these "
                "are copies of one model; they count as several here."
            )


def _states_of(source: AnalyzeSource) -> object:
    """A value that is equal for runs with equal hidden states; None for a run without norms."""
    results = source.results
    if not results.has("norms"):
        return None
    digests: list[FileDigest] = [
        receipt.files[part_name("norms", receipt.shard)]
        for receipt in sorted(results.run.receipts(), key=lambda r: r.shard)
    ]
    images = results.run.inputs.get("images") or {}
    return (images.get("sha256"), results.layers, tuple((one.bytes, one.crc32) for one in digests))


def _block(commands: Sequence[str]) -> str:
    """Commands as a Markdown code block."""
    text = "\n".join(map(visible, commands))
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}\n"
