"""The language model inside a VLM of every family: its layers, its logits, and how it reads a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, Gemma2Config

from jobs.extract_job import ExtractJob
from jobs.work import work
from lenscore.extract.in_memory_index import build_index
from lenscore.images.preprocessing import prompt_with_image
from lenscore.lenses import EmbeddingLens, LogitLens
from lenscore.lenses.head_output import HeadOutput, head_path
from lenscore.models.hidden_states import FINAL, UNNORMED, after_block, get_hidden_states, run_until
from lenscore.models.loading import Vlm, load_vlm
from lenscore.models.text_only import is_causal, known_bidirectional, text_inputs
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError
from storage_layouts.quantize import decode_unit
from tests.families import FAMILIES, WORDS, save_family

BOTH_WAYS = {"paligemma"}
CORPUS = ["a red dog on the house", "a red dog on the tree", "the small cat is under a large car", "blue sky and grass"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("families")
    return lambda name: base / name if (base / name).exists() else save_family(name, base / name)


def ids_of(vlm: Vlm, text: str) -> torch.Tensor:
    return vlm.tokenizer(text, return_tensors="pt").input_ids


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def with_image(vlm: Vlm) -> dict[str, torch.Tensor]:
    text = prompt_with_image(vlm.processor, "a dog")
    return dict(vlm.processor(images=[picture(70, 50)], text=[text], return_tensors="pt"))


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_and_logits_are_the_models_own(name: str, folder_of: Callable[[str], Path]) -> None:
    """In float64, with an image and without, and from the embeddings to the logits."""
    vlm = load_vlm(folder_of(name), "cpu", torch.float64)
    lens = LogitLens.from_model(vlm)
    for inputs in (with_image(vlm), {"input_ids": ids_of(vlm, CORPUS[0])}):
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            theirs = vlm.model(**inputs, output_hidden_states=True)
        ours = run_until(vlm.model, inputs, [0, 3, UNNORMED, FINAL])
        torch.testing.assert_close(ours[3], theirs.hidden_states[3])
        torch.testing.assert_close(ours[FINAL], theirs.hidden_states[4])
        torch.testing.assert_close(vlm.decoder.norm(ours[UNNORMED]), ours[FINAL])
        logits = lens.logits(ours[UNNORMED][0]).double()
        torch.testing.assert_close(logits, theirs.logits[0], rtol=1e-5, atol=1e-5 * float(theirs.logits.abs().max()))
        candidates = theirs.logits[0].clone()
        candidates[:, lens._excluded] = -torch.inf
        assert torch.equal(lens.top(ours[UNNORMED], [3], 1).ids[0, :, 0], candidates.argmax(dim=1))
    # Layer 0 of text is its embedding, whatever factor the model gives it.
    words = EmbeddingLens.from_model(vlm).top(ours[0].float(), [0], 1)
    assert words.ids[0, 1:, 0].tolist() == ids_of(vlm, CORPUS[0])[0, 1:].tolist()
    assert float(words.scores[0, 1:].min()) > 1 - 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_extract_stores_what_the_vlm_itself_makes_of_the_text(
    name: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    job = ExtractJob(
        str(folder_of(name)), (tmp_path / "corpus.txt",), tmp_path / "s.zarr", layers="0,2,3", encoding="float16"
    )
    run = job.open_run()
    job.plan(run, lambda message: None)
    assert not work(run, lambda: job.open_worker(run, "cpu"), "test").refused
    store = EmbeddingStore.open(tmp_path / "s.zarr")
    rows = store.rows_of(run.require_plan().shard(0)).to_pylist()
    vlm = load_vlm(folder_of(name), "cpu", torch.float64)
    # As with its processor: PaliGemma's marks a prompt as type 0, for which attention is bidirectional.
    types = {"token_type_ids": 0} if name in BOTH_WAYS else {}
    texts = store.sentence_texts([row["sentence_id"] for row in rows])
    shared = sum(row["token"] in ("a", "red", "dog", "on") for row in rows)
    assert shared == (9 if name in BOTH_WAYS else 5)  # "a red dog on" begins two sentences, and a car is large
    for layer in store.layers:
        encoded = store.read_layer(layer).torch()
        stored = decode_unit(encoded, store.encoding, store.outlier_dims(layer)).double() * encoded.norm[:, None]
        for row, text, found in zip(rows, texts, stored, strict=True):
            ids = ids_of(vlm, text)
            inputs = {"input_ids": ids} | {kind: torch.full_like(ids, value) for kind, value in types.items()}
            with torch.no_grad():
                expected = vlm.model(**inputs, output_hidden_states=True).hidden_states[layer][0, row["position"]]
            assert float((found - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_text_reads_the_same_after_an_image_and_beside_other_text(name: str, folder_of: Callable[[str], Path]) -> None:
    """Models that keep positions of the last image (Qwen-VL's rope deltas) must not carry them over."""
    vlm = load_vlm(folder_of(name), "cpu")
    ids = ids_of(vlm, CORPUS[0])
    before = run_until(vlm.model, text_inputs(vlm.model, ids), [3])[3]
    with torch.no_grad():
        vlm.model(**with_image(vlm))
    assert torch.equal(run_until(vlm.model, text_inputs(vlm.model, ids), [3])[3], before)
    two = torch.cat([ids, ids.roll(1, dims=1)])
    torch.testing.assert_close(run_until(vlm.model, text_inputs(vlm.model, two), [3])[3][:1], before)


def test_an_index_of_a_reader_of_both_directions_shares_no_prefix(
    folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_vlm(folder_of("paligemma"), "cpu")
    given = {"model": vlm.model, "tokenizer": vlm.tokenizer, "show_progress": False}
    found = len(build_index("any", CORPUS, [2], **given))
    monkeypatch.setattr("lenscore.extract.in_memory_index.is_causal", lambda model, tokens: True)
    # Its tokenizer writes no BOS: of "a red dog on the", which begins two sentences, three are at 2 and behind.
    assert found == len(build_index("any", CORPUS, [2], **given)) + 3


@pytest.mark.parametrize("name", FAMILIES)
def test_who_reads_in_both_directions_is_found_out(name: str, folder_of: Callable[[str], Path]) -> None:
    vlm = load_vlm(folder_of(name), "cpu")
    assert is_causal(vlm.model, ids_of(vlm, CORPUS[0])[0].tolist()) == (name not in BOTH_WAYS)
    assert known_bidirectional(vlm.model.config) == (name in BOTH_WAYS)


def test_a_hidden_reader_of_both_directions_is_refused_by_the_worker(
    folder_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bidirectional model with a silent configuration: the probe detects it, and the remedy works."""
    monkeypatch.setattr("lenscore.contexts.row_choice.known_bidirectional", lambda config: False)
    (tmp_path / "corpus.txt").write_text("\n".join(CORPUS))
    job = ExtractJob(str(folder_of("paligemma")), (tmp_path / "corpus.txt",), tmp_path / "s.zarr")
    run = job.open_run()
    job.plan(run, lambda message: None)
    with pytest.raises(InputError, match=r"states depend on later tokens.*add --no-causal"):
        job.open_worker(run, "cpu")


def test_layer_l_is_behind_deepstack_and_after_block_before_it(folder_of: Callable[[str], Path]) -> None:
    """Qwen3-VL adds image features after its first blocks, here computed by its vision encoder."""
    vlm = load_vlm(folder_of("qwen3_vl"), "cpu")
    inputs = with_image(vlm)
    image = inputs["input_ids"][0] == vlm.model.config.image_token_id
    blocks = range(3)
    states = run_until(vlm.model, inputs, [name for block in blocks for name in (after_block(block), block + 1)])
    with torch.no_grad():
        added = vlm.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).deepstack_features
    for block in blocks:
        before, after = states[after_block(block)][0], states[block + 1][0]
        expected = before.clone()
        if block < 2:
            expected[image] += torch.cat(added[block]) if isinstance(added[block], (tuple, list)) else added[block]
            assert float((after - before).norm()) > 1
        torch.testing.assert_close(after, expected)
        with torch.no_grad():  # the next block really begins with that state
            assert torch.equal(get_hidden_states(vlm.model, **inputs)[block + 1][0], after)


@pytest.mark.parametrize(("name", "applied"), [("gemma4", True), ("gemma3", False), ("paligemma", True)])
def test_a_soft_cap_is_applied_where_the_model_applies_it(
    name: str, applied: bool, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """All three configurations can set a soft cap; Gemma 3 with vision does not apply it (in this transformers)."""
    folder = save_family(name, tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["final_logit_softcapping"] = 2.0
    (folder / "config.json").write_text(json.dumps(config))
    vlm = load_vlm(folder, "cpu")
    ids = {"input_ids": ids_of(vlm, CORPUS[0])}
    with torch.no_grad():
        theirs = vlm.model(**ids).logits[0]
    assert bool(theirs.abs().max() <= 2) == applied
    lens = LogitLens.from_model(vlm)
    state = run_until(vlm.model, ids, [UNNORMED])[UNNORMED]
    torch.testing.assert_close(lens.logits(state[0]), theirs, rtol=1e-4, atol=1e-4)
    top = lens.top(state, [3], 5)
    torch.testing.assert_close(top.scores[0], theirs.gather(1, top.ids[0]), rtol=1e-4, atol=1e-4)


def test_what_a_model_does_behind_its_head_is_found_out() -> None:
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    assert head_path(model, 5).output == HeadOutput(cap=30.0)
    assert head_path(model.bfloat16(), 5).output == HeadOutput(cap=30.0)
    config.final_logit_softcapping = None
    assert head_path(model.float(), 5).output == HeadOutput()
    honest = type(model).forward

    def odd(self, **inputs):
        found = honest(self, **inputs)
        found.logits = found.logits**2
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", odd)
        with pytest.raises(InputError, match="changes the output of its head by more than"):
            head_path(model, 5)
    scaled = HeadOutput(scale=0.25)
    torch.testing.assert_close(scaled.logits(torch.tensor([8.0, -4.0])), torch.tensor([2.0, -1.0]))


assert set(" ".join(CORPUS).split()) <= set(WORDS)
