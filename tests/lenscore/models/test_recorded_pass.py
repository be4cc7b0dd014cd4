"""Passes that go on with other states, against the whole model with a hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lenscore.images.geometry import visual_tokens
from lenscore.images.preprocessing import BatchReader
from lenscore.models.decoder import decoder_of
from lenscore.models.hidden_states import state_of
from lenscore.models.loading import LanguageModel, load_vlm
from lenscore.models.recorded_pass import RecordedPass
from lenscore.models.recorded_pass_checks import require_blockable, require_resumable
from storage_layouts.errors import InputError
from tests.causal_families import VOCABULARY, causal_lm
from tests.conftest import make_tokenizer
from tests.families import save_family

BOTH_WAYS = ("gemma3", "paligemma", "molmo2")
"""Families whose visual tokens also attend to later ones."""


def whole_pass(model: Any, inputs: dict[str, Any], layer: int, place: int, state: Tensor | None) -> Tensor:
    """The outputs of the last block [length, dim] if the input of a block was another one at a place, or the same."""
    blocks, last = decoder_of(model).layers, []

    def replace(_: nn.Module, args: Any, kwargs: Any) -> Any:
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        if state is not None:
            given[0, place] = state
        return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

    hooks = [
        blocks[layer].register_forward_pre_hook(replace, with_kwargs=True),
        blocks[-1].register_forward_hook(lambda _module, _args, output: last.append(state_of(output)[0])),
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return last[0]


def compare(model: Any, inputs: dict[str, Any], places: tuple[int, ...]) -> tuple[RecordedPass, set[int]]:
    """Compare two variants at every layer and place; returns how far before a place the change begins."""
    recorded = RecordedPass(model, inputs)
    torch.manual_seed(0)
    back = set()
    for layer in range(len(decoder_of(model).layers)):
        for place in places:
            start = recorded.first_affected(layer, place)
            back.add(place - start)
            states = recorded.states[layer][None, start:].repeat(3, 1, 1)
            states[:2, place - start] = torch.randn(2, states.shape[2]) * states.std()
            found = recorded.resume(layer, states, start)
            for variant in range(2):
                expected = whole_pass(model, inputs, layer, place, states[variant, place - start])
                size = expected.norm(dim=1).mean()
                assert (expected - recorded.states[-1]).norm(dim=1).max() > 1e-2 * size  # the change does something
                assert (found[variant] - expected[start:]).norm(dim=1).max() < 1e-5 * size
                assert (recorded.states[-1][:start] - expected[:start]).norm() <= 1e-5 * size
            assert (found[2] - recorded.states[-1][start:]).norm(dim=1).max() < 1e-5 * size
    return recorded, back


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "qwen3_next", "gemma4_text", "gpt_oss"])
def test_language_models(family: str) -> None:
    compare(causal_lm(family), {"input_ids": torch.randint(3, VOCABULARY, (1, 20))}, (0, 5, 12))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "paligemma", "molmo2"])
def test_vision_language_models(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path), "cpu", torch.float32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))
    inputs = BatchReader(vlm, "a red cat", 1).batch_of({0: image}).on_device(vlm)
    visual = visual_tokens(vlm, inputs["input_ids"])[0].nonzero()[:, 0].tolist()
    _, back = compare(vlm.model, inputs, (visual[0], visual[len(visual) // 2], visual[-1]))
    assert (back != {0}) == (family in BOTH_WAYS)


@contextmanager
def blocked_softmax(model: Any, layers: range, queries: list[int], keys: list[int]) -> Iterator[None]:
    """Eager attention whose scores from some positions to others are -inf in some blocks, whatever their masks say."""
    rows, columns = torch.tensor(queries)[:, None], torch.tensor(keys)
    blocks, softmax, inside = decoder_of(model).layers, nn.functional.softmax, [False]

    def blocking(scores: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if inside[0] and scores.ndim == 4:
            scores = scores.clone()
            scores[:, :, rows, columns] = torch.where(rows == columns, scores[:, :, rows, columns], -torch.inf)
            kwargs |= {"dtype": scores.dtype}  # most families ask for float32
        return softmax(scores, *args, **kwargs)

    hooks = [blocks[layer].register_forward_pre_hook(lambda *_: inside.__setitem__(0, True)) for layer in layers]
    hooks += [blocks[layer].register_forward_hook(lambda *_: inside.__setitem__(0, False)) for layer in layers]
    model.set_attn_implementation("eager")
    nn.functional.softmax = blocking
    try:
        yield
    finally:
        nn.functional.softmax = softmax
        model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
        for hook in hooks:
            hook.remove()


def compare_blocked(model: Any, inputs: dict[str, Any], keys: list[int], ends: list[int]) -> None:
    """Compare passes without attention to `keys`, from the positions `ends` or from all others, in three windows."""
    if model.config.model_type != "gpt_oss":  # its experts compute in float32 at most
        model = model.double()
        inputs = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    recorded = RecordedPass(model, inputs)
    depth, last = len(recorded.states) - 1, recorded.states[-1]
    for first, window in ((0, depth), (1, 2), (depth - 1, 1)):
        for queries in (ends, [place for place in range(recorded.length) if place not in keys]):
            start = min(recorded.first_affected(first, place) for place in (min(keys), min(ends)))
            if queries is ends:
                start = recorded.first_affected(first, min(ends))
            blocked = torch.zeros(2, recorded.length, recorded.length, dtype=torch.bool)
            blocked[0, torch.tensor(queries)[:, None], torch.tensor(keys)] = True
            states = recorded.states[first][None, start:].repeat(2, 1, 1)
            found = recorded.resume(first, states, start, blocked[:, start:], window)
            with blocked_softmax(model, range(first, first + window), queries, keys):
                expected = whole_pass(model, inputs, 0, 0, None)
            size = expected.norm(dim=1).mean()
            assert (expected - last).norm(dim=1).max() > 1e-3 * size  # it does something
            assert (found[0] - expected[start:]).norm(dim=1).max() < 1e-5 * size
            assert (last[:start] - expected[:start]).norm() <= 1e-5 * size
            assert (found[1] - last[start:]).norm(dim=1).max() < 1e-5 * size


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma4_text", "gpt_oss"])
def test_blocked_attention_of_language_models(family: str) -> None:
    inputs = {"input_ids": torch.randint(3, VOCABULARY, (1, 20))}
    compare_blocked(causal_lm(family), inputs, [6, 7, 9], [15, 16, 17])


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "paligemma", "molmo2"])
def test_blocked_attention_of_vision_language_models(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path), "cpu", torch.float32)
    require_blockable(vlm)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))
    inputs = BatchReader(vlm, "a red cat", 1).batch_of({0: image}).on_device(vlm)
    visual = visual_tokens(vlm, inputs["input_ids"])[0].nonzero()[:, 0].tolist()
    length = inputs["input_ids"].shape[1]
    compare_blocked(vlm.model, inputs, visual[1:-1], [length - 2, length - 1])


@pytest.mark.parametrize("family", ["mamba", "qwen3_next", "lfm2"])
def test_a_model_that_hands_on_without_attention_is_refused(family: str) -> None:
    settings = {"layer_types": ["conv", "full_attention"] * 2} if family == "lfm2" else {}
    with pytest.raises(InputError, match="ForCausalLM is not supported here: its attention cannot be blocked"):
        require_blockable(LanguageModel("tiny", causal_lm(family, **settings), make_tokenizer()))


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "paligemma", "molmo2"])
def test_attention_weights_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path), "cpu", torch.float32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))
    inputs = BatchReader(vlm, "a red cat", 1).batch_of({0: image}).on_device(vlm)
    found: list[Tensor] = []
    recorded = RecordedPass(vlm.model, inputs)
    recorded.attend(found.append)
    again = RecordedPass(vlm.model, inputs)
    assert all(torch.equal(*pair) for pair in zip(recorded.states, again.states, strict=True))  # as it was loaded
    vlm.model.set_attn_implementation("eager")
    expected = vlm.model(**inputs, output_attentions=True).attentions
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other[0].mean(dim=0), atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma4_text", "gpt_oss", "qwen3_moe", "olmo2"])
def test_attention_weights_of_language_models(family: str) -> None:
    model, inputs = causal_lm(family), {"input_ids": torch.randint(3, VOCABULARY, (1, 20))}
    found: list[Tensor] = []
    RecordedPass(model, inputs).attend(found.append)
    model.set_attn_implementation("eager")
    for one, other in zip(found, model(**inputs, output_attentions=True).attentions, strict=True):
        assert torch.allclose(one, other[0].mean(dim=0), atol=1e-5)


def test_a_model_without_attention_weights_is_refused() -> None:
    recorded = RecordedPass(causal_lm("mamba"), {"input_ids": torch.randint(3, VOCABULARY, (1, 20))})
    with pytest.raises(InputError, match="MambaForCausalLM returns no attention weights"):
        recorded.attend(lambda weights: None)


def test_an_identity_changes_no_bit_and_the_last_layer_needs_no_block() -> None:
    recorded = RecordedPass(causal_lm("llama"), {"input_ids": torch.randint(3, VOCABULARY, (1, 20))})
    depth = len(recorded.states) - 1
    for layer in range(depth + 1):
        assert torch.equal(recorded.resume(layer, recorded.states[layer][None])[0], recorded.states[-1])
    assert recorded.first_affected(depth, 7) == 7


class _WithMemory(nn.Module):
    """A block that adds what the block before it left in a list, which states do not show."""

    def __init__(self, block: nn.Module, left: list[Tensor]) -> None:
        super().__init__()
        self.block, self.left = block, left

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Any:
        added = self.left[-1] if self.left and self.left[-1].shape == hidden_states.shape else 0
        self.left.append(hidden_states)
        return self.block(hidden_states + added, **kwargs)


def test_a_model_whose_blocks_know_more_than_the_states_is_refused() -> None:
    model, left = causal_lm("llama"), []
    require_resumable(LanguageModel("tiny", model, make_tokenizer()))
    for number, block in enumerate(model.model.layers):
        model.model.layers[number] = _WithMemory(block, left)
    with pytest.raises(InputError, match=r"LlamaForCausalLM.*(not supported|cannot be|other states)"):
        require_resumable(LanguageModel("tiny", model, make_tokenizer()))
