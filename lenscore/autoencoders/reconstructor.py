"""The activation reconstructor: the first blocks of a language model and a matrix, which make a state of a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lenscore.autoencoders.sidecar import RECONSTRUCTOR, Sidecar
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import decoder_of, number_of_layers, require_room, text_config_of
from lenscore.models.hidden_states import lens_states, run_until
from lenscore.models.loading import LanguageModel
from lenscore.models.text_only import text_inputs
from storage_layouts.errors import InputError, MissingFileError, first_line

FLAG = "--reconstructor"
HEAD = "value_head.safetensors"
"""The matrix: "weight" [dim, dim]."""


class Reconstructor:
    """A loaded reconstructor; `load` one. The matrix is applied to the output of the last block, in float32."""

    def __init__(self, llm: LanguageModel, sidecar: Sidecar, head: Tensor) -> None:
        self._llm, self._sidecar, self._head = llm, sidecar, head.to(llm.device, torch.float32)

    @staticmethod
    def sidecar_of(checkpoint: Checkpoint) -> Sidecar:
        """Its nla_meta.yaml. Raises InputError for a folder that is none, or has other blocks than the file says."""
        sidecar, config = Sidecar.read(Path(checkpoint.name), RECONSTRUCTOR, FLAG), text_config_of(checkpoint.config)
        sidecar.require_width(config.hidden_size, str(checkpoint.name))
        if not (Path(checkpoint.name) / HEAD).is_file():
            raise MissingFileError(f"{FLAG} {checkpoint.name}: no {HEAD} in it, which makes the state")
        if sidecar.block is not None and config.num_hidden_layers != sidecar.block + 1:
            raise InputError(
                f"{FLAG} {checkpoint.name}: {config.num_hidden_layers} blocks, expected {sidecar.block + 1}, because "
                f"extraction_layer_index in {sidecar.path.name} is {sidecar.block}"
            )
        return sidecar

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: str | torch.device | None = None) -> Reconstructor:
        """Raises InputError for a folder that is none, or with a matrix of another shape."""
        sidecar = cls.sidecar_of(checkpoint)
        # Neither the final norm nor the LM head is used, and the files may lack them.
        model = checkpoint.model(checkpoint.text_class, device, unused=_behind_the_blocks)
        try:
            head = load_file(Path(checkpoint.name) / HEAD)
        except Exception as error:  # safetensors raises its own
            raise InputError(f"{FLAG} {checkpoint.name}: {HEAD} cannot be read: {first_line(error)}") from None
        shapes = {name: list(part.shape) for name, part in head.items()}
        if shapes != {"weight": [sidecar.width] * 2}:
            raise InputError(f"{FLAG} {checkpoint.name}: {HEAD} has {shapes}, expected weight {[sidecar.width] * 2}")
        return cls(LanguageModel(str(checkpoint.name), model, checkpoint.tokenizer), sidecar, head["weight"])

    @torch.inference_mode()
    def reconstruct(self, description: str) -> Tensor:
        """The state float32 [dim] that a description stands for; only its direction has a meaning.

        Raises InputError if the prompt is too long, or does not end with the tokens that nla_meta.yaml says.
        """
        model, name = self._llm.model, self._llm.name
        ids = self._llm.tokenizer(self._sidecar.prompt(explanation=description))["input_ids"]
        suffix = (self._sidecar.content.get("tokens") or {}).get("critic_suffix_ids") or []
        if ids[len(ids) - len(suffix) :] != suffix:
            raise InputError(
                f"{self._sidecar.path}: by the tokenizer of {name} the prompt ends with {ids[-len(suffix) :]}, expected "
                f"{suffix}"
            )
        require_room(len(ids), text_config_of(model.config), f"{FLAG}: {len(ids):,} tokens", "describe in fewer")
        depth = number_of_layers(model)
        (last,) = lens_states([depth], depth)
        states = run_until(model, text_inputs(model, torch.tensor([ids], device=self._llm.device)), [last])[last]
        return self._head @ states[0, -1].to(self._head.device, torch.float32)


def _behind_the_blocks(model: Any) -> list[torch.nn.Parameter]:
    norm, head = decoder_of(model).norm, model.get_output_embeddings()
    return [weight for module in (norm, head) if module is not None for weight in module.parameters()]
