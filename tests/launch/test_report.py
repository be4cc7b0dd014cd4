"""`lens report` with everything that a user may bring: lists of words, published rates, runs of other stages."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from launch.report import main
from storage_layouts.verdicts import Verdict
from tests import synthetic_run

HOSTILE = "</script><script>alert(3)</script>$\\frac{|x\u202e😀"


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a hostile name, judged by somebody who tells kinds apart."""
    folder = tmp_path_factory.mktemp("runs")
    results = synthetic_run.make_results(folder, images=2, model=HOSTILE)
    results = synthetic_run.with_cosines(synthetic_run.with_norms(results, set()))
    reply = json.dumps({"reasoning": "", "concrete_words": [HOSTILE], "abstract_words": [], "global_words": []})
    said = [
        Verdict(
            image, 0, 0, 0, layer, lens, control, (HOSTILE, "cat"), "yes" if image else "no", reply=reply, judge="j"
        )
        for image in range(2)
        for layer in results.layers
        for lens in results.lenses
        for control in ("", "other-patch")
    ]
    return synthetic_run.judge_run(folder / "judge", results, said)


def test_everything_at_once_and_hostile_names_change_nothing(verdicts: Path, tmp_path: Path) -> None:
    (tmp_path / "n <b>.csv").write_text("word,Conc.M\nstar,5\nheart,4\n")
    rate = {"model": HOSTILE, "lens": "latent", "layer": 2, "top_k": 3, "rate": 0.5, "n": 10, "source": HOSTILE}
    table = {"title": HOSTILE, "sources": {HOSTILE: HOSTILE}, "models": {HOSTILE: {"ours": [HOSTILE]}}, "rates": [rate]}
    (tmp_path / "t.json").write_text(json.dumps(table))
    flags = ["--compare", str(tmp_path / "t.json"), "--concreteness", str(tmp_path / "n <b>.csv")]
    out = tmp_path / "out"
    assert main([str(verdicts), str(tmp_path.parent), "--out", str(out)]) == 2  # a folder that is no run
    assert main([str(verdicts), "--out", str(out), *flags]) == 0
    text, details = ((out / name).read_text() for name in ("report.md", "details.md"))
    assert "## Comparison with published rates\n" in text
    for heading in ("Words over layers", "How the words fit", "States of visual tokens"):
        assert f"## {heading}\n" in details
        assert heading in text
    assert "<" not in text + details
    assert "n ‹b›.csv" in details
    found = pd.read_csv(out / "tables/comparison.csv")
    assert found["published_model"].unique().tolist() == [HOSTILE.replace("\u202e", r"\u202e")]
    for path in (out / "tables").glob("*.tex"):
        assert "$\\frac" not in path.read_text().replace("\\$", "")
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert main([str(verdicts), "--out", str(out), *flags]) == 0
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-images", "-1"], "--max-images: found -1, expected at least 1"),
        (["--compare", "/nowhere/t.json"], "--compare /nowhere/t.json: no such file"),
        (["--concreteness", "/nowhere/n.csv"], "--concreteness /nowhere/n.csv: no such file; the norms are"),
        (["--parts-of-speech", "/nowhere/p.csv"], "--parts-of-speech /nowhere/p.csv: no such file"),
        (["--attributes", "/nowhere/a.csv"], "--attributes /nowhere/a.csv: no such file"),
    ],
)
def test_a_wrong_flag_is_one_line(
    verdicts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main([str(verdicts), "--out", str(tmp_path / "out"), *flags]) == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())
    assert "Traceback" not in said.out + said.err
    assert not (tmp_path / "out").exists()
