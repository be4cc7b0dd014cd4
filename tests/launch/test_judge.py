"""`lens judge` on the command line: the plan with its money, a panel, and what is said about what is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launch.judge import main, one_panel
from launch.verify import main as verify
from storage_layouts.runs import RunFolder
from tests.judge_runs import KEY, prices
from tests.judge_server import JudgeServer
from tests.synthetic_run import make_results


def test_several_judges_are_one_panel() -> None:
    assert one_panel(["--judge", "a", "--out", "x", "--judge=b"]) == ["--out", "x", "--judge", "a,b"]
    assert one_panel(["--out", "x"]) == ["--out", "x"]


def test_plan_run_and_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = make_results(tmp_path / "analyzed")
    flags = ["--results", str(results.path), "--out", str(tmp_path / "run"), "--prices", str(prices(tmp_path))]
    flags += ["--judge", "openai:judge-1", "--judge", "openai:judge-2", "--patches", "4", "--workers", "1"]
    flags += ["--image-side", "64", "--crop-side", "32", "--max-output-tokens", "400"]
    models = ("judge-1", "judge-2")
    with JudgeServer(lambda text, urls: ["circle"], {"refusal": 0.3}, models=models, key=KEY) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        assert main([*flags, "--plan"]) == 0
        told = capsys.readouterr().out
        calls = [int(found) for found in re.findall(r"(\d+) calls", told)]
        assert len(calls) == 2
        assert 30 < calls[0] == calls[1] <= 45  # lenses that say the same at two layers share a call
        assert f"images {calls[0] * 2 * (85 + 4 * 170):,}" in told
        assert "made up for the tests" in told
        assert server.arrivals == []
        assert not (tmp_path / "run").exists()
        assert main(flags) == 2
        assert "expected --max-cost DOLLARS" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()
        assert main([*flags, "--max-cost", "2"]) == 0
        words = capsys.readouterr().err
        assert f"judge: openai:judge-1: {refused(tmp_path, 'openai:judge-1')} refused of 45 verdicts, " in words
        assert re.search(r"1 shard\b.*; \$0\.\d{4} spent, \$0\.0000 reserved, \$1\.\d{4} left: ", words)
        asked = len(server.arrivals)
        assert asked == sum(calls)
        assert main([*flags, "--max-cost", "3"]) == 0  # the limit is no part of what the run is
        assert len(server.arrivals) == asked
    assert verify([str(tmp_path / "run")]) == 0
    assert KEY not in told + words


def refused(folder: Path, judge: str) -> int:
    receipts = RunFolder.open(folder / "run").receipts()
    return sum(receipt.facts["outcomes"][judge]["refused"] for receipt in receipts)
