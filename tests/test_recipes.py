"""The recipes of CONTRIBUTING.md, each followed in a copy of the project: so many files are touched, and it works."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.verdicts import read_verdicts
from tests.conftest import WORDS
from tests.forked_workers import run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PACKAGES = ("storage_layouts", "lenscore", "jobs", "launch")


class Copy:
    """A copy of the project in which recipes are followed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (*PACKAGES, "tests", "pyproject.toml"):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)

    def follow(self, files: dict[str, str], *entries: tuple[str, str, str]) -> int:
        """Write new files, and put entries into others as `after` says. Returns how many files were touched."""
        for name, text in files.items():
            assert not (self.folder / name).exists()
            (self.folder / name).write_text(text)
        for name, place, entry in entries:
            text = (self.folder / name).read_text()
            assert text.count(place) == 1, f"{name}: {place!r} stands there {text.count(place)} times"
            (self.folder / name).write_text(text.replace(place, place + entry))
        return len({*files, *(name for name, _, _ in entries)})

    def run(self, *command: str, module: str = "launch.cli") -> str:
        """A command of the copy, which must succeed; returns what it said."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        environment.pop("PYTEST_ADDOPTS", None)
        python = [sys.executable, "-m", module, *command]
        done = run(python, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def after(name: str, place: str, entry: str) -> tuple[str, str, str]:
    """An entry in a file, behind what stands there once."""
    return name, place, entry


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


PRODUCT_LENS = '''
"""Which input embedding is longest in the direction of a hidden state? Not its cosine: the product."""

from lenscore.lenses.vocabulary_lens import excluded_tokens, search_vocabulary
import torch


class ProductLens:
    name = "product"
    title = "ProductLens"
    unit = "longest input embedding · dot product"
    needs_store = False
    ids = "tokens"

    def __init__(self, matrix, tokenizer):
        self._matrix = matrix.detach()
        self._excluded = torch.tensor(excluded_tokens(tokenizer, len(matrix)), device=matrix.device)

    @classmethod
    def from_model(cls, vlm, index=None):
        return cls(vlm.model.get_input_embeddings().weight, vlm.tokenizer)

    def top(self, states, layers, k):
        def score(queries, rows):
            return queries @ self._matrix[rows].float().T

        found = search_vocabulary(states.flatten(0, 1).float(), score, self._excluded, len(self._matrix), k, self.name)
        return found.reshape(*states.shape[:2], k)
'''

OPPOSITE_LENS = '''
"""Which word in context gave the language model the state that points away most?"""

from lenscore.index.topk import TopK
from lenscore.lenses.latent import LatentLens


class OppositeLens(LatentLens):
    name = "opposite"

    def top(self, states, layers, k):
        found = super().top(-states, layers, k)
        return TopK(found.ids, -found.scores.flip(-1), found.contextual_layers)
'''

LENGTH_JUDGE = '''
"""A judge that finds long words fitting: length:LETTERS."""

import hashlib
import json
from dataclasses import dataclass

from lenscore.judging.judges.judge_spec import Answer, JudgeSpec, Request


@dataclass(frozen=True)
class LengthSpec(JudgeSpec):
    grammar = "length:LETTERS"

    @classmethod
    def read(cls, spec):
        name, _, letters = spec.partition(":")
        return cls(spec) if name == "length" and letters.isdigit() else None

    def open(self, max_output_tokens, policy, ledger, hold):
        return LengthJudge(int(self.spec.partition(":")[2]))


class LengthJudge:
    def __init__(self, letters):
        self._letters = letters

    def request(self, question, repeat):
        return Request(hashlib.sha256(f"length/{question.sha256}/{repeat}".encode()).hexdigest(), question, repeat)

    def answers(self, requests, progress):
        progress(len(requests), "")
        return {request.key: Answer(self._reply(request.question.candidates)) for request in requests}

    def _reply(self, words):
        fitting = [word for word in words if len(word) >= self._letters]
        return json.dumps({"reasoning": "", "concrete_words": fitting, "abstract_words": [], "global_words": []})
'''

HERE_CLUSTER = '''
"""A cluster of one: the worker is this process."""

from dataclasses import dataclass
from typing import ClassVar

from jobs.worker import run_worker
from launch.clusters.cluster import Cluster


@dataclass(frozen=True)
class Here(Cluster):
    """The command itself computes."""

    name: ClassVar[str] = "here"

    here_loudly: bool = False
    """Say so."""

    def check(self, request):
        """Anything goes."""

    def default_workers(self, request):
        return 1

    def submit(self, run, request, after=()):
        return HereSubmission(run, request, self.here_loudly)


class HereSubmission:
    cancel = ""
    survives = False
    ignored = ()
    label = "this process"

    def __init__(self, run, request, loudly):
        self._run, self._request, self._loudly = run, request, loudly

    def wait(self, watch):
        if self._loudly:
            print("computing here")
        report = run_worker(self._run.path, self._request.options, 0, 1)
        watch()
        assert not report.refused, report.refused
        return []
'''


def test_lenses_a_judge_and_a_cluster_of_ones_own(copy: Copy, tiny_vlm_folder: Path, tmp_path: Path) -> None:
    lenses = "lenscore/lenses/__init__.py"
    touched = copy.follow(
        {"lenscore/lenses/product.py": PRODUCT_LENS},
        after(lenses, "import LogitLens\n", "from lenscore.lenses.product import ProductLens\n"),
        after(lenses, "for lens in (LatentLens, LogitLens, EmbeddingLens", ", ProductLens"),
    )
    assert touched == 2
    touched = copy.follow(
        {"lenscore/lenses/opposite.py": OPPOSITE_LENS},
        after(lenses, "import LogitLens\n", "from lenscore.lenses.opposite import OppositeLens\n"),
        after(lenses, "EmbeddingLens, ProductLens", ", OppositeLens"),
    )
    assert touched == 2
    judges = "lenscore/judging/judges/__init__.py"
    touched = copy.follow(
        {"lenscore/judging/judges/length.py": LENGTH_JUDGE},
        after(judges, "import JudgeSpec\n", "from lenscore.judging.judges.length import LengthSpec\n"),
        after(judges, "CompatibleSpec, ReplaySpec", ", LengthSpec"),
        after("jobs/judge_settings.py", 'judge: str = "truth"\n    """', "length:LETTERS, "),
    )
    assert touched == 3
    clusters, known = "launch/clusters/choice.py", "    ray: RayCluster = field(default_factory=RayCluster)\n"
    touched = copy.follow(
        {"launch/clusters/here.py": HERE_CLUSTER},
        after(clusters, "import Cluster\n", "from launch.clusters.here import Here\n"),
        after(clusters, '["local", "slurm", "ray"', ', "here"'),
        after(clusters, known, "    here: Here = field(default_factory=Here)\n"),
    )
    assert touched == 2

    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 30), (80 * i, 30, 200 - 60 * i)).save(tmp_path / "photos" / f"{i}.png")
    corpus, store, results, judged = (tmp_path / name for name in ("corpus.txt", "store.zarr", "results", "judged"))
    corpus.write_text("\n".join(f"the {a} {b}" for a in WORDS for b in WORDS[:4]))
    model = ["--model", str(tiny_vlm_folder), "--device", "cpu"]
    flags_of_here = ["--cluster", "here", "--here-loudly"]
    said = copy.run("extract", *model, "--corpus", str(corpus), "--out", str(store), "--layers", "1,2", *flags_of_here)
    assert "computing here" in said
    names = "latent,logit,embedding,product,opposite"
    where = ["--images", str(tmp_path / "photos"), "--store", str(store), "--out", str(results)]
    copy.run("analyze", *model, *where, "--lenses", names, "--layers", "0,2", "--cluster", "here")
    assert "complete" in copy.run("status", str(results), str(store))
    assert "0 bad" in copy.run("verify", str(results))
    copy.run("judge", "--results", str(results), "--judge", "length:4", "--out", str(judged), "--patches", "12")
    verdicts = read_verdicts(RunFolder.open(judged))
    assert set(verdicts["lens"]) == set(names.split(","))

    # The words are those of the store's rows, or of the vocabulary, everywhere.
    words = set(EmbeddingStore.open(store).row_table()["token"].to_pylist())
    for lens in ("opposite", "product"):
        of_lens = verdicts[(verdicts["lens"] == lens) & (verdicts["control"] == "")]
        said_words = {word for candidates in of_lens["candidates"] for word in candidates}
        assert said_words <= words | set(WORDS)
        expected = of_lens["candidates"].map(lambda found: "yes" if any(len(w) >= 4 for w in found) else "no")
        assert list(of_lens["outcome"]) == list(expected)
    table = LensResults.open(results)
    assert table.store_lenses == ("latent", "opposite")
    report = tmp_path / "report"
    copy.run("report", str(results), str(judged), "--out", str(report))
    summary = json.loads((report / "report.json").read_text())
    assert [len(run["judges"]) for run in summary["runs"]] == [1]
    text = (report / "report.md").read_text() + (report / "details.md").read_text()
    assert "opposite" in text
    assert "ProductLens" in text
    pages = "".join(path.read_text() for path in report.rglob("*.html"))
    assert "opposite" in pages
    assert "ProductLens" in pages
    (data,) = report.rglob("run.js")
    lenses = json.loads(data.read_text().removeprefix("lenscore.run(").removesuffix(");\n"))["lenses"]
    assert lenses[3:] == [
        {"name": "product", "title": "ProductLens", "unit": "longest input embedding · dot product"},
        {"name": "opposite", "title": "opposite", "unit": "score"},
    ]


VIP_LLAVA_GRIDS = '''
"""VipLLaVA shows its model the image once, behind a class token that its connector keeps out."""

from lenscore.images.geometry.one_view import one_view_grids


def vipllava_grids(image):
    return one_view_grids(image)
'''

VIP_LLAVA_IMPORT = "from tests.family_models.vip_llava import vipllava\n"
VIP_LLAVA_MODEL = '''
"""VipLLaVA: LLaVA with several layers of its vision encoder."""

import transformers as hf
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.family_models.parts import PATCH, SIDE, rows_for, text_config, tokenizer, vision_config


def vipllava():
    words = tokenizer(image_token="<image>")
    config = hf.VipLlavaConfig(
        vision_config=vision_config(hf.CLIPVisionConfig, image_size=SIDE),
        text_config=text_config(hf.LlamaConfig, rows_for(words)),
        image_token_index=words.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layers=[-1, -2],
    )
    images = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_center_crop=True
    )
    processor = hf.LlavaProcessor(
        images, words, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return hf.VipLlavaForConditionalGeneration(config), processor
'''


def test_a_model_family_of_ones_own(copy: Copy, tmp_path: Path) -> None:
    geometry, families = "lenscore/images/geometry/__init__.py", "tests/families.py"
    touched = copy.follow(
        {"lenscore/images/geometry/vipllava.py": VIP_LLAVA_GRIDS, "tests/family_models/vip_llava.py": VIP_LLAVA_MODEL},
        after(geometry, "import unknown_grids\n", "from lenscore.images.geometry.vipllava import vipllava_grids\n"),
        after(geometry, '    "llava": one_view_grids,\n', '    "vipllava": vipllava_grids,\n'),
        after(
            families, "import qwen2_5_vl, qwen2_vl, qwen3_5, qwen3_5_moe, qwen3_vl, qwen3_vl_moe\n", VIP_LLAVA_IMPORT
        ),
        after(families, "    smolvlm,\n    mistral3,\n    pixtral,\n", "    vipllava,\n"),
    )
    assert touched == 4
    tests = ["tests/jobs/test_families.py", "tests/lenscore/images/test_geometry_families.py"]
    said = copy.run(*tests, "-k", "vipllava", "-q", "-p", "no:cacheprovider", module="pytest")
    assert re.search(r"\b[2-9] passed", said)
