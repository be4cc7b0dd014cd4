"""Patches of an image described by a natural language autoencoder, and how much of their states comes back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.autoencoders.reconstructor import Reconstructor
from lenscore.autoencoders.verbaliser import Description, Verbaliser
from lenscore.images.image_files import UnreadableImageError
from lenscore.images.preprocessing import require_no_placeholder
from lenscore.lenses.explained_variance import explained_shares
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from lenscore.models.layers import resolve_layers
from lenscore.models.loading import vlm_of
from lenscore.readings.image_reading import ImageReading
from lenscore.self_test.records import require_self_test
from lenscore.single_image.image_source import OpenedImage
from lenscore.single_image.patch_choice import PatchChoice, chosen_patches
from lenscore.single_image.reading_of_results import bare_reading
from storage_layouts.errors import InputError

COLUMNS = ("patch", "view", "row", "col", "left", "top", "right", "bottom", "layer", "description", "complete")
NUMBERS = ("cosine", "reconstructed", "explained", "other")


@dataclass(frozen=True)
class DescribedPatches:
    """Descriptions of some patches.

    Attributes:
        reading: the image and its patches, without lenses.
        layer: the visual layer whose states were described.
        patches: indices in the reading.
        descriptions: what the verbaliser says.
        numbers: by name of `NUMBERS`, float64 [patches].

    """

    reading: ImageReading
    layer: int
    patches: tuple[int, ...]
    descriptions: tuple[Description, ...]
    numbers: pd.DataFrame

    def to_pandas(self) -> pd.DataFrame:
        """One line per patch, with the columns `COLUMNS` and `NUMBERS`; boxes are shares (0..1) of the image."""
        chosen = list(self.patches)
        columns = {
            "patch": chosen,
            **dict(zip(COLUMNS[1:4], self.reading.places[chosen].T, strict=True)),
            **dict(zip(COLUMNS[4:8], self.reading.boxes[chosen].T, strict=True)),
            "layer": self.layer,
            "description": [description.text for description in self.descriptions],
            "complete": [description.complete for description in self.descriptions],
        }
        return pd.DataFrame(columns).join(self.numbers)


def describe_patches(
    image: OpenedImage,
    model: Checkpoint,
    verbaliser: Checkpoint,
    reconstructor: Checkpoint,
    *,
    layer: int | None = None,
    patches: PatchChoice = 4,
    seed: int = 0,
    max_new_tokens: int = 200,
    prompt: str = "Describe this image.",
    self_test: bool = True,
    progress: Callable[[str], None] = lambda message: None,
    device: str | torch.device | None = None,
) -> DescribedPatches:
    """Describe the states of some patches, and make the states of the descriptions again.

    The three models are loaded one after the other, so that only one of them has to fit into the memory.

    Args:
        image: the image.
        model: a vision-language model, whose LLM is that of the autoencoder.
        verbaliser: a folder of the model that makes a description of a state.
        reconstructor: a folder of the model that makes a state of a description.
        layer: visual layer; by default that whose states the reconstructor makes, the outputs of its last block.
        patches: as in `chosen_patches`.
        seed: decides which patches are sampled, together with the image.
        max_new_tokens: of a description.
        prompt: the text behind the image.
        self_test: first check patches, layers and logits of the model.
        progress: called with a description of each step when it begins.
        device: where to compute.

    Raises:
        InputError: no such image, model or patch; folders that are no natural language autoencoder, or one of states of
            another width.

    """
    made_by = Reconstructor.sidecar_of(reconstructor)
    width, depth = (getattr(text_config_of(model.config), name) for name in ("hidden_size", "num_hidden_layers"))
    made_by.require_width(width, str(model.name))
    asked = text_config_of(reconstructor.config).num_hidden_layers if layer is None else layer
    if asked > depth:
        raise InputError(f"--reconstructor: its states are of layer {asked}, but {model.name} has layers 0 to {depth}")
    (place,) = resolve_layers([asked], depth, visual=True)
    require_no_placeholder(prompt, model.config, model.tokenizer)
    reading, states = _states(image, model, place, prompt, self_test, progress, device)
    chosen = chosen_patches(reading, image.sha256, patches, seed)
    progress("loading the verbaliser")
    describer = Verbaliser.load(verbaliser, device)
    descriptions = []
    for number, patch in enumerate(chosen, 1):
        progress(f"describing patch {number} of {len(chosen)}")
        descriptions.append(describer.describe(states[patch], max_new_tokens))
    del describer
    gc.collect()
    progress("loading the reconstructor")
    maker = Reconstructor.load(reconstructor, device)
    progress("reconstructing the states")
    made = torch.stack([maker.reconstruct(description.text).cpu() for description in descriptions])
    numbers = compared(states, chosen, made)
    return DescribedPatches(reading, place, chosen, tuple(descriptions), numbers)


def _states(
    image: OpenedImage,
    model: Checkpoint,
    layer: int,
    prompt: str,
    self_test: bool,
    progress: Callable[[str], None],
    device: str | torch.device | None,
) -> tuple[ImageReading, Tensor]:
    """The patches of the image, and their states at a layer, float32 [patches, dim] on the host."""
    progress("loading the model")
    vlm = vlm_of(model, device)
    if self_test:
        progress("testing the model")
        require_self_test(vlm)
    engine = AnalysisEngine(vlm, (), [layer], 1, prompt, batch_size=1, threads=1)
    try:
        geometry, states = engine.states_of_picture(image.pixels)
    except (NotFiniteError, UnreadableImageError) as error:
        raise InputError(f"{image.path or 'image'}: {error}") from None
    return bare_reading(image, geometry, [layer], image.name, ""), states[0].float().cpu()


def compared(states: Tensor, chosen: tuple[int, ...], made: Tensor) -> pd.DataFrame:
    """How much of the states of chosen patches comes back; `NUMBERS`, float64 [chosen].

    All vectors have length 1 here, because only directions are reconstructed. ``cosine`` is that of state and
    reconstruction; ``reconstructed`` is 1 - |x - y|^2 / |x - mean|^2, the fraction of variance explained of the
    autoencoder's paper with the mean over the image's visual tokens (below 0 if the mean is nearer); ``explained`` is
    the share that y - mean explains with a weight of at least 0, as `ExplainedVariance.explained_1` of lenses;
    ``other`` is this share for the reconstruction of the next patch, a control; NaN for a single patch.

    Args:
        states: float32 [patches, dim] of all visual tokens.
        chosen: indices of those that were described.
        made: their reconstructions, float32 [chosen, dim].

    """
    units = normalize(states.double(), dim=1, eps=0.0)
    mean = units.mean(dim=0)
    x, y = units[list(chosen)], normalize(made.double(), dim=1)
    centred = x - mean
    columns = {
        "cosine": (x * y).sum(dim=1),
        "reconstructed": 1 - (x - y).square().sum(dim=1) / centred.square().sum(dim=1),
        "explained": explained_shares((y - mean)[:, None], centred)[0],
        "other": explained_shares((y.roll(-1, dims=0) - mean)[:, None], centred)[0],
    }
    frame = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return frame if len(chosen) > 1 else frame.assign(other=np.nan)
