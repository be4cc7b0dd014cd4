"""The same scripts run with the original library and with lenscore in its place, with equal output.

The original is downloaded into a folder of its own, for it is a comparison and no dependency. Where pip cannot get it
these tests are skipped, unless CLUSTER_TESTS=require says that nothing may be.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import WORDS
from tests.script_process import ScriptProcess

HOUSE = Path(__file__).parents[2]
SENTENCES = [f"{a} {b} {c}, {d}!" for a in WORDS[:4] for b in WORDS[4:9] for c in WORDS[9:13] for d in WORDS[13:15]]
SENTENCES += ["größer als Ω 😀 und 🚗", "dog dogs doghouse", "the red </s> dog", "a", "", "  the   red\tdog  ", "a red"]
SENTENCES += SENTENCES[:9]

Run = Callable[..., str]


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package latentlens 0.1.0."""
    folder = tmp_path_factory.mktemp("original")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), "latentlens==0.1.0"], capture_output=True, text=True)
    if done.returncode:
        reason = f"pip cannot get latentlens 0.1.0: {done.stderr.strip()[-300:]}"
        if os.environ.get("CLUSTER_TESTS") == "require":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def metaspace_tokenizer() -> Tokenizer:
    """As Llama's: begins with <s>, falls back to bytes, and "dog" and " dog" are two tokens that decode alike."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=specials[:3], initial_alphabet=[])
    tokenizer.train_from_iterator([*SENTENCES[:-20], *(f"x{w}" for w in WORDS)], trainer)
    content = json.loads(tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for byte in specials[3:]:
        vocabulary[byte] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(content))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def byte_level_tokenizer() -> Tokenizer:
    """As Qwen's and Llama 3's, but without BOS and without a token to pad with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


@pytest.fixture
def model_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random Llama of 6 blocks saved in bfloat16, with one of the tokenizers."""
    folder = tmp_path / "tiny"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=request.param(), eos_token="</s>")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SCRIPT = """
import json, sys
from dataclasses import asdict
import torch

torch.set_num_threads(1)
model_folder, corpus, out = sys.argv[1:]
said = {"layers": [latentlens.auto_layers(n) for n in range(2, 81)], "defaults": latentlens.MODEL_DEFAULTS}
sentences = latentlens.load_corpus(corpus)
said["corpus"] = sentences

model, tokenizer = latentlens.load_model(model_folder, device="cpu")
said["dtype"] = str(model.dtype)
batch = tokenizer(sentences[:7], return_tensors="pt", padding=True)
states = latentlens.get_hidden_states(model, batch["input_ids"], batch["attention_mask"])
said["shapes"] = [list(state.shape) for state in states]
weight = torch.ones(states[2].shape[-1], requires_grad=True)
(states[2] * weight).sum().backward()  # as in the training of a probe on the states
said["gradient"] = weight.grad.tolist()
queries = torch.cat([state[batch["attention_mask"].bool()] for state in states]) * 7


def found(index, queries, **options):
    return [[asdict(neighbor) for neighbor in line] for line in index.search(queries, **options)]


def facts(index):
    return [len(index), index.available_layers, index.hidden_dim, str(index.device)]


full = latentlens.build_index(model_folder, corpus=corpus, batch_size=16, show_progress=False)
few = latentlens.build_index(
    "any", sentences, [4, 1, 6], max_contexts_per_token=3, model=model, tokenizer=tokenizer, show_progress=False
)
said["facts"] = [facts(full), facts(few), facts(few.to("cpu"))]
said["found"] = [
    found(full, queries),
    found(full, queries.double(), top_k=9, layers=[5, 2]),
    found(full, queries[:20].half(), top_k=1),
    found(few, queries[3]),
    found(few, queries[:2], top_k=10000),
]
full.save(out + "/full")
few.save(out + "/few", storage_dtype=torch.float32)
entry = {"embeddings": torch.nn.functional.normalize(queries[:9], dim=-1), "metadata": [{"token_str": "x"}] * 9}
said["made"] = found(latentlens.ContextualIndex({3: entry}), queries[:9], top_k=1)
said["rows"] = [
    index.metadata(layer) if hasattr(index, "metadata") else index._layers_data[layer]["metadata"]
    for index, layer in ((full, 2), (few, 6))
]
said["names"] = [
    latentlens.extract.build_index is latentlens.build_index,
    latentlens.extract.load_corpus is latentlens.load_corpus,
    latentlens.models.get_hidden_states is latentlens.get_hidden_states,
    latentlens.index.Neighbor is latentlens.Neighbor,
]
said["missing"] = 0
for folder, layers in ((out + "/gone", None), (out, None), (out + "/full", [77])):
    try:
        latentlens.ContextualIndex.from_directory(folder, layers=layers)
    except FileNotFoundError:
        said["missing"] += 1
latentlens.MODEL_DEFAULTS["mine"] = {"num_hidden_layers": 6, "hidden_size": 48, "default_layers": [2, 5]}
mine = latentlens.build_index("mine", sentences[:4], model=model, tokenizer=tokenizer, show_progress=False)
said["mine"] = mine.available_layers
del latentlens.MODEL_DEFAULTS["mine"]
with open(out + "/said.json", "w") as file:
    json.dump(said, file)
"""

READER = """
import json, sys
from dataclasses import asdict
import torch

*folders, out = sys.argv[1:]
queries = torch.randn(40, 48, generator=torch.Generator().manual_seed(1))
said = []
for folder in folders:
    for name, layers in (("full", None), ("full", [2, 5]), ("few", None)):
        index = latentlens.ContextualIndex.from_directory(folder + "/" + name, layers=layers)
        said.append([len(index), index.available_layers, index.hidden_dim])
        said.append([[asdict(neighbor) for neighbor in line] for line in index.search(queries, top_k=7)])
with open(out, "w") as file:
    json.dump(said, file)
"""


@pytest.fixture(scope="module")
def run(original: Path) -> Iterator[Run]:
    """Runs a script written for latentlens with one of the libraries under that name."""

    def process(place: Path) -> ScriptProcess:
        return ScriptProcess(os.environ | {"PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}, original)

    with process(original) as theirs, process(HOUSE) as ours:
        processes = {"latentlens": theirs, "lenscore": ours}
        yield lambda library, script, *paths: processes[library].run(f"import {library} as latentlens" + script, *paths)


def same(ours: object, theirs: object, where: str = "") -> None:
    """Equal, except that numbers may differ by a relative or absolute 1e-6."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            same(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            same(*pair, f"{where}[{i}]")
    elif isinstance(ours, float):
        assert abs(ours - theirs) <= 1e-6 * max(1, abs(theirs)), (where, ours, theirs)
    else:
        assert ours == theirs, where


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_folder", "ending"),
    [(metaspace_tokenizer, ".txt"), (byte_level_tokenizer, ".csv")],
    indirect=["model_folder"],
)
def test_a_script_finds_the_same_neighbours_with_either_library(run, model_folder, tmp_path, ending) -> None:
    corpus = tmp_path / f"corpus{ending}"
    lines = SENTENCES if ending == ".txt" else ["caption,more", *(f'"{s}",7' for s in SENTENCES)]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    said = {}
    for library in ("latentlens", "lenscore"):
        (tmp_path / library).mkdir()
        run(library, SCRIPT, model_folder, corpus, tmp_path / library)
        said[library] = json.loads((tmp_path / library / "said.json").read_text())
    assert len(said["latentlens"]["found"][0]) > 100
    assert said["latentlens"]["missing"] == 3
    assert said["latentlens"]["mine"] == [2, 5]
    same(said["lenscore"], said["latentlens"])

    # Each library reads what the other saved, with equal results.
    read = {}
    for reader in ("latentlens", "lenscore"):
        run(reader, READER, tmp_path / "latentlens", tmp_path / "lenscore", tmp_path / "read.json")
        read[reader] = json.loads((tmp_path / "read.json").read_text())
    assert len(read["latentlens"]) == 12
    same(read["lenscore"], read["latentlens"])
