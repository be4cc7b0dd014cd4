"""Speed from the worker logs, losses from the files of train runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lenscore.reports.speeds import rate_over_time, read_attempts, speed_section
from lenscore.reports.training_curves import training_section
from lenscore.statistics.sources import read_sources
from storage_layouts.errors import CorruptError
from storage_layouts.files import write_json
from storage_layouts.runs import Receipt, RunFolder


def write_worker_log(run: RunFolder, worker: str, lines: list[tuple[str, int, float, float]]) -> None:
    """A worker log of (event, shard, seconds, end)."""
    (run.path / "attempts").mkdir(exist_ok=True)
    told = [
        {"event": event, "shard": shard, "seconds": seconds, "time": end, "worker": worker, "device": "cuda:1"}
        for event, shard, seconds, end in lines
    ]
    (run.path / f"attempts/{worker}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Five shards of ten items: two workers, a failure, a shard done twice, and a night between two of them."""
    made = RunFolder.create(tmp_path / "olmo/store.zarr", "extract", {}, {})
    made.write_plan(50, 10, {}, {})
    write_worker_log(
        made, "b", [("finished", 1, 4.0, 1005.0), ("failed", 3, 1.0, 1006.0), ("finished", 0, 2.0, 1008.0)]
    )
    night = 40_000.0
    write_worker_log(made, "a", [("finished", 0, 5.0, 1005.0), ("finished", 2, 5.0, 1010.0)])
    write_worker_log(
        made, "c", [("finished", 3, 5.0, night + 5), ("finished", 4, 5.0, night + 11), ("refused", 0, 1.0, night)]
    )
    return made


def test_items_a_second_are_those_of_the_worker_logs(run: RunFolder) -> None:
    section = speed_section(read_sources([run.path]))
    line = section.tables[0].frame.iloc[0]
    # Busy from 1000 to 1010, and five seconds twice in the morning; shard 0 was done twice and counts once.
    assert (line["items"], line["workers"], line["unit"]) == (50, 3, "rows")
    assert (line["busy_seconds"], line["items_per_second"]) == (pytest.approx(20), pytest.approx(2.5))
    # Worker a from 1000 to 1010, b from 1001 to 1008, c the eleven seconds of the morning.
    assert line["worker_seconds"] == pytest.approx(28)
    shares = [line[name] * 28 for name in ("computing", "again", "failed", "between")]
    assert shares == pytest.approx([24, 2, 1, 1])
    workers = section.tables[1].frame.set_index("worker")
    assert workers["items"].to_dict() == {1: 20, 2: 20, 3: 20}
    assert workers["items_per_second"].tolist() == pytest.approx([2, 20 / 6, 2])
    assert section.brief[0].shown["speed"].tolist() == ["2.5 rows/s"]


def test_the_curve_holds_every_item_once(run: RunFolder) -> None:
    rates = rate_over_time("x", read_attempts(run))
    assert rates["end"].max() == pytest.approx(20)
    items = rates["items_per_second"] * (rates["end"] - rates["begin"])
    assert items.groupby(rates["worker"]).sum().tolist() == pytest.approx([20, 10, 20])
    early = rates[(rates["worker"] == 1) & (rates["end"] <= 10)]
    assert early["items_per_second"].to_numpy() == pytest.approx(2)


def test_runs_without_worker_logs_are_named(judged) -> None:
    section = speed_section(read_sources([judged[1]]))
    assert "No worker logs: made/vlm, analyze." in section.text
    assert section.tables[0].frame["stage"].tolist() == ["judge"]


@pytest.fixture
def trainings(tmp_path: Path) -> list[RunFolder]:
    runs = []
    for seed, connector, spans in ((1, "linear", 3), (2, "swiglu", 3), (2, "$mlp_<b>", 1)):
        config = {"steps": 300, "seed": seed, "connector": connector, "llm": "allenai/OLMo", "data": f"d{seed}"}
        run = RunFolder.create(tmp_path / f"olmo-{connector}", "train", config, {})
        run.write_plan(300, 100, {}, {})
        for span in range(spans):
            steps = np.arange(100 * span, 100 * span + 100)
            loss = 2 + seed / 10 + 5 * np.exp(-steps / 50) + np.random.default_rng([seed, span]).normal(0, 0.3, 100)
            columns = {"step": steps.tolist(), "loss": loss.tolist(), "tokens": [7] * 100}
            columns |= {"gradient_norm": [1.0] * 100, "learning_rate": [0.1] * 100}
            name = f"losses/{span:05d}.json"
            run.write_receipt(Receipt(span, 100, {name: write_json(run.path / name, columns)}, {}))
        runs.append(run)
    return runs


def test_losses_of_all_train_runs_are_in_one_figure(trainings: list[RunFolder]) -> None:
    section = training_section(read_sources([run.path for run in trainings]))
    (table,), (plot,) = section.tables, section.plots
    assert table.frame["run"].tolist() == ["olmo-linear", "olmo-swiglu", "olmo-$mlp_<b>"]
    assert table.frame["steps"].tolist() == [300, 300, 100]
    assert table.frame["tokens"].tolist() == [2100, 2100, 700]
    # What tells them apart, and nothing else.
    assert list(table.frame.columns[7:]) == ["connector", "seed"]
    for run, line in zip(trainings, table.frame.itertuples(), strict=True):
        files = sorted((run.path / "losses").glob("*.json"))
        losses = pd.concat([pd.DataFrame(json.loads(path.read_bytes())) for path in files], ignore_index=True)["loss"]
        assert (line.first_loss, line.last_loss) == (losses.iloc[0], pytest.approx(losses.tail(50).median()))
        smooth = losses.rolling(50, min_periods=1, center=True).median()
        drawn = plot.data[plot.data["run"] == line.run]
        assert drawn["smoothed"].to_numpy()[25:] == pytest.approx(smooth.to_numpy()[25:])
        # Before, as many steps on both sides.
        first = [np.median(losses[: 2 * step + 1]) for step in range(25)]
        assert drawn["smoothed"].to_numpy()[:25] == pytest.approx(first)
        assert line.lowest_loss == pytest.approx(smooth.min())
    assert "Not finished: olmo-$mlp\\_‹b›." in section.text or "Not finished: olmo-$mlp_‹b›." in section.text


def test_changed_losses_are_loud(trainings: list[RunFolder]) -> None:
    (trainings[0].path / "losses/00001.json").write_text("{}")
    with pytest.raises(CorruptError):
        training_section(read_sources([trainings[0].path]))
