"""The activation verbaliser: a language model that describes a state which stands in place of a token's embedding."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lenscore.autoencoders.sidecar import VERBALISER, Sidecar
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from lenscore.models.greedy_answer import greedy_answer
from lenscore.models.loading import LanguageModel, text_model_of
from storage_layouts.errors import InputError

FLAG = "--verbaliser"
_EXPLANATION = re.compile(r"<explanation>(.*?)(</explanation>|\Z)", re.DOTALL)


class Description(NamedTuple):
    """What a verbaliser says of a state; `complete` is false if its answer did not end as it should."""

    text: str
    complete: bool


class Verbaliser:
    """A loaded verbaliser; `load` one.

    Its answer is greedy (the released models were trained on samples), so a state always gets the same description.
    """

    def __init__(self, llm: LanguageModel, sidecar: Sidecar) -> None:
        sidecar.require_width(text_config_of(llm.model.config).hidden_size, llm.name)
        self._llm, self._sidecar = llm, sidecar
        self._ids, self._place = _prompt(llm, sidecar)

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str | torch.device | None = None) -> Verbaliser:
        """Raises InputError for a folder that is none, or whose tokenizer is not that of nla_meta.yaml."""
        sidecar = Sidecar.read(Path(checkpoint.name), VERBALISER, FLAG)
        return cls(LanguageModel(str(checkpoint.name), *text_model_of(checkpoint, device)), sidecar)

    @torch.inference_mode()
    def describe(self, state: Tensor, max_new_tokens: int) -> Description:
        """The description of a state [dim]: what is between the tags <explanation>, or the whole answer without them.

        Raises InputError for a state of length 0, which has no direction.
        """
        ids = self._ids.to(self._llm.device)
        embeddings = self._llm.model.get_input_embeddings()(ids)
        state = state.to(embeddings.device, torch.float32)
        length = state.norm()
        if not length > 0:
            raise InputError("a state of length 0 has no direction, so it cannot be described; choose another patch")
        embeddings[0, self._place] = (state * (self._sidecar.injection_scale / length)).to(embeddings.dtype)
        inputs = {"input_ids": ids, "inputs_embeds": embeddings, "attention_mask": torch.ones_like(ids)}
        answer = greedy_answer(self._llm.model, inputs, max_new_tokens)
        text = self._llm.tokenizer.decode(answer, skip_special_tokens=True)
        found = _EXPLANATION.search(text)
        return Description((found[1] if found else text).strip(), bool(found and found[2]))


def _prompt(llm: LanguageModel, sidecar: Sidecar) -> tuple[Tensor, int]:
    """The ids of the prompt [1, length], and the place of the state among them."""
    tokens, tokenizer = sidecar.content["tokens"], llm.tokenizer
    mark, char = tokens["injection_token_id"], tokens["injection_char"]
    found = tokenizer(char, add_special_tokens=False)["input_ids"]
    if found != [mark]:
        raise InputError(f"{sidecar.path}: {char!r} is token {mark} there, but {found} by the tokenizer of {llm.name}")
    if not tokenizer.chat_template:
        raise InputError(f"{FLAG} {llm.name}: its tokenizer has no chat template, in which the prompt stands")
    messages = [{"role": "user", "content": sidecar.prompt(injection_char=char)}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
    around = tokens["injection_left_neighbor_id"], tokens["injection_right_neighbor_id"]
    places = [i for i in range(1, len(ids) - 1) if ids[i] == mark and (ids[i - 1], ids[i + 1]) == around]
    if len(places) != 1:
        raise InputError(
            f"{sidecar.path}: the prompt has {len(places)} places of token {mark} between {around[0]} and {around[1]} "
            f"by the tokenizer of {llm.name}; expected 1"
        )
    return torch.tensor([ids]), places[0]
