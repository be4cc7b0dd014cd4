"""Answers that begin with other states, against whole passes without a cache for each token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lenscore.images.geometry import visual_tokens
from lenscore.images.preprocessing import BatchReader
from lenscore.models.changed_states import ChangedStates, states_changed
from lenscore.models.decoder import decoder_of
from lenscore.models.greedy_answer import followed_by, greedy_answer, greedy_answers, placeholders
from lenscore.models.loading import load_vlm
from tests.families import save_family

TOKENS = 5


def answer_of_whole_passes(model: Any, inputs: dict[str, Tensor], layer: int, changed: ChangedStates) -> list[int]:
    """The likeliest next token of a pass over all tokens so far, with a hook, again and again."""

    def replace(_: nn.Module, args: Any, kwargs: Any) -> Any:
        given = (args[0] if args else kwargs["hidden_states"]).clone()
        given[0, changed.positions] = changed.states.to(given.dtype)
        return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

    ends, ids = model.generation_config.eos_token_id, []
    hook = decoder_of(model).layers[layer].register_forward_pre_hook(replace, with_kwargs=True)
    with torch.no_grad():
        while len(ids) < TOKENS and not (ids and ids[-1] in (ends if isinstance(ends, list) else [ends])):
            given = followed_by(model, inputs, torch.tensor(ids, dtype=torch.int64))
            scores = model(**given, use_cache=False).logits[0, -1].clone()
            scores[[one for one in placeholders(model.config) if one < len(scores)]] = -torch.inf
            ids.append(int(scores.argmax()))
    hook.remove()
    return ids


@pytest.mark.parametrize("family", ["llava", "qwen3_vl", "gemma3", "paligemma", "molmo2"])
def test_answers_of_a_batch(family: str, tmp_path: Path) -> None:
    vlm = load_vlm(save_family(family, tmp_path), "cpu", torch.float32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), np.uint8))
    reader = BatchReader(vlm, "a red cat", 1)
    one, three = (reader.batch_of(dict.fromkeys(range(n), image)).on_device(vlm) for n in (1, 3))
    visual = visual_tokens(vlm, one["input_ids"])[0].nonzero()[:, 0]
    unchanged = greedy_answer(vlm.model, one, TOKENS)
    torch.manual_seed(0)
    different = False
    for layer in (0, len(decoder_of(vlm.model).layers) - 1):
        width = vlm.model.get_input_embeddings().weight.shape[1]
        changed = [ChangedStates(visual[i::2], 3 * torch.randn(len(visual[i::2]), width)) for i in range(2)]
        changed.append(ChangedStates(visual[:0], torch.empty(0, width)))
        with states_changed(vlm.model, layer, changed):
            answers = greedy_answers(vlm.model, three, TOKENS)
        for answer, states in zip(answers, changed, strict=True):
            assert answer.tolist() == answer_of_whole_passes(vlm.model, one, layer, states)
        assert torch.equal(answers[2], unchanged)
        different |= any(answer.tolist() != unchanged.tolist() for answer in answers)
        assert not decoder_of(vlm.model).layers[layer]._forward_pre_hooks
    assert different
