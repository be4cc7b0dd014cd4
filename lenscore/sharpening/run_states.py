"""The hidden states of some patches of an analyze run, computed again with its model, prompt and layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.images.image_files import MAX_PIXELS
from lenscore.judging.patches import ImagePatches, PatchRef
from lenscore.models.loading import Vlm
from lenscore.single_image.image_source import open_image_source
from lenscore.user_files.finding import path_from_stored
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults


def states_of_patches(
    results: LensResults,
    vlm: Vlm,
    patches: Sequence[PatchRef],
    images: Mapping[int, ImagePatches],
    progress: Callable[[str], None],
) -> Tensor:
    """The states [layers, patches, dim] of patches at the layers of a run, on the model's device, in its dtype.

    An image runs once, alone. Raises InputError for an image that has changed since the run, or is gone.
    """
    config = results.run.config
    engine = AnalysisEngine(vlm, (), results.layers, 1, results.prompt, batch_size=1, threads=1)
    wanted: dict[int, list[int]] = {}
    for number, place in enumerate(patches):
        wanted.setdefault(place.image_id, []).append(number)
    found: dict[int, Tensor] = {}
    for done, (image_id, numbers) in enumerate(wanted.items()):
        progress(f"image {done + 1:,} of {len(wanted):,}")
        path = images[image_id].path
        opened = open_image_source(path_from_stored(path), config.get("max_pixels", MAX_PIXELS))
        if opened.sha256 != images[image_id].sha256:
            raise InputError(f"{path}: has changed since {results.path} was made")
        try:
            geometry, states = engine.states_of_picture(opened.pixels)
        except NotFiniteError as error:
            raise InputError(str(error)) from None
        at = {(one.view, one.row, one.col): number for number, one in enumerate(geometry.patches)}
        for number in numbers:
            place = patches[number]
            found[number] = states[:, at[place.view, place.row, place.col]].clone()
    return torch.stack([found[number] for number in range(len(patches))], dim=1)
