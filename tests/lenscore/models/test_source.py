"""Models by folder, file and Hub name: each failure has its reason; a Hub model can be pinned to a revision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenscore import shapes
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.loading import load_model, load_vlm
from storage_layouts.errors import InputError
from tests.conftest import make_llama, make_tokenizer
from tests.training_parts import save_encoder, save_llm

HOUSE = Path(__file__).parents[3]
GGUF = "expected the checkpoint that it was made from (config.json and safetensors): its folder or Hub name"

PINNED = """
import json, os, sys
from dataclasses import replace
from pathlib import Path
from tests.fake_hub import fake_hub
work = Path(sys.argv[1])
with fake_hub() as hub:
    os.environ["HF_ENDPOINT"] = hub.address
    from jobs.extract_job import ExtractJob
    from lenscore.models import load_model
    from storage_layouts.errors import InputError
    from storage_layouts.runs import RunFolder
    files = {name: {path.name: path.read_bytes() for path in (work / name).iterdir()} for name in ("old", "new")}
    hub.repositories["me/llm"] = files["new"]
    hub.revisions["me/llm"] = {"v1": files["old"]}
    old, new = hub.commit_of("me/llm", "v1"), hub.commit_of("me/llm")
    said = {}

    def refused(what, action):
        try:
            action()
        except InputError as refusal:
            said[what] = str(refusal)

    def first_weight(revision):
        return float(load_model("me/llm", "cpu", revision=revision)[0].get_input_embeddings().weight[7, 7])

    said["weights"] = [first_weight(revision) for revision in ("v1", old, "main", None)]
    job = ExtractJob("me/llm", (work / "c.txt",), work / "a.zarr", revision="v1")
    run = job.open_run()
    said["recorded"] = [run.config["revision"], run.inputs["model"]["revision"] == old]
    plain = ExtractJob("me/llm", (work / "c.txt",), work / "b.zarr")
    run = plain.open_run()
    said["unnamed"] = ["revision" in run.config, run.inputs["model"]["revision"] == new]
    plain.plan(run, print)
    hub.move_main("me/llm", files["old"])
    plain.open_worker(run, "cpu")  # of the commit that the run began with
    weights = json.loads((work / "b.zarr" / "model.json").read_text())
    refused("moved", replace(plain).open_run)  # another command
    inputs = run.inputs | {"model": run.inputs["model"] | {"revision": None}}  # as before, when it was not found
    earlier = RunFolder.create(work / "e.zarr", "extract", run.config, inputs)
    earlier.settle()
    again = ExtractJob("me/llm", (work / "c.txt",), work / "e.zarr").open_run()
    said["taken up"] = again.run_id == earlier.run_id
    job.plan(RunFolder.open(work / "a.zarr"), print)
    job.open_worker(RunFolder.open(work / "a.zarr"), "cpu")
    said["differ"] = weights != json.loads((work / "a.zarr" / "model.json").read_text())
    refused("no such revision", lambda: load_model("me/llm", "cpu", revision="v9"))
    refused("no such model", lambda: load_model("me/nothing", "cpu"))
    hub.repositories["me/gguf"] = {"model.gguf": b"GGUF"}
    refused("no config", lambda: load_model("me/gguf", "cpu"))
print(json.dumps(said))
"""


TRAINED = """
import io, json, os, sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.fake_hub import fake_hub
work = Path(sys.argv[1])
with fake_hub() as hub:
    os.environ["HF_ENDPOINT"] = hub.address
    from jobs.train_job import TrainJob
    from lenscore.extract.in_memory_index import build_index
    from lenscore.models import load_model
    from storage_layouts.errors import InputError
    from storage_layouts.runs import RunFolder

    def connector(value):
        shapes = {"w1": (40, 16), "w2": (32, 40), "w3": (40, 16)}
        stream = io.BytesIO()
        torch.save({f"{name}.weight": torch.full(shape, value) for name, shape in shapes.items()}, stream)
        return {"olmo/connector.pt": stream.getvalue()}

    def moved(files):  # every weight is another one
        from safetensors.torch import load, save
        tensors = {name: tensor + 1 for name, tensor in load(files["model.safetensors"]).items()}
        return files | {"model.safetensors": save(tensors, {"format": "pt"})}

    parts = {}
    for name in ("llm", "vision"):
        parts[f"me/{name}"] = {path.name: path.read_bytes() for path in (work / name).iterdir()}
    first = parts | {"me/connectors": connector(1.0)}
    then = {name: moved(files) for name, files in parts.items()} | {"me/connectors": connector(2.0)}
    hub.repositories = dict(first)
    commits = [hub.commit_of(name) for name in first]
    job = TrainJob("me/llm", "me/vision", str(work / "data"), work / "run", vit_layers="-1", steps=0,
                   precision="float32", start_from="me/connectors/olmo")
    run = job.open_run()
    job.plan(run, print)
    said = {"pinned": [run.inputs[name]["revision"] for name in ("llm", "vision", "start_from")] == commits}
    said["in config"] = [name for name in run.config if "revision" in name]

    def first_weights(job, run):
        model = job.open_worker(run, "cpu")._trainer.model
        vision = next(model.model.vision_tower.parameters())
        return [round(float(tensor.flatten()[0]), 4) for tensor in
                (model.get_input_embeddings().weight, vision, next(model.connector.parameters()))]

    said["before"] = first_weights(job, run)
    for name, files in then.items():
        hub.move_main(name, files)
    said["after"] = first_weights(job, run)
    new = replace(job, out=work / "new")
    run = new.open_run()
    new.plan(run, print)
    said["new"] = first_weights(new, run)
    tagged = replace(job, out=work / "tagged", start_from_revision=commits[2])
    run = tagged.open_run()
    said["tagged"] = [run.config["start_from_revision"], run.inputs["start_from"]["revision"]] == [commits[2]] * 2
    inputs = {name: found for name, found in new.open_run().inputs.items() if name != "start_from"}
    config = RunFolder.open(work / "new").config
    earlier = RunFolder.create(work / "earlier", "train", config, inputs)  # which recorded no commit of it
    earlier.settle()
    said["taken up"] = replace(job, out=work / "earlier").open_run().run_id == earlier.run_id
    (work / "here.pt").write_bytes(b"")
    try:
        replace(job, out=work / "other", start_from=str(work / "here.pt"), start_from_revision="v1").open_run()
    except InputError as refusal:
        said["here"] = str(refusal)
    indices = [build_index("me/llm", ["a red circle"], [0], 1, device="cpu", show_progress=False, revision=revision)
               for revision in (commits[0], None)]
    said["indices differ"] = not torch.equal(*(next(index.blocks(0)) for index in indices))
print(json.dumps(said))
"""


def in_a_process(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_ENDPOINT")}
    settings = {"PYTHONPATH": str(HOUSE), "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, env=inherited | settings | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_hub_model_is_pinned_recorded_and_compared(tmp_path):
    for name, seed in (("old", 1), ("new", 2)):
        make_llama(seed).save_pretrained(tmp_path / name)
        make_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "c.txt").write_text("the red cat\nthe dog\n")
    done = in_a_process(PINNED, tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    old, commit, main, unnamed = said["weights"]
    assert old == commit != main == unnamed
    assert said["recorded"] == ["v1", True]
    assert said["unnamed"] == [False, True]
    assert said["differ"]
    assert "revision" in said["moved"]
    assert said["taken up"]
    assert said["no such revision"].startswith("--model me/llm: it has no revision 'v9' on the Hub")
    assert said["no such model"].startswith("--model me/nothing: no such model folder, and no such model on the Hub")
    assert said["no config"] == f"--model me/gguf: its repository on the Hub has no config.json; {GGUF}"


@pytest.mark.slow
def test_a_training_goes_on_with_the_commits_that_it_began_with(tmp_path):
    save_llm("llama", tmp_path / "llm")
    save_encoder("clip", tmp_path / "vision")
    shapes.write_images(tmp_path / "data", "train", 2)
    done = in_a_process(TRAINED, tmp_path, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["pinned"]
    assert said["in config"] == []
    assert said["before"] == said["after"]
    assert [new - old for old, new in zip(said["before"], said["new"], strict=True)] == pytest.approx(
        [1, 1, 1], abs=1e-3
    )
    assert said["tagged"]
    assert said["taken up"]
    assert said["here"].startswith("--start-from-revision v1: --start-from ")
    assert said["indices differ"]


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path):
    code = """
import sys
from launch import cli
code = cli.main(sys.argv[1:])
try:
    import lenscore
    lenscore.ContextualIndex.from_pretrained("me/nothing")
except Exception as error:
    print(error, file=sys.stderr)
sys.exit(code)
"""
    for environment, why in (
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub cannot be reached ("),
        ({"HF_HUB_OFFLINE": "1"}, "the Hub is not contacted (HF_HUB_OFFLINE)"),
    ):
        done = in_a_process(code, "models", "--model", "me/nothing", HF_HOME=str(tmp_path), **environment)
        assert done.returncode == 2, done.stderr[-3000:]
        *_, message, of_an_index = done.stderr.splitlines()
        assert message.startswith("error: --model me/nothing: no such model folder, not downloaded before, and ")
        assert why in message
        assert of_an_index.startswith("me/nothing: cannot be downloaded from the Hub (")
        assert "Retrying" not in done.stderr


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (None, "nowhere/at/all", "no such model folder; expected a folder with config.json, or a Hub name"),
        (None, "./nowhere", "no such model folder; expected a folder with config.json, or a Hub name"),
        ("gguf/m-Q4.gguf", "gguf", f"a folder of GGUF files (m-Q4.gguf); {GGUF}"),
        ("m.gguf", "m.gguf", f"a GGUF file; {GGUF}"),
        ("m.safetensors", "m.safetensors", "a file; expected a folder with config.json, or a Hub name"),
        ("empty/notes.txt", "empty", "a folder without config.json; expected a folder with config.json, or a Hub name"),
        ("odd/config.json", "odd", "its config.json cannot be used: "),
    ],
)
def test_what_is_there_is_never_called_missing(make, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if make:
        (tmp_path / make).parent.mkdir(exist_ok=True)
        (tmp_path / make).write_text('{"model_type": "of the future"}')
    for load in (lambda name, **more: Checkpoint(name, **more).config, load_model, load_vlm):
        with pytest.raises(InputError) as refusal:
            load(name)
        assert str(refusal.value).startswith(f"--model {name}: {message}")
        assert "\n" not in str(refusal.value)


def test_a_folder_has_no_revision(tiny_llm_folder):
    with pytest.raises(InputError, match=r"^--revision v1: --model .* is a folder; only models of the Hub have"):
        load_model(tiny_llm_folder, "cpu", revision="v1")


def test_a_torchvision_for_another_torch_is_said_in_one_line(tiny_vlm_folder, tmp_path):
    """As one built for CUDA beside a torch for CPUs: installed, and its import raises."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    (tmp_path / "torchvision-0.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    )
    code = "import sys; from launch import cli; sys.exit(cli.main(sys.argv[1:]))"
    arguments = ("models", "--model", tiny_vlm_folder)
    done = in_a_process(code, *arguments, HF_HUB_OFFLINE="1", PYTHONPATH=f"{HOUSE}{os.pathsep}{tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: torchvision is installed but cannot be imported (operator tor"
    )
    assert "Traceback" not in done.stderr
