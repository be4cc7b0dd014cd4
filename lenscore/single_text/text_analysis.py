"""A text through a language model and its lenses: every token, every layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from lenscore.analysis.lens_choice import IndexSource, choose_lenses
from lenscore.analysis.lens_pass import apply_lenses
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import number_of_layers, require_room, text_config_of
from lenscore.models.flag_types import Quantization
from lenscore.models.greedy_answer import followed_by, greedy_answer
from lenscore.models.hidden_states import lens_states, run_until
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import LanguageModel, loadable, text_model_of
from lenscore.models.source import absolute_model
from lenscore.models.text_only import text_inputs
from lenscore.models.weights import require_finite
from lenscore.readings.text_reading import TextReading
from lenscore.readings.words import encodable
from lenscore.single_image.lens_readings import lens_readings
from lenscore.single_text.analyzed_text import AnalyzedText
from lenscore.single_text.tokens import Messages, shown_tokens, text_ids
from lenscore.statistics.sources import model_label
from storage_layouts.errors import InputError


def analyze_text(
    text: str | Messages,
    model: LanguageModel | str | os.PathLike[str],
    index: IndexSource | None = None,
    *,
    layers: str | Sequence[int] = "all,final",
    lenses: str | Sequence[str] | None = None,
    top_k: int = 5,
    contextual_layers: str | Sequence[int] = "all",
    max_new_tokens: int = 0,
    name: str = "text",
    tuned: str | os.PathLike[str] | None = None,
    patchscope_prompt: str | None = None,
    patchscope_tokens: int = 0,
    progress: Callable[[str], None] = lambda message: None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization = "none",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> AnalyzedText:
    """Run the lenses on every token of a text, from one forward pass.

    Args:
        text: the text, read as the tokenizer reads a sentence, or chat messages, read by the model's chat template. If
            the assistant spoke last, its message is left open, and the answer continues it.
        model: a causal LM or a VLM, whose LLM reads the text: loaded, or its folder or Hub name.
        index: contextual embeddings of the model: an index, a store or its folder. None leaves out the lenses that
            need it. The model of an index without a store is unknown and cannot be checked.
        layers: "paper", "all", numbers, and "final" or the number of blocks for the output of the last one.
        lenses: names, in the order to show; by default all that have what they need.
        top_k: candidates that each lens keeps.
        contextual_layers: layers of a store to search: "all", or numbers.
        max_new_tokens: first let the model continue the text by at most so many tokens, each the likeliest, and analyse
            these too.
        name: shown as the title.
        tuned: a Tuned Lens of the model: a run of `lens tune`, or a folder of the tuned-lens package. None leaves it
            out.
        patchscope_prompt: of Patchscopes: identity, description, or a text (see `tokens_of_prompt`). None leaves it
            out, unless `lenses` names it, which then takes identity.
        patchscope_tokens: also let Patchscopes continue the prompt by at most so many tokens, as a description.
        progress: called with a description of each step when it begins.
        device: if `model` is a name, this and the following as in `load_model`.
        dtype: of the weights; None keeps the checkpoint's.
        quantization: hold them in 8 or 4 bits.
        trust_remote_code: run Python code that comes with the model.
        revision: of a Hub model.

    Raises:
        InputError: an empty text or one longer than the model's context; messages without a chat template; no such
            model, layer or lens; a store or Tuned Lens of another model; hidden states that are not finite.
        TypeError: options of loading together with a loaded model; ``contextual_layers`` together with an index.

    """
    source = loadable(model, device, dtype, quantization, trust_remote_code, revision)
    if isinstance(source, LanguageModel):
        label, config, tokenizer = source.name, source.model.config, source.tokenizer
    else:
        label, config, tokenizer = str(source.name), source.config, source.tokenizer
        _ = source.text_class
    # Whatever can be checked without the weights is checked before they are loaded.
    text_config = text_config_of(config)
    read_layers = resolve_layers(layers, text_config.num_hidden_layers, visual=True)
    if max_new_tokens < 0:
        raise InputError(f"--max-new-tokens: found {max_new_tokens}, expected 0 or more")
    choice = choose_lenses(
        lenses, index, contextual_layers, top_k, (label, config, tokenizer), tuned, patchscope_prompt, patchscope_tokens
    )
    given = text_ids(text, tokenizer, name, None if isinstance(text, str) else _template_of(source, tokenizer))
    tokens, with_answer = len(given) + max_new_tokens, " with the answer" if max_new_tokens else ""
    remedy = "shorten the text" + (", or lower --max-new-tokens" if max_new_tokens else "")
    require_room(tokens, text_config, f"{name}: {tokens:,} tokens{with_answer}", remedy)
    if isinstance(source, Checkpoint):
        progress("loading the model")
    loaded = LanguageModel(label, *text_model_of(source, device)) if isinstance(source, Checkpoint) else source
    built, searched = choice.build(loaded, progress)
    inputs = text_inputs(loaded.model, torch.tensor([given], device=loaded.device))
    answer: list[int] = []
    if max_new_tokens:
        progress("generating the answer")
        generated = greedy_answer(loaded.model, inputs, max_new_tokens)
        answer, inputs = generated.tolist(), followed_by(loaded.model, inputs, generated)
    progress("running the lenses")
    depth = number_of_layers(loaded.model)
    states = _states(loaded, inputs, (*read_layers, depth))
    found = apply_lenses(built, states[:-1], read_layers, top_k, states[-1])
    reading = TextReading(
        name=encodable(name),
        tokens=shown_tokens([*given, *answer], tokenizer),
        token_ids=(*given, *answer),
        prompt_tokens=len(given),
        layers=read_layers,
        depth=depth,
        lenses=lens_readings(found, tokenizer, searched, in_text=True),
    )
    return AnalyzedText(reading, model_label(absolute_model(label)))


def _template_of(source: LanguageModel | Checkpoint, tokenizer: Any) -> str | None:
    """The chat template that the processor of a vision-language model has, if its tokenizer has none."""
    if getattr(tokenizer, "chat_template", None):
        return None
    if isinstance(source, Checkpoint) and source.text_class is not AutoModelForImageTextToText:
        return None
    return getattr(getattr(source, "processor", None), "chat_template", None)


@torch.inference_mode()
def _states(model: LanguageModel, inputs: dict[str, Tensor], layers: Sequence[int]) -> Tensor:
    """Hidden states [layers, tokens, dim] of one text, in the model's dtype, on its device."""
    names = lens_states(layers, number_of_layers(model.model))
    states = run_until(model.model, inputs, names)
    require_finite(model.model, *states.values())
    return torch.stack([states[name][0].to(model.device) for name in names])
