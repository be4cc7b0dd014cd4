"""The analysis of images on one device: one forward pass for each batch, then every lens on every requested layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lenscore.analysis.drift import batch_partners, drift_cosines
from lenscore.analysis.lens_pass import LensPass, apply_lenses
from lenscore.images.geometry import stack_positions
from lenscore.images.geometry.grids import ImageGeometry
from lenscore.images.image_files import ImageFile
from lenscore.images.preprocessing import THREADS, Batch, BatchReader
from lenscore.lenses import Lens, NextTokenLens
from lenscore.models.decoder import number_of_layers
from lenscore.models.hidden_states import lens_states, run_until
from lenscore.models.loading import Vlm
from lenscore.models.weights import why_not_finite


class NotFiniteError(ValueError):
    """Hidden states that are not finite; the message names image, layer and position."""


@dataclass(frozen=True)
class BatchResults:
    """Results of one batch of images, as host tensors.

    `lenses` has the candidates; the visual tokens of all images are concatenated, in the order of
    `geometries[i].patches`. `norms` float32 [layers, tokens] are the lengths of their hidden states; `own_cosines` and
    `shuffled_cosines`, of the same shape, are those of `drift_cosines`. `unreadable` maps the ids of skipped images to
    the reason.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[ImageGeometry, ...]
    lenses: LensPass
    norms: Tensor
    own_cosines: Tensor
    shuffled_cosines: Tensor
    unreadable: dict[int, str]


class AnalysisEngine:
    """A loaded model and its lenses on one device.

    `layers` are visual layers, ascending (0..N-1, inputs of blocks, and N, the output of the last block), `top_k` is
    the number of candidates of each lens, `threads` that of batches in preparation. Equal images in equal batches give
    equal bytes on one kind of device.
    """

    def __init__(
        self,
        vlm: Vlm,
        lenses: Sequence[Lens],
        layers: Sequence[int],
        top_k: int,
        prompt: str,
        batch_size: int,
        threads: int = THREADS,
    ) -> None:
        self._vlm = vlm
        self._lenses = tuple(lenses)
        self._layers = tuple(layers)
        self._top_k = top_k
        # The model's own distribution of the next token, with which lenses compare theirs.
        needs_last = any(isinstance(lens, NextTokenLens) for lens in lenses)
        depth = number_of_layers(vlm.model)
        self._captured = (*self._layers, *([depth] if needs_last and depth not in layers else []))
        self._reader = BatchReader(vlm, prompt, batch_size, threads)

    def analyze(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[BatchResults]:
        """The results of (id, image) pairs, in batches, in their order; threads prepare the next batches meanwhile.

        Raises InputError for an image that changed since it was found, NotFiniteError for hidden states that are not
        finite.
        """
        sha256 = {image_id: image.sha256 for image_id, image in images}
        for batch in self._reader.read(images):
            yield self._results(batch, sha256)

    def analyze_picture(self, picture: Image.Image) -> BatchResults:
        """The results of one picture (RGB) in memory, as image 0. Raises NotFiniteError as `analyze` does."""
        return self._results(self._reader.batch_of({0: picture}), sha256={0: ""})

    @torch.inference_mode()
    def _results(self, batch: Batch, sha256: Mapping[int, str]) -> BatchResults:
        lenses = LensPass({}, {})
        norms = own = shuffled = torch.empty(len(self._layers), 0)
        if batch.inputs:
            states = self.visual_states(batch, self._captured)
            last, states = states[-1], states[: len(self._layers)]
            norms = torch.linalg.vector_norm(states, dim=2, dtype=torch.float32)
            counts = [len(geometry.patches) for geometry in batch.geometries]
            names = [sha256[image_id] for image_id in batch.image_ids]
            partner = torch.from_numpy(batch_partners(list(zip(names, counts, strict=True)))).to(states.device)
            own, shuffled = drift_cosines(states, norms, self._layers.index(min(self._layers)), partner)
            lenses = apply_lenses(self._lenses, states, self._layers, self._top_k, last)
        measured = norms.cpu(), own.cpu(), shuffled.cpu()
        return BatchResults(batch.image_ids, batch.geometries, lenses, *measured, batch.unreadable)

    def visual_states(self, batch: Batch, layers: Sequence[int] | None = None) -> Tensor:
        """Hidden states [layers, tokens, dim] of the batch's visual tokens, in the model's dtype, on its device.

        `layers` are by default those of the engine.
        """
        layers = self._layers if layers is None else layers
        where = stack_positions(batch.geometries).to(self._vlm.device)
        names = lens_states(layers, number_of_layers(self._vlm.model))
        states = run_until(self._vlm.model, batch.on_device(self._vlm), names)
        # In a model that is spread over several devices, each state is on the device of its block.
        gathered = [states[name][tuple(where.to(states[name].device).T)] for name in names]
        picked = torch.stack([state.to(self._vlm.device) for state in gathered])
        finite = torch.isfinite(picked).all(dim=2)
        if not finite.all():
            layer, token = (int(i) for i in (~finite).nonzero()[0])
            image_id = batch.image_ids[int(where[token, 0])]
            raise NotFiniteError(
                f"image {image_id}: the hidden state of layer {layers[layer]} at position "
                f"{int(where[token, 1])} is not finite: {why_not_finite(self._vlm.model)}"
            )
        return picked
