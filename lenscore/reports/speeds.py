"""The speed of runs: items per second over time and by worker, and the shares of the workers' time.

The source is the worker logs (``attempts/``), so the same folder gives the same figures.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenscore.reports.parts.drawing import COLOURS
from lenscore.reports.parts.layer_plots import label_figure, panels, panels_size
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.sources import Sources, run_labels
from storage_layouts.runs import RunFolder

ATTEMPT_COLUMNS = ["shard", "worker", "device", "begin", "end", "seconds", "items", "outcome"]
SPEED_COLUMNS = ["run", "stage", "device", "workers", "items", "unit", "busy_seconds", "items_per_second"]
SPEED_COLUMNS += ["items_per_worker_second", "worker_seconds", "computing", "again", "failed", "between"]
WORKER_COLUMNS = ["run", "worker", "device", "shards", "items", "seconds", "items_per_second"]
UNITS = {
    "extract": "rows",
    "analyze": "images",
    "judge": "patches",
    "intervene": "images",
    "train": "steps",
    "tune": "sequences",
}

_BINS = 60
_TIME_UNITS = (("seconds", 1, 300), ("minutes", 60, 3 * 3600), ("hours", 3600, float("inf")))
_WORKERS_SHOWN = len(COLOURS) - 1


def speed_section(sources: Sources) -> Section | None:
    """The speed of all runs of a report; None if no worker log has a finished shard."""
    attempts = {name: (run, read_attempts(run)) for name, run in _named(sources).items()}
    logged = {label: found for label, found in attempts.items() if (found[1]["outcome"] == "finished").any()}
    if not logged:
        return None
    speeds = pd.DataFrame([_speed(label, run, frame) for label, (run, frame) in logged.items()], columns=SPEED_COLUMNS)
    workers = pd.concat([by_worker(label, frame) for label, (_, frame) in logged.items()], ignore_index=True)
    plots = []
    for stage in dict.fromkeys(speeds["stage"]):
        labels = list(speeds.loc[speeds["stage"] == stage, "run"])
        rates = pd.concat([rate_over_time(label, logged[label][1]) for label in labels], ignore_index=True)
        unit = UNITS.get(stage, "items")
        plots.append(
            Plot(
                f"speed-{stage}",
                f"{stage}: {unit} a second over the time in which anybody computed, one colour a worker.",
                panels_size(len(labels), legend=0.3),
                partial(_draw, rates, f"{unit} a second"),
                rates,
            )
        )
    caption = "Speed while anybody computed, and shares of the workers' time from their first shard to their last."
    table = Table("speed", caption, speeds, _shown(speeds))
    silent = [markdown_text(label) for label in attempts if label not in logged]
    text = (
        "From the worker logs. Their time goes into computing, into computing what another one did too (again), "
        "into shards that failed, and between shards; loading the model is not recorded.\n"
    )
    if silent:
        text += f"\nNo worker logs: {', '.join(silent)}.\n"
    by = Table("speed-workers", "Speed by worker; workers are numbered as they began.", workers)
    return Section("Speed", text, (table, by), tuple(plots), (table,))


def _named(sources: Sources) -> dict[str, RunFolder]:
    """Every run of a report, by a distinct name."""
    runs = dict(zip(run_labels(sources.others), sources.others, strict=True))
    for source in sources.analyses:
        runs[f"{source.label}, analyze"] = source.results.run
        runs |= {f"{judge.summary.model}, judge": judge.run for judge in source.judges}
        names = run_labels(source.interventions)
        runs |= {f"{source.label}, {name}": run for name, run in zip(names, source.interventions, strict=True)}
    return runs


def read_attempts(run: RunFolder) -> pd.DataFrame:
    """The finished and failed shards in the worker logs; columns ``ATTEMPT_COLUMNS``, times in Unix seconds.

    ``worker`` counts from 1 in the order of the first begin. ``outcome`` is finished, again (another worker had
    finished the shard before) or failed.
    """
    lines = []
    for event in run.attempts_log():
        if event.get("event") not in ("finished", "failed") or "seconds" not in event:
            continue
        seconds, end = float(event["seconds"]), float(event["time"])
        items = event.get("items") or (run.require_plan().shard(event["shard"]).items if run.plan else 0)
        names = (event["shard"], event.get("worker", ""), event.get("device", ""))
        lines.append([*names, end - seconds, end, seconds, int(items), event["event"]])
    frame = pd.DataFrame(lines, columns=ATTEMPT_COLUMNS)
    begun = frame.groupby("worker")["begin"].min().sort_values(kind="stable")
    numbers = {name: place for place, name in enumerate(begun.index, start=1)}
    done = frame["outcome"] == "finished"
    again = done & frame[done].duplicated("shard").reindex(frame.index, fill_value=False)
    return frame.assign(worker=frame["worker"].map(numbers), outcome=frame["outcome"].mask(again, "again"))


def by_worker(label: str, attempts: pd.DataFrame) -> pd.DataFrame:
    """The shards, items and speed of each worker; columns ``WORKER_COLUMNS``."""
    finished = attempts[attempts["outcome"] != "failed"]
    sums = finished.groupby("worker").agg(
        device=("device", "first"), shards=("shard", "size"), items=("items", "sum"), seconds=("seconds", "sum")
    )
    sums = sums.reset_index().assign(run=label)
    return sums.assign(items_per_second=sums["items"] / sums["seconds"].where(sums["seconds"] > 0))[WORKER_COLUMNS]


def rate_over_time(label: str, attempts: pd.DataFrame) -> pd.DataFrame:
    """Items per second of each worker in ``_BINS`` equal spans of the busy time.

    Returns the columns run, worker, begin, end and items_per_second. The items of a shard are spread evenly over its
    duration. Time without a running attempt is cut out.
    """
    finished = attempts[attempts["outcome"] == "finished"]
    begin, end = _busy_time(finished, finished["begin"]), _busy_time(finished, finished["end"])
    edges = np.linspace(0, max(float(end.max()), 1e-3), _BINS + 1)
    frames = []
    for worker in sorted(finished["worker"].unique()):
        mine = (finished["worker"] == worker).to_numpy()
        took = np.maximum(end[mine] - begin[mine], 1e-3)
        overlap = np.minimum(end[mine, None], edges[1:]) - np.maximum(begin[mine, None], edges[:-1])
        items = (finished["items"].to_numpy()[mine] / took) @ np.maximum(overlap, 0)
        spans = {"begin": edges[:-1], "end": edges[1:], "items_per_second": items / np.diff(edges)}
        frames.append(pd.DataFrame({"run": label, "worker": worker, **spans}))
    return pd.concat(frames, ignore_index=True)


def _busy_time(attempts: pd.DataFrame, times: pd.Series) -> np.ndarray:
    """Seconds of busy time, in which at least one attempt was running, before each time."""
    spans = _busy_spans(attempts)
    begin, length = spans["begin"].to_numpy(), (spans["end"] - spans["begin"]).to_numpy()
    return np.clip(times.to_numpy()[:, None] - begin, 0, length).sum(axis=1)


def _busy_spans(attempts: pd.DataFrame) -> pd.DataFrame:
    """The union of the attempts as disjoint spans; columns begin and end."""
    ordered = attempts.sort_values(["begin", "end"])
    after_a_gap = ordered["begin"] > ordered["end"].cummax().shift()
    return ordered.groupby(after_a_gap.cumsum()).agg(begin=("begin", "min"), end=("end", "max"))


def _speed(label: str, run: RunFolder, attempts: pd.DataFrame) -> list[object]:
    finished = attempts[attempts["outcome"] == "finished"]
    spans = _busy_spans(finished)
    busy = float((spans["end"] - spans["begin"]).sum())
    items = int(finished["items"].sum())
    spent = attempts.groupby("outcome")["seconds"].sum().reindex(["finished", "again", "failed"], fill_value=0.0)
    ends = attempts.groupby("worker").agg(begin=("begin", "min"), end=("end", "max"))
    worked = max((ends["end"] - ends["begin"]).sum(), spent.sum())
    shares = (spent / worked).tolist()
    devices = ", ".join(sorted({device.partition(":")[0] for device in attempts["device"]} - {""})) or "unknown"
    return [
        *(label, run.stage, devices, attempts["worker"].nunique(), items, UNITS.get(run.stage, "items"), busy),
        *(items / busy if busy else float("nan"), items / spent["finished"] if spent["finished"] else float("nan")),
        *(worked, *shares, 1 - sum(shares)),
    ]


def _shown(speeds: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for line in speeds.to_dict("records"):
        shares = [f"{100 * line[name]:.0f} %" for name in ("computing", "again", "failed", "between")]
        rates = [f"{_number(line['items_per_second'])} {line['unit']}/s", _number(line["items_per_worker_second"])]
        who = f"{line['workers']} x {line['device']}"
        lines.append(
            [line["run"], line["stage"], who, f"{line['items']:,}", _number(line["busy_seconds"]), *rates, *shares]
        )
    heads = ["run", "stage", "workers", "items", "seconds", "speed", "a worker"]
    return pd.DataFrame(lines, columns=[*heads, "computing", "again", "failed", "between"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _draw(rates: pd.DataFrame, label: str, figure: Figure) -> None:
    longest = float(rates["end"].max())
    unit, seconds = next(choice for choice in _TIME_UNITS if longest <= choice[2])[:2]
    for axes, of_run in panels(figure, rates, "run", share_y=False):
        _draw_run(axes, of_run, seconds)
    label_figure(figure, f"busy time ({unit})", label)


def _draw_run(axes: Axes, rates: pd.DataFrame, seconds: float) -> None:
    """Draw the workers as a stack; those after the sixth are grey."""
    table = rates.pivot_table(index="begin", columns="worker", values="items_per_second")
    edges = np.append(table.index.to_numpy(), rates["end"].max()) / seconds
    base = np.zeros(len(table))
    for number, worker in enumerate(table.columns):
        colour = COLOURS[number] if number < _WORKERS_SHOWN else "#999999"
        axes.stairs(base + table[worker], edges, baseline=base, fill=True, color=colour, linewidth=0)
        base = base + table[worker].to_numpy()
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, 1.08 * base.max())
    axes.grid(axis="y")
