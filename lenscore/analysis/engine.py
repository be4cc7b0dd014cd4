"""The analysis of images on one device: one forward pass a batch, then every lens on every asked layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from lenscore.analysis.drift import batch_partners, drift_cosines
from lenscore.images.geometry import ImageGeometry, stack_positions
from lenscore.images.image_files import ImageFile
from lenscore.images.preprocessing import THREADS, Batch, BatchReader
from lenscore.index.topk import TopK
from lenscore.lenses import Lens
from lenscore.models.finite import why_not_finite
from lenscore.models.hidden_states import run_until
from lenscore.models.loading import Vlm


class NotFiniteError(ValueError):
    """Hidden states that are not finite; the message names image, layer and position."""


@dataclass(frozen=True)
class BatchResults:
    """What the lenses said of one batch of images.

    `tops[lens]` holds host tensors [layers, tokens, k]: the visual tokens of image after image, each image's in the
    order of its `geometries[i].patches`. `norms` float32 [layers, tokens] are the lengths of their hidden states;
    `own_cosines` and `shuffled_cosines`, of the same shape, are what `drift_cosines` makes of them.
    `unreadable` maps the ids of images that were skipped to the reason.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[ImageGeometry, ...]
    tops: dict[str, TopK]
    norms: Tensor
    own_cosines: Tensor
    shuffled_cosines: Tensor
    unreadable: dict[int, str]


class AnalysisEngine:
    """A model and its lenses on one device; loads nothing itself.

    `layers` are visual layers (0..N-1, inputs of blocks), `top_k` how many candidates each lens keeps, `threads` how
    many batches are prepared at a time. Equal images in equal batches give equal bytes on one kind of device.
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
        """The findings on (id, image) pairs, batch after batch in their order.

        While the device works on one batch, threads prepare the next ones. Raises InputError for an image that
        changed since it was found, NotFiniteError (naming image and layer) for hidden states that are not finite.
        """
        sha256 = {image_id: image.sha256 for image_id, image in images}
        for batch in self._reader.read(images):
            yield self._findings(batch, sha256)

    def analyze_picture(self, picture: Image.Image) -> BatchResults:
        """The findings on one picture (RGB) in memory, as image 0; NotFiniteError as in `analyze`."""
        no_file = {0: ""}
        return self._findings(self._reader.batch_of({0: picture}), no_file)

    @torch.inference_mode()
    def _findings(self, batch: Batch, sha256: Mapping[int, str]) -> BatchResults:
        tops: dict[str, TopK] = {}
        norms = own = shuffled = torch.empty(len(self._layers), 0)
        if batch.inputs is not None:
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
        assert batch.inputs is not None
        where = stack_positions(batch.geometries).to(self._vlm.device)
        inputs = {
            name: value.to(self._vlm.device, self._vlm.model.dtype if value.is_floating_point() else None)
            for name, value in batch.inputs.items()
        }
        states = run_until(self._vlm.model, inputs, self._layers)
        # In a model that is spread over several devices, each state is on that of its block.
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
