"""One image through a model and its lenses, with the results of `lens analyze` but without a run folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.analysis.lens_choice import IndexSource, LensChoice, choose_lenses
from lenscore.images.geometry import family_of
from lenscore.images.image_files import MAX_PIXELS
from lenscore.images.preprocessing import require_no_placeholder
from lenscore.index.contextual_index import ContextualIndex
from lenscore.lenses import Lens
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from lenscore.models.flag_types import Quantization
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import Vlm, loadable, vlm_of
from lenscore.models.source import absolute_model
from lenscore.self_test.records import require_self_test
from lenscore.single_image.analyzed_image import AnalyzedImage
from lenscore.single_image.image_source import ImageSource, open_image_source
from lenscore.single_image.reading_of_results import reading_of
from lenscore.statistics.sources import model_label
from storage_layouts.errors import InputError


def analyze_image(
    image: ImageSource,
    vlm: Vlm | str | os.PathLike[str],
    index: IndexSource | None = None,
    *,
    layers: str | Sequence[int] = "paper",
    lenses: str | Sequence[str] | None = None,
    top_k: int = 5,
    contextual_layers: str | Sequence[int] = "all",
    prompt: str = "Describe this image.",
    name: str | None = None,
    caption: str = "",
    tuned: str | os.PathLike[str] | None = None,
    explained: bool = False,
    self_test: bool = True,
    progress: Callable[[str], None] = lambda message: None,
    max_pixels: int = MAX_PIXELS,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization = "none",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> AnalyzedImage:
    """Run one image through the lenses: one forward pass, every visual token, the numbers of `lens analyze`.

    Args:
        image: a file, a PIL image or an array of pixels.
        vlm: a model from `load_vlm`, or the folder or Hub name of a model. For several images load it once.
        index: contextual embeddings of the model's LLM: an index, a store or its folder. None leaves out the lenses
            that need it. For several images open it once, with `ContextualIndex.from_store`. The model of an index
            without a store is unknown and cannot be checked.
        layers: visual layers: "paper", "all", or numbers.
        lenses: names, in the order to show; by default all that have what they need.
        top_k: candidates that each lens keeps.
        contextual_layers: layers of a store to search: "all", or numbers.
        prompt: the text after the image (causal models do not see it at the visual tokens).
        name: the image's name; by default its file name.
        caption: the image's caption.
        tuned: a Tuned Lens of the model's LLM: a run of `lens tune`, or a folder of the tuned-lens package. None leaves
            it out.
        explained: also compute the share of each state's variance that its candidates explain.
        self_test: first check patches, layers and logits of the model; once per model and machine.
        progress: called with a description of each step when it begins.
        max_pixels: a file with more pixels is refused, because a small file may decode to more than the memory holds.
        device: if `vlm` is a name, this and the following as in `load_vlm`.
        dtype: of the weights.
        quantization: hold them in 8 or 4 bits.
        trust_remote_code: run Python code that comes with the model.
        revision: of a Hub model.

    Raises:
        InputError: no such image, model, layer or lens; an image that cannot be read; a store or Tuned Lens of another
            model; a lens without the index or translators that it needs; hidden states that are not finite.
        TypeError: options of loading together with a loaded model; ``contextual_layers`` together with an index.

    """
    opened = open_image_source(image, max_pixels)
    source = loadable(vlm, device, dtype, quantization, trust_remote_code, revision)
    ready = ready_lenses(
        source, index, layers, lenses, top_k, contextual_layers, prompt, self_test, progress, device, tuned=tuned
    )
    loaded, visual_layers = ready.vlm, ready.layers
    engine = AnalysisEngine(
        loaded, ready.lenses, visual_layers, top_k, prompt, batch_size=1, threads=1, explained=explained
    )
    progress("running the lenses")
    try:
        results = engine.analyze_picture(opened.pixels, opened.sha256)
    except NotFiniteError as error:
        raise InputError(str(error)) from None
    if results.unreadable:
        raise InputError(f"{opened.path or 'image'}: {results.unreadable[0]}")
    reading = reading_of(opened, results, visual_layers, loaded.tokenizer, ready.index, name or opened.name, caption)
    return AnalyzedImage(reading, ready.label, opened.sha256)


@dataclass(frozen=True)
class ReadyLenses:
    """A loaded model and its lenses.

    Attributes:
        vlm: the model.
        label: its label for people.
        layers: visual layers, ascending.
        lenses: in the order to show.
        index: the contextual embeddings that they search; None if none does.

    """

    vlm: Vlm
    label: str
    layers: tuple[int, ...]
    lenses: tuple[Lens, ...]
    index: ContextualIndex | None


def ready_lenses(
    source: Vlm | Checkpoint,
    index: IndexSource | None,
    layers: str | Sequence[int],
    lenses: str | Sequence[str] | None,
    top_k: int,
    contextual_layers: str | Sequence[int],
    prompt: str,
    self_test: bool,
    progress: Callable[[str], None],
    device: str | torch.device | None,
    check: Callable[[LensChoice, Any], None] = lambda choice, tokenizer: None,
    tuned: str | os.PathLike[str] | None = None,
) -> ReadyLenses:
    """Load a model and build its lenses; arguments and errors are those of `analyze_image`.

    Whatever can be checked without the weights is checked before they are loaded; `check` takes the lenses and the
    tokenizer, and raises InputError.
    """
    model, config, tokenizer = _known_of(source)
    visual_layers = resolve_layers(layers, text_config_of(config).num_hidden_layers, visual=True)
    choice = choose_lenses(lenses, index, contextual_layers, top_k, (model, config, tokenizer), tuned)
    require_no_placeholder(prompt, config, tokenizer)
    check(choice, tokenizer)
    if isinstance(source, Checkpoint):
        progress("loading the model")
    loaded = vlm_of(source, device) if isinstance(source, Checkpoint) else source
    if self_test:
        progress("testing the model")
        require_self_test(loaded)
    built, searched = choice.build(loaded, progress)
    return ReadyLenses(loaded, model_label(absolute_model(model)), tuple(visual_layers), tuple(built), searched)


def _known_of(model: Vlm | Checkpoint) -> tuple[str, Any, Any]:
    """Name, configuration and tokenizer. Raises InputError for a model without images or of an unknown family."""
    if isinstance(model, Vlm):
        return model.name, model.model.config, model.tokenizer
    model.require_vision()
    family_of(model.config, str(model.name))
    _ = model.processor  # the model needs it anyway, and its tokenizer takes seconds to load
    return str(model.name), model.config, model.tokenizer
