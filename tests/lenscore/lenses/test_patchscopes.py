"""Patchscopes against LogitLens, and its prompts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lenscore
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.lenses import LogitLens, Patchscopes
from lenscore.lenses.patchscopes import PROMPTS, tokens_of_prompt
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.loading import LanguageModel, Vlm
from storage_layouts.errors import InputError
from tests.conftest import make_llama, make_tokenizer

PROMPT = "dog dog cat cat tree tree house"
DEPTH = 4


@pytest.fixture(scope="module")
def llm() -> LanguageModel:
    return LanguageModel("tiny", make_llama(), make_tokenizer())


def test_the_models_own_states_give_its_own_next_token(llm: LanguageModel) -> None:
    """Also with words behind the place, and their probabilities; another state gives another one."""
    for prompt in (PROMPT, "dog dog cat cat tree {tree} house"):
        ids, place = tokens_of_prompt(prompt, llm.tokenizer, llm.model.config)
        names = [*range(DEPTH), after_block(DEPTH - 1)]
        own = run_until(llm.model, {"input_ids": torch.tensor([ids])}, names)
        states = torch.stack([own[name][0, [place]] for name in names])
        logits = llm.model(torch.tensor([ids])).logits[0, -1].detach()
        top, found = Patchscopes.from_prompt(llm, prompt).read(states, range(DEPTH + 1), 3, own[names[-1]][0, -1:])
        expected = logits[5:25].topk(3)  # without special tokens
        for layer in range(DEPTH + 1):
            assert top.ids[layer, 0].tolist() == (expected.indices + 5).tolist()
            torch.testing.assert_close(top.scores[layer, 0], expected.values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.log_normalizers[:, 0], logits.logsumexp(0).expand(5), rtol=1e-4, atol=1e-4)
        assert found.divergences.abs().max() < 1e-4


def test_after_the_last_block_it_is_the_logit_lens(llm: LanguageModel) -> None:
    lens, logit, states = Patchscopes.from_prompt(llm, PROMPT), LogitLens.from_model(llm), torch.randn(2, 5, 32)
    here, there = (one.top(states, [1, DEPTH], 4) for one in (lens, logit))
    assert torch.equal(here.ids[1], there.ids[1])
    assert torch.equal(here.scores[1], there.scores[1])
    assert not torch.equal(here.scores[0], there.scores[0])
    word = int(here.ids[0, 2, 0])
    found = lens.score_words(states, [1, DEPTH], [{NO_CONTEXTUAL_LAYER: (word,)}])
    torch.testing.assert_close(found.scores[0, 0, 2], here.scores[0, 2, 0])
    assert found.ranks[0, 0, 2] == 1


def test_the_place_in_a_prompt() -> None:
    tokenizer, config = make_tokenizer(), make_llama().config
    words = {word: i for word, i in tokenizer.get_vocab().items() if word in PROMPT.split()}
    ids, place = tokens_of_prompt(PROMPT, tokenizer, config)
    assert ids == [1, *(words[word] for word in PROMPT.split())]
    assert place == len(ids) - 1
    assert tokens_of_prompt("dog {cat} house", tokenizer, config) == ([1, *map(words.get, ("dog", "cat", "house"))], 2)
    for name, text in PROMPTS.items():
        assert tokens_of_prompt(name, tokenizer, config) == tokens_of_prompt(text, tokenizer, config)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "expected identity, description or a text"),
        ("dog {} cat", "with braces around the token"),
        ("{dog} {cat}", "with braces around the token"),
        ("{do}g", "a token holds the end of 'do'"),
        ("dog <image> cat", "a token that stands for an image"),
        ("dog " * 300, "301 tokens; the model reads at most 256"),
    ],
)
def test_prompts_that_are_refused(prompt: str, said: str, tiny_vlm: Vlm) -> None:
    with pytest.raises(InputError, match=said):
        tokens_of_prompt(prompt, tiny_vlm.tokenizer, tiny_vlm.model.config)


def test_special_tokens_behind_a_text_are_left_out() -> None:
    ids = {True: [1, 7, 8, 2], False: [7, 8]}
    tokenizer = lambda text, add_special_tokens: {"input_ids": ids[add_special_tokens]}  # noqa: E731
    config = SimpleNamespace(to_dict=dict, get_text_config=lambda decoder: SimpleNamespace())
    assert tokens_of_prompt("red dog", tokenizer, config) == ([1, 7, 8], 2)


def test_of_texts_and_images(tiny_vlm: Vlm, tmp_path: Path) -> None:
    """It is among the lenses if it or a prompt is named; a prompt without it is refused."""
    read = {
        prompt: lenscore.analyze_text(
            "the red dog", tiny_vlm, layers="0,final", lenses=("logit", "patchscopes"), patchscope_prompt=prompt
        ).reading.lenses
        for prompt in (None, "identity", PROMPT)
    }
    assert np.array_equal(read[None][1].scores, read["identity"][1].scores)
    assert not np.array_equal(read[None][1].scores[0], read[PROMPT][1].scores[0])
    assert np.array_equal(read[PROMPT][0].scores[1], read[PROMPT][1].scores[1])
    assert read[PROMPT][1].probabilities is not None
    image = np.zeros((32, 32, 3), np.uint8)
    shown = lenscore.analyze_image(image, tiny_vlm, patchscope_prompt=PROMPT, self_test=False).reading
    assert [lens.lens for lens in shown.lenses] == ["logit", "embedding", "patchscopes"]
    found = lenscore.find_words("dog", image, tiny_vlm, patchscope_prompt=PROMPT, self_test=False)
    assert [lens.lens for lens in found.lenses] == ["logit", "embedding", "patchscopes"]
    with pytest.raises(InputError, match="--patchscope-prompt: --lenses logit has no patchscopes"):
        lenscore.analyze_text("the red dog", tiny_vlm, lenses="logit", patchscope_prompt=PROMPT)
