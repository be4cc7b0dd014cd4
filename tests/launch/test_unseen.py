"""`lens unseen` from a run to tables, as a user types it, beside plain computations; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics

from jobs.analyze_job import AnalyzeJob
from jobs.extract_job import ExtractJob
from launch import cli
from launch.unseen import _interval
from lenscore import shapes
from lenscore.judging.patches import readable_images
from lenscore.models.loading import load_vlm
from lenscore.shapes.grammar import PROMPT
from lenscore.unseen_nouns.answers import model_answers
from lenscore.unseen_nouns.asked_evidence import asked_evidence
from lenscore.unseen_nouns.curve_figure import curve_plot
from lenscore.unseen_nouns.evidence import kept_evidence
from lenscore.unseen_nouns.noun_lists import Nouns
from storage_layouts.files import json_bytes, read_json
from storage_layouts.results import LensResults
from tests.jobs.test_analyze import complete
from tests.lenscore.reports.test_legible import assert_legible
from tests.synthetic_run import make_results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Thirty pictures, on some of whose patches LatentLens knows the noun."""
    return make_results(tmp_path_factory.mktemp("made"), images=30, unreadable=False)


@pytest.fixture(scope="module")
def answers(run, tmp_path_factory):
    """For each picture all nouns that it has, and one that it may not have."""
    lines = []
    for image in run.images().to_pylist():
        own = [item.noun for item in shapes.read_scene(image["path"]).objects]
        lines.append({"image": image["path"], "text": f"a {' and a '.join(own)}. Behind them is a key"})
    table = tmp_path_factory.mktemp("answers") / "answers.csv"
    pd.DataFrame(lines).to_csv(table, index=False)
    return table


def unseen(run, *flags: object) -> int:
    return cli.main(["unseen", "--results", str(run.path), *map(str, flags)])


def test_scores_are_calibrated_on_other_images_and_measured(capsys, tmp_path, run, answers):
    flags = ["--answers", answers, "--nouns", "shapes", "--truth", "shapes", "--swapped", "random"]
    assert unseen(run, *flags, "--out", tmp_path / "a") == 0
    out = capsys.readouterr().out
    assert "texts: 30 answers of " in out
    assert "probabilities: each by a calibration on the images of the other 4 of 5 folds" in out
    nouns = pd.read_csv(tmp_path / "a" / "nouns.csv")
    assert set(nouns["source"]) == {"text", "random"}
    for line in nouns.to_dict("records"):
        own = {item.noun for item in shapes.read_scene(line["image"]).objects}
        assert line["in_image"] == ("yes" if line["noun"] in own else "no")
    assert nouns[["score", "probability"]].stack().between(0, 1).all()
    assert (nouns["score"][nouns["lens"].isna()] == 1).all()
    assert nouns["sentence"].dropna()[nouns["noun"] == "key"].str.endswith("Behind them is a [key]").any()
    assert_legible(curve_plot(pd.read_csv(tmp_path / "a" / "curve.csv"), run.lenses, 0.5))
    assert all((tmp_path / "a" / f"curve.{ending}").stat().st_size > 1000 for ending in ("png", "svg", "pdf"))
    measured = pd.read_csv(tmp_path / "a" / "detectors.csv")
    of_all = measured[measured["of"] == "all nouns"].set_index("detector")
    absent = nouns["in_image"] == "no"
    for detector, column in (("all lenses, calibrated", "probability"), ("all lenses, not calibrated", "score")):
        line = of_all.loc[detector]
        assert line["auroc"] == pytest.approx(metrics.roc_auc_score(absent, nouns[column]), abs=1e-4)
        expected = metrics.average_precision_score(absent, nouns[column])
        assert line["average_precision"] == pytest.approx(expected, abs=1e-4)
        assert line["auroc_low"] < line["auroc"] < line["auroc_high"]
    line, said_absent = of_all.loc["all lenses, calibrated"], nouns["probability"] >= 0.5
    assert line["precision"] == pytest.approx(metrics.precision_score(absent, said_absent), abs=1e-6)
    assert line["brier"] == pytest.approx(metrics.brier_score_loss(absent, nouns["probability"]), abs=1e-6)
    assert (of_all["absent"] == (nouns["in_image"] == "no").sum()).all()
    assert set(measured["of"]) == {"all nouns", "nouns of the texts"}
    said = nouns[nouns["lens"].notna()]
    assert of_all.loc["no patch says it (3 words a lens)", "recall"] == pytest.approx(
        1 - (said["in_image"] == "no").sum() / (nouns["in_image"] == "no").sum(), abs=1e-6
    )
    # The same bytes again.
    assert unseen(run, *flags, "--out", tmp_path / "b") == 0
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_calibration_is_applied_to_other_images_alone(capsys, tmp_path, run, answers):
    flags = ["--answers", answers, "--nouns", "shapes"]
    assert unseen(run, *flags, "--out", tmp_path / "plain") == 0
    assert "not calibrated: the score is 1 - the mean evidence" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "plain" / "nouns.csv")["probability"].isna().all()
    few = tmp_path / "few.csv"
    table = pd.read_csv(answers)
    table[:15].to_csv(few, index=False)
    truth = ["--nouns", "shapes", "--truth", "shapes"]
    assert unseen(run, "--answers", few, *truth, "--swapped", "popular", "--out", tmp_path / "few") == 0
    file = tmp_path / "few" / "calibration.json"
    capsys.readouterr()
    assert unseen(run, *flags, "--truth", "shapes", "--calibration", file, "--out", tmp_path / "all") == 0
    assert (
        "not measured and without probability: 15 images that the calibration was fitted on" in capsys.readouterr().out
    )
    assert (pd.read_csv(tmp_path / "all" / "detectors.csv")["images"] == 15).all()
    fitted, nouns = json.loads(file.read_text()), pd.read_csv(tmp_path / "all" / "nouns.csv")
    assert (nouns["probability"].isna() == nouns["image"].isin(pd.read_csv(few)["image"])).all()
    unsaid = nouns[nouns["lens"].isna() & nouns["probability"].notna()]
    assert len(unsaid)
    assert unsaid["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-fitted["bias"])), abs=1e-6)
    assert unseen(run, *flags, "--lenses", "latent", "--calibration", file, "--out", tmp_path / "x") == 2
    assert f"--calibration {file}: is of latent@0" in capsys.readouterr().err


def test_a_calibration_is_of_one_store_and_list_and_complete(capsys, tmp_path, run, answers):
    flags, out = ["--answers", answers, "--truth", "shapes", "--swapped", "random"], tmp_path / "out"
    nouns = tmp_path / "nouns.txt"
    nouns.write_text("\n".join(Nouns.of("shapes").forms))
    assert unseen(run, *flags, "--nouns", nouns, "--out", out) == 0
    file, others = out / "calibration.json", tmp_path / "others.json"
    # A list with the same nouns fits, one with others at the same path does not.
    copy = tmp_path / "copy.txt"
    copy.write_text(nouns.read_text())
    assert unseen(run, *flags, "--nouns", copy, "--calibration", file, "--out", tmp_path / "second") == 0
    capsys.readouterr()

    def refused(file: Path) -> str:
        assert unseen(run, *flags, "--nouns", nouns, "--calibration", file, "--out", tmp_path / "second") == 2
        (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return message

    fields = read_json(file)
    for changed, message in (
        ({"of": fields["of"] | {"store": "another"}}, "store is 'another', but "),
        ({"weights": fields["weights"][1:]}, "has 8 weights of 9 features"),
        ({"format": 1}, "has the format 1, expected 2"),
    ):
        others.write_bytes(json_bytes(fields | changed))
        assert message in refused(others)
    assert "run.json: is no calibration (it has no 'features')" in refused(run.path / "run.json")
    with nouns.open("a") as more:
        more.write("\nzebra")
    assert ": nouns is '" in refused(file)


def test_files_of_an_earlier_command_do_not_stay(capsys, tmp_path, run, answers):
    flags, out = ["--answers", answers, "--nouns", "shapes", "--out", tmp_path], {"nouns.csv", "calibration.json"}
    assert unseen(run, *flags, "--truth", "shapes") == 0
    (tmp_path / "notes.txt").write_text("mine")
    measured = {path.name for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert unseen(run, *flags, "--calibration", tmp_path / "calibration.json") == 0
    assert {path.name for path in tmp_path.iterdir()} == out | {"notes.txt"}
    assert "removed: detectors.csv, reliability.csv, curve.png" in capsys.readouterr().out
    assert unseen(run, *flags, "--truth", "shapes") == 0
    assert {path.name for path in tmp_path.iterdir()} == measured
    assert "removed" not in capsys.readouterr().out


def test_nouns_that_no_lens_can_say_are_left_out_and_named(capsys, tmp_path, run):
    first, second = run.images().to_pylist()[:2]
    lines = [{"path": first["path"], "word": "hot dog"}, {"path": second["path"], "word": "dog"}]
    pd.DataFrame(lines).assign(x0=0, y0=0, x1=1, y1=1).to_csv(tmp_path / "truth.csv", index=False)
    texts = [first["path"], "a hot dog and a cup"], [second["path"], "a dog's bowl"]
    pd.DataFrame(texts, columns=["image", "text"]).to_csv(tmp_path / "texts.csv", index=False)
    flags = ["--answers", tmp_path / "texts.csv", "--truth", tmp_path / "truth.csv", "--out", tmp_path / "out"]
    assert unseen(run, *flags) == 0
    assert "left out: 1 noun without a name of a single word, which no lens says: hot dog;" in capsys.readouterr().out
    nouns = pd.read_csv(tmp_path / "out" / "nouns.csv")
    pd.DataFrame(texts[:1], columns=["image", "text"]).replace(" and a cup", "", regex=True).to_csv(
        flags[1], index=False
    )
    assert unseen(run, *flags) == 2
    assert "that has a name of a single word (no lens says 'hot dog')" in capsys.readouterr().err
    assert nouns[["noun", "in_image"]].fillna("").to_numpy().tolist() == [["cup", ""], ["dog", "yes"], ["bowl", ""]]


def test_an_interval_that_is_not_defined_is_not_printed():
    assert _interval({"auroc": 0.5, "auroc_low": np.nan, "auroc_high": np.nan}, "auroc") == "0.50"
    assert _interval({"auroc": 0.5, "auroc_low": 0.25, "auroc_high": 0.75}, "auroc") == "0.50 (0.25 to 0.75)"


def test_exact_ranks_are_those_that_the_run_keeps(tmp_path):
    model, folder = str(shapes.model_path()), tmp_path / "images"
    shapes.write_images(folder, "test", 3)
    corpus = (shapes.corpus_path(),)
    complete(ExtractJob(model, corpus, tmp_path / "s.zarr", layers="1,4", limit=300, per_token=4))
    complete(
        AnalyzeJob(
            model,
            folder,
            tmp_path / "run",
            store=tmp_path / "s.zarr",
            layers="2,final",
            prompt=PROMPT,
            tokens="all",
            self_test=False,
            max_new_tokens=12,
        )
    )
    results = LensResults.open(tmp_path / "run")
    nouns = Nouns({**Nouns.of("shapes").forms, "harlequin duck": frozenset({"harlequin duck"})})
    images = {image.image_id: image for image in readable_images(results.images(), results.geometry())}
    said = {image_id: list(nouns.forms) for image_id in images}
    kept = dict(kept_evidence(results, nouns, said))
    exact = dict(asked_evidence(results, nouns, said, images, "cpu", False, lambda text: None))
    seen = same = 0
    for image_id, noun in ((one, noun) for one in said for noun in said[one]):
        one, other = kept[image_id][noun], exact[image_id][noun]
        near = np.where(other.ranks <= results.top_k, other.ranks, 0)
        assert (one.ranks == near).all()
        assert (one.patches == other.patches).all()
        assert (one.places[near > 0] == other.places[near > 0]).all()
        seen += (near > 0).sum()
        assert np.isnan([one.probability, other.probability]).all() == (noun == "harlequin duck")
        if noun == "harlequin duck":
            continue
        assert one.probability <= other.probability * (1 + 1e-4)
        same += one.probability == pytest.approx(other.probability, rel=1e-4)
    assert seen > 20
    assert same > 5
    # Each image is asked for its own nouns alone, and words without a row are told.
    few = {image_id: ["moon", list(nouns.forms)[image_id]] for image_id in images}
    again = dict(asked_evidence(results, nouns, few, images, "cpu", False, lambda text: None))
    for image_id, noun in ((one, noun) for one in few for noun in few[one]):
        one, other = again[image_id][noun], exact[image_id][noun]
        assert (one.ranks == other.ranks).all()
        assert one.probability == pytest.approx(other.probability, rel=1e-4, nan_ok=True)
    alone, told = LensResults.open(results.path), list[str]()
    alone.leave_out("logit", "embedding")
    lacking = Nouns({"moon": nouns.forms["moon"], "thing": frozenset({"thing"}), "said": frozenset({"qqq"})})
    asked = {0: ["moon", "thing", "said"]}
    found = dict(asked_evidence(alone, lacking, asked, images, "cpu", False, told.append))
    assert (found[0]["moon"].ranks == exact[0]["moon"].ranks[:1]).all()
    assert not found[0]["thing"].ranks.any()
    assert [line for line in told if "left out" in line]
    # The answers are those of the model, and so are their probabilities.
    vlm = load_vlm(model, dtype=torch.float32)
    first, *_ = model_answers(results, vlm.tokenizer)
    tokens = results.texts([0]).to_pandas().sort_values(["row", "col"])
    ids, views = tokens["token_id"].to_numpy(), tokens["view"].to_numpy()
    answer = [int(one) for one in ids[views == -2] if one not in vlm.tokenizer.all_special_ids]
    # It was cut at --max-new-tokens, so its last word may be half of one.
    assert len(answer) == 12
    whole = vlm.tokenizer.decode(answer)
    assert first.text == whole[: whole.rindex(" ") + 1]
    assert len(first.ends) == len(answer)
    assert first.ends[-1] == len(whole)
    assert ((first.chances > 0) & (first.chances <= 1)).all()


def test_mistakes_are_one_line(capsys, tmp_path, run, answers):
    def refused(*flags: object) -> str:
        assert unseen(run, *flags, "--out", tmp_path / "out") == 2
        (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert not (tmp_path / "out").exists()
        return message

    assert "--swapped random: needs --truth" in refused("--swapped", "random")
    assert "lens analyze --tokens all keeps them" in refused("--answers", "generated")
    assert "--lenses tuned: " in refused("--lenses", "tuned")
    assert "no text says one of the 20 nouns" in refused("--answers", "captions", "--nouns", "shapes")
    assert "gone.txt: no such file; expected common, shapes, real" in refused("--nouns", tmp_path / "gone.txt")
    texts = tmp_path / "generations.txt"
    texts.write_text("a dog")
    assert "generations.txt: names no image of its texts; expected a table" in refused("--answers", texts)
    assert "captoins: no such file; expected auto, generated, captions" in refused("--answers", "captoins")
    assert "--device cuda: needs --exact" in refused("--device", "cuda")
    nothing = tmp_path / "nothing.json"
    assert "no such file; expected calibration.json" in refused(
        "--answers", answers, "--nouns", "shapes", "--calibration", nothing
    )
