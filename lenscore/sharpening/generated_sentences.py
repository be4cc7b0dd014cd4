"""Sentences that the language model itself continues: sampled, with chances that are hashes of names."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from lenscore.models.greedy_answer import greedy_answers
from lenscore.models.loading import LanguageModel
from lenscore.models.text_only import text_inputs
from lenscore.sharpening.new_sentences import Request, TemplateSource

LIKELIEST = 40
"""Tokens among which each next one is sampled."""
TOGETHER = 64
"""Sentences that are generated together, at most."""


class GeneratedSource:
    """The language model goes on from a template with words of a patch, by `max_new_tokens` at most.

    The next token is sampled from the distribution of the `LIKELIEST` ones (Fan et al., ACL 2018). A sentence ends
    with its line. Equal requests give equal sentences, up to rounding that depends on the others of a batch.
    """

    def __init__(self, llm: LanguageModel, templates: TemplateSource, max_new_tokens: int) -> None:
        self._llm, self._templates, self._max_new_tokens = llm, templates, max_new_tokens

    def sentences(self, requests: Sequence[Request], used: Container[str]) -> list[str]:
        """See `SentenceSource`."""
        begun = [self._tokens(text) for text in self._templates.sentences(requests, used)]
        made = [""] * len(begun)
        by_length: dict[int, list[int]] = {}
        for number, tokens in enumerate(begun):
            by_length.setdefault(len(tokens), []).append(number)
        for _, alike in sorted(by_length.items()):
            for first in range(0, len(alike), TOGETHER):
                some = alike[first : first + TOGETHER]
                ids = torch.tensor([begun[i] for i in some], device=self._llm.device)
                sampling = HashSampling([requests[i].name for i in some], ids.shape[1])
                inputs = text_inputs(self._llm.model, ids) | {"attention_mask": torch.ones_like(ids)}
                answers = greedy_answers(self._llm.model, inputs, self._max_new_tokens, [sampling])
                for number, start, answer in zip(some, ids, answers, strict=True):
                    made[number] = self._text(torch.cat([start, answer]))
        return made

    def _tokens(self, text: str) -> list[int]:
        """The ids of a text that is to be continued: with the tokens before it, and none behind it."""
        ids: list[int] = self._llm.tokenizer(text)["input_ids"]
        while len(ids) > 1 and ids[-1] == self._llm.tokenizer.eos_token_id:
            ids.pop()
        return ids

    def _text(self, ids: Tensor) -> str:
        lines = self._llm.tokenizer.decode(ids, skip_special_tokens=True).strip().splitlines()
        return lines[0].strip() if lines else ""


class HashSampling(LogitsProcessor):
    """Leaves one token of each sequence: the largest sum of logit and Gumbel noise of the `LIKELIEST` ones.

    That is a sample of their softmax (Gumbel, 1954). The noise is a hash of the name of the sequence and the number of
    the new token, so that it depends on no other sequence.

    Args:
        names: of the sequences.
        length: of all sequences, before the first new token.

    """

    def __init__(self, names: Sequence[str], length: int) -> None:
        self._names, self._length = list(names), length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The logits [sequences, vocabulary] with all but the sampled tokens at -inf."""
        step = input_ids.shape[1] - self._length
        best, ids = scores.float().topk(min(LIKELIEST, scores.shape[1]), dim=1)
        noise = torch.from_numpy(np.stack([_gumbel(f"{name}/{step}", best.shape[1]) for name in self._names]))
        chosen = ids.gather(1, (best + noise.to(best)).argmax(dim=1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _gumbel(name: str, count: int) -> np.ndarray:
    stream = hashlib.shake_256(f"lenscore.sharpening/{name}".encode()).digest(8 * count)
    uniform = ((np.frombuffer(stream, "<u8") >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52  # never 0 or 1
    return -np.log(-np.log(uniform))
