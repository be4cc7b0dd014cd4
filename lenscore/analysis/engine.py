"""The analysis of images on one device: one forward pass for each batch, then every lens on every requested layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lenscore.analysis.drift import batch_partners, drift_cosines
from lenscore.images.geometry import stack_positions
from lenscore.images.geometry.grids import ImageGeometry
from lenscore.images.image_files import ImageFile
from lenscore.images.preprocessing import THREADS, Batch, BatchReader
from lenscore.index.topk import TopK
from lenscore.lenses import Lens
from lenscore.models.hidden_states import run_until
from lenscore.models.loading import Vlm
from lenscore.models.weights import why_not_finite


class NotFiniteError(ValueError):
    """Hidden states that are not finite; the message names image, layer and position."""


@dataclass(frozen=True)
class BatchResults:
    """Results of one batch of images, as host tensors.

    `tops[lens]` is [layers, tokens, k]; the visual tokens of all images are concatenated, in the order of
    `geometries[i].patches`. `norms` float32 [layers, tokens] are the lengths of their hidden states; `own_cosines` and
    `shuffled_cosines`, of the same shape, are those of `drift_cosines`. `unreadable` maps the ids of skipped images to
    the reason.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[ImageGeometry, ...]
    tops: dict[str, TopK]
    norms: Tensor
    own_cosines: Tensor
    shuffled_cosines: Tensor
    unreadable: dict[int, str]


class AnalysisEngine:
    """A loaded model and its lenses on one device.

    `layers` are visual layers (0..N-1, inputs of blocks), `top_k` is the number of candidates of each lens, `threads`
    that of batches in preparation. Equal images in equal batches give equal bytes on one kind of device.
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
        tops: dict[str, TopK] = {}
        norms = own = shuffled = torch.empty(len(self._layers), 0)
        if batch.inputs:
            states = self.visual_states(batch)
            norms = torch.linalg.vector_norm(states, dim=2, dtype=torch.float32)
            counts = [len(geometry.patches) for geometry in batch.geometries]
            names = [sha256[image_id] for image_id in batch.image_ids]
            partner = torch.from_numpy(batch_partners(list(zip(names, counts, strict=True)))).to(states.device)
            own, shuffled = drift_cosines(states, norms, self._layers.index(min(self._layers)), partner)
            for lens in self._lenses:
                top = lens.top(states, self._layers, self._top_k)
                tops[lens.name] = TopK(*(part.cpu() for part in top))
        measured = norms.cpu(), own.cpu(), shuffled.cpu()
        return BatchResults(batch.image_ids, batch.geometries, tops, *measured, batch.unreadable)

    def visual_states(self, batch: Batch) -> Tensor:
        """Hidden states [layers, tokens, dim] of the batch's visual tokens, in the model's dtype, on its device."""
        where = stack_positions(batch.geometries).to(self._vlm.device)
        states = run_until(self._vlm.model, batch.on_device(self._vlm), self._layers)
        # In a model that is spread over several devices, each state is on the device of its block.
        gathered = [states[layer][tuple(where.to(states[layer].device).T)] for layer in self._layers]
        picked = torch.stack([state.to(self._vlm.device) for state in gathered])
        finite = torch.isfinite(picked).all(dim=2)
        if not finite.all():
            layer, token = (int(i) for i in (~finite).nonzero()[0])
            image_id = batch.image_ids[int(where[token, 0])]
            raise NotFiniteError(
                f"image {image_id}: the hidden state of layer {self._layers[layer]} at position "
                f"{int(where[token, 1])} is not finite: {why_not_finite(self._vlm.model)}"
            )
        return picked
