from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from jobs.judge_job import JudgeJob
from jobs.work import work
from lenscore.readings.words import whole_word
from lenscore.shapes import patch_truth, read_scene
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts

PLACE = ["image_id", "view", "row", "col"]


def judged(job: JudgeJob) -> RunFolder:
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert work(run, lambda: job.open_worker(run, "cpu"), "worker").exit_code == 0
    return run


def spelled(results: LensResults) -> pd.DataFrame:
    """Every line of the results with its words, found without the package's own reader of words."""
    store, tokens = results.store(), results.token_words()
    rows = store.row_table().to_pandas().merge(store.sentences().to_pandas(), on="sentence_id").sort_values("row")
    words = [whole_word(*key) for key in zip(rows["text"], rows["char_start"], rows["char_end"], strict=True)]
    table = results.results().to_pandas()
    table["words"] = [
        [words[i] if lens == "latent" else tokens[i].strip() for i in ids]
        for lens, ids in zip(table["lens"], table["ids"], strict=True)
    ]
    return table


@pytest.fixture(scope="module")
def run(synthetic_results: LensResults, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return judged(JudgeJob(synthetic_results.path, tmp_path_factory.mktemp("judge") / "run", patches=70))


def test_verdicts_equal_a_recomputation(run: RunFolder, synthetic_results: LensResults) -> None:
    verdicts = read_verdicts(run)
    own = verdicts[verdicts["control"] == ""].merge(spelled(synthetic_results), on=[*PLACE, "layer", "lens"])
    assert len(own) == 70 * 9
    assert [list(words) for words in own["candidates"]] == [list(filter(None, words)) for words in own["words"]]
    paths = synthetic_results.images()["path"].to_pylist()
    for line in own.itertuples():
        box = (line.col / 8, line.row / 8, (line.col + 1) / 8, (line.row + 1) / 8)
        truth = patch_truth(read_scene(paths[line.image_id]), box)
        assert truth.kind == "object"
        assert truth.share >= 0.5
        right = [word for word in line.words if word.lower() in truth.aspects["noun"]]
        assert line.outcome == ("yes" if right else "no")
        assert set(line.fitting) == set(right)
    assert own["outcome"].eq("yes").sum() > 50


def test_every_lens_and_layer_judges_the_same_patches_beside_both_controls(run: RunFolder) -> None:
    verdicts = read_verdicts(run)
    groups = verdicts.groupby(["layer", "lens", "control"])
    places = {frozenset(group[PLACE].itertuples(index=False, name=None)) for _, group in groups}
    assert len(groups) == 27
    assert len(places) == 1
    assert len(places.pop()) == 70


def test_other_patch_words_come_from_another_image(run: RunFolder, synthetic_results: LensResults) -> None:
    verdicts = read_verdicts(run)
    own, others = (said_by_place(verdicts[verdicts["control"] == control]) for control in ("", "other-patch"))
    places = {words: place for place, words in own.items()}
    assert len(places) == len(own) == len(others) == 70
    assert all(places[words][0] != place[0] for place, words in others.items())


def said_by_place(verdicts: pd.DataFrame) -> dict[tuple, tuple]:
    """What all lenses said at all layers of a patch."""
    ordered = verdicts.sort_values(["layer", "lens"], kind="stable")
    return {place: tuple(group["candidates"]) for place, group in ordered.groupby(PLACE)}


def test_verdicts_do_not_depend_on_the_shards_or_a_restart(
    run: RunFolder, synthetic_results: LensResults, tmp_path: Path
) -> None:
    job = JudgeJob(synthetic_results.path, tmp_path / "small", patches=70, items_per_shard=9)
    small = job.open_run()
    job.plan(small, lambda message: None)
    for shard in reversed(small.missing()):  # a fresh worker for each, from behind
        small.write_receipt(job.open_worker(small, "cpu").run(shard))
    again = judged(job)
    pd.testing.assert_frame_equal(read_verdicts(again), read_verdicts(run))
    before = {path: path.read_bytes() for path in (small.path / "verdicts").iterdir()}
    for path in [*(small.path / "receipts").iterdir(), small.path / "plan.json"]:
        path.unlink()
    judged(job)
    assert before == {path: path.read_bytes() for path in (small.path / "verdicts").iterdir()}
    assert len(before) == 8


def test_fewer_words_can_be_judged(run: RunFolder, synthetic_results: LensResults, tmp_path: Path) -> None:
    best = read_verdicts(judged(JudgeJob(synthetic_results.path, tmp_path / "best", patches=70, top_k=1)))
    assert best["candidates"].map(len).max() == 1
    pairs = zip(read_verdicts(run)["candidates"], best["candidates"], best["control"], strict=True)
    # A best token of nothing but blanks is no word: then nothing is judged.
    assert all(one in ((), words[:1]) for words, one, control in pairs if control != "random-words")


def test_wrong_requests_are_one_clear_line(synthetic_results: LensResults, tmp_path: Path) -> None:
    path, out = synthetic_results.path, tmp_path / "run"
    for wrong, message in (
        ({"judge": "gpt"}, "--judge gpt: no such judge"),
        ({"patches": 0}, "--patches: found 0"),
        ({"top_k": 4}, "--top-k: found 4, expected 1 to 3"),
        ({"results": tmp_path / "nothing"}, "not a run folder"),
    ):
        with pytest.raises(InputError, match=message):
            judged(JudgeJob(**{"results": path, "out": out} | wrong))
    judged(JudgeJob(path, out, patches=2))
    with pytest.raises(InputError, match="belongs to another run"):
        judged(JudgeJob(path, out, patches=3))
