"""The analysis of images on one device: one forward pass for each batch, then every lens on every requested layer."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from lenscore.analysis.drift import batch_partners, drift_cosines
from lenscore.analysis.lens_pass import LensPass, apply_lenses
from lenscore.analysis.rogue_dimensions import largest_dimensions
from lenscore.images.geometry import stack_positions, visual_tokens
from lenscore.images.geometry.grids import ImageGeometry
from lenscore.images.image_files import ImageFile, UnreadableImageError
from lenscore.images.preprocessing import THREADS, Batch, BatchReader, require_room_for_image
from lenscore.index.topk import TopK
from lenscore.lenses import LatentLens, Lens, NextTokenLens, VarianceExplainer, VectorLens
from lenscore.models.decoder import number_of_layers, text_config_of
from lenscore.models.greedy_answer import followed_by, greedy_answer
from lenscore.models.hidden_states import lens_states, run_until
from lenscore.models.loading import Vlm
from lenscore.models.weights import why_not_finite

STATES_TOGETHER = 2**30
"""Bytes of hidden states from which on they are searched, where each search reads an index from host memory or files.
"""


class NotFiniteError(ValueError):
    """Hidden states that are not finite; the message names image, layer and position."""


@dataclass(frozen=True)
class BatchResults:
    """Results of one batch of images, as host tensors.

    `lenses` has the candidates; the visual tokens of all images are concatenated, in the order of
    `geometries[i].patches`. `norms` float32 [layers, tokens] are the lengths of their hidden states; `own_cosines` and
    `shuffled_cosines`, of the same shape, are those of `drift_cosines`. `unreadable` maps the ids of skipped images to
    the reason. `texts` are the tokens of the prompts and answers, and `dimensions` what `largest_dimensions` returns
    for the latent lens, if they were asked for.
    """

    image_ids: tuple[int, ...]
    geometries: tuple[ImageGeometry, ...]
    lenses: LensPass
    norms: Tensor
    own_cosines: Tensor
    shuffled_cosines: Tensor
    unreadable: dict[int, str]
    texts: TextTokens | None = None
    dimensions: tuple[Tensor, Tensor, Tensor] | None = None


@dataclass(frozen=True)
class TextTokens:
    """The tokens of prompts and answers of a batch, image by image, as `LensPass` has them.

    int32 [tokens]: the image of each (its id), its position in the model's input, its id in the vocabulary; and whether
    it is of the answer.
    """

    image_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    token_ids: npt.NDArray[np.int32]
    is_answer: npt.NDArray[np.bool_]
    lenses: LensPass


class AnalysisEngine:
    """A loaded model and its lenses on one device.

    `layers` are visual layers, ascending (0..N-1, inputs of blocks, and N, the output of the last block), `top_k` is
    the number of candidates of each lens, `threads` that of batches in preparation. `tokens` are those that are
    described: "image", also "text" (the prompt) and "generated" (the model's answer, of `max_new_tokens` at most). To
    answer, the model takes one image at a time. An index that is streamed is read once for as many images of a shard as
    `STATES_TOGETHER` says. With `explained`, the candidates of image tokens also say how much of
    the variance of the states they explain. `dimensions` asks for the share of the latent lens's cosines that the
    largest dimensions make. Equal images in equal batches give equal bytes on one kind of device.
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
        tokens: Collection[str] = ("image",),
        max_new_tokens: int = 0,
        explained: bool = False,
        dimensions: bool = False,
    ) -> None:
        self._vlm = vlm
        self._dimensions = dimensions
        self._tokens = frozenset(tokens)
        self._max_new_tokens = max_new_tokens
        self._lenses = tuple(lenses)
        with_vectors = [lens for lens in lenses if explained and isinstance(lens, VectorLens)]
        self._streaming = [lens for lens in lenses if isinstance(lens, LatentLens) and lens.index.streams]
        self._explainers = {lens.name: VarianceExplainer(lens) for lens in with_vectors}
        self._layers = tuple(layers)
        self._top_k = top_k
        # The model's own distribution of the next token, with which lenses compare theirs.
        needs_last = any(isinstance(lens, NextTokenLens) for lens in lenses)
        depth = number_of_layers(vlm.model)
        self._captured = (*self._layers, *([depth] if needs_last and depth not in layers else []))
        self._reader = BatchReader(vlm, prompt, 1 if "generated" in self._tokens else batch_size, threads)

    def analyze(self, images: Sequence[tuple[int, ImageFile]]) -> Iterator[BatchResults]:
        """The results of (id, image) pairs, in batches, in their order; threads prepare the next batches meanwhile.

        Raises InputError for an image that changed since it was found or is longer than the model's context with prompt
        and answer, NotFiniteError for hidden states that are not finite.
        """
        sha256 = {image_id: image.sha256 for image_id, image in images}
        names = {image_id: str(image.path) for image_id, image in images}
        waiting: list[_Forward] = []
        for batch in self._reader.read(images):
            self._require_room(batch, names)
            waiting.append(self._forward(batch))
            if not self._streaming or sum(forward.bytes for forward in waiting) > STATES_TOGETHER:
                yield from self._results(waiting, sha256)
                waiting = []
        yield from self._results(waiting, sha256)

    def analyze_picture(self, picture: Image.Image, sha256: str = "") -> BatchResults:
        """The results of one picture (RGB) in memory, as image 0. Raises InputError and NotFiniteError as `analyze`.

        `sha256` is that of its file, from which what is random in the results is chosen.
        """
        batch = self._reader.batch_of({0: picture})
        self._require_room(batch, {0: "image"})
        return self._results([self._forward(batch)], {0: sha256})[0]

    def _require_room(self, batch: Batch, names: Mapping[int, str]) -> None:
        if not batch.inputs:
            return
        ids = batch.inputs["input_ids"]
        lengths = batch.inputs.get("attention_mask", torch.ones_like(ids)).sum(dim=1).tolist()
        answer = self._max_new_tokens if "generated" in self._tokens else 0
        for image_id, length in zip(batch.image_ids, lengths, strict=True):
            require_room_for_image(length, answer, text_config_of(self._vlm.model.config), names[image_id])

    def states_of_picture(self, picture: Image.Image) -> tuple[ImageGeometry, Tensor]:
        """Where the patches of one picture (RGB) lie, and their hidden states, as in `visual_states`.

        Raises UnreadableImageError for a picture that the processor cannot take, InputError and NotFiniteError as
        `analyze` does.
        """
        batch = self._reader.batch_of({0: picture})
        for reason in batch.unreadable.values():
            raise UnreadableImageError(reason)
        self._require_room(batch, {0: "image"})
        return batch.geometries[0], self.visual_states(batch)

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> _Forward:
        """The hidden states that the lenses are applied to."""
        if not batch.inputs:
            return _Forward(batch)
        inputs = batch.on_device(self._vlm)
        length = inputs["input_ids"].shape[1]
        if "generated" in self._tokens:
            answer = greedy_answer(self._vlm.model, inputs, self._max_new_tokens)
            inputs = followed_by(self._vlm.model, inputs, answer)
        computed = self.forward(inputs, self._captured)
        image = self._picked(computed, batch, stack_positions(batch.geometries))
        text = self._texts(computed, batch, inputs, length) if self._tokens > {"image"} else None
        return _Forward(batch, image, text)

    @torch.inference_mode()
    def _results(self, forwards: Sequence[_Forward], sha256: Mapping[int, str]) -> list[BatchResults]:
        """The results of batches, for which an index that is streamed is read once."""
        known = {lens.name: self._tops(lens, forwards) for lens in self._streaming}
        return [
            self._results_of(forward, sha256, {name: next(tops) for name, tops in known.items()})
            for forward in forwards
        ]

    def _tops(self, lens: Lens, forwards: Sequence[_Forward]) -> Iterator[list[TopK]]:
        """The candidates of a lens for each of `_Forward.states` of each batch."""
        states = [some for forward in forwards for some in forward.states]
        if not states:
            return iter([[] for _ in forwards])
        top = lens.top(torch.cat(states, dim=1), self._layers, self._top_k)
        parts = iter(zip(*(part.split([some.shape[1] for some in states], dim=1) for part in top), strict=True))
        return ([TopK(*next(parts)) for _ in forward.states] for forward in forwards)

    def _results_of(
        self, forward: _Forward, sha256: Mapping[int, str], known: Mapping[str, list[TopK]]
    ) -> BatchResults:
        batch, lenses, texts, dimensions = forward.batch, LensPass({}, {}), None, None
        norms = own = shuffled = torch.empty(len(self._layers), 0)
        if forward.image is not None:
            states, _ = forward.image
            norms = torch.linalg.vector_norm(states, dim=2, dtype=torch.float32)
            counts = [len(geometry.patches) for geometry in batch.geometries]
            names = [sha256[image_id] for image_id in batch.image_ids]
            sizes = list(zip(names, counts, strict=True))
            partner = torch.from_numpy(batch_partners(sizes)).to(states.device)
            own, shuffled = drift_cosines(states, norms, self._layers.index(min(self._layers)), partner)
            lenses = self._applied(forward.image, {name: tops[0] for name, tops in known.items()})
            explained = {
                name: explainer.explain(states, self._layers, lenses.tops[name], sizes)
                for name, explainer in self._explainers.items()
            }
            lenses = lenses._replace(explained=explained)
            for lens in self._lenses:
                if self._dimensions and isinstance(lens, LatentLens):
                    dimensions = largest_dimensions(states, lenses.tops[lens.name], lens.index)
        if forward.text is not None:
            texts, picked = forward.text
            texts = replace(texts, lenses=self._applied(picked, {name: tops[1] for name, tops in known.items()}))
        measured = norms.cpu(), own.cpu(), shuffled.cpu()
        return BatchResults(batch.image_ids, batch.geometries, lenses, *measured, batch.unreadable, texts, dimensions)

    def _applied(self, picked: tuple[Tensor, Tensor], known: Mapping[str, TopK]) -> LensPass:
        states, last = picked
        return apply_lenses(self._lenses, states, self._layers, self._top_k, last, known)

    def visual_states(self, batch: Batch) -> Tensor:
        """Hidden states [layers, tokens, dim] of the batch's visual tokens, in the model's dtype, on its device."""
        computed = self.forward(batch.on_device(self._vlm), self._layers)
        return self._picked(computed, batch, stack_positions(batch.geometries))[0]

    def forward(self, inputs: dict[str, Tensor], layers: Sequence[int]) -> list[Tensor]:
        """Hidden states [batch, sequence, dim] of all tokens at some layers, each on the device of its block."""
        names = lens_states(layers, number_of_layers(self._vlm.model))
        states = run_until(self._vlm.model, inputs, names)
        return [states[name] for name in names]

    def _picked(self, computed: Sequence[Tensor], batch: Batch, where: Tensor) -> tuple[Tensor, Tensor]:
        """States of tokens [n, 2] (row of the batch, position), [layers, n, dim], and those of the last that was run.

        Raises NotFiniteError if one of them is not finite.
        """
        gathered = [state[tuple(where.to(state.device).T)] for state in computed]
        picked = torch.stack([state.to(self._vlm.device) for state in gathered])
        finite = torch.isfinite(picked).all(dim=2)
        if not finite.all():
            layer, token = (int(i) for i in (~finite).nonzero()[0])
            image_id = batch.image_ids[int(where[token, 0])]
            raise NotFiniteError(
                f"image {image_id}: the hidden state of layer {self._captured[layer]} at position "
                f"{int(where[token, 1])} is not finite: {why_not_finite(self._vlm.model)}"
            )
        return picked[: len(self._layers)], picked[-1]

    def _texts(self, computed: Sequence[Tensor], batch: Batch, inputs: dict[str, Tensor], length: int) -> _Text:
        """The tokens that stand for no image, and their states; those from position `length` on are the answer."""
        ids = inputs["input_ids"]
        is_text = ~visual_tokens(self._vlm, ids)
        if "attention_mask" in inputs:
            is_text &= inputs["attention_mask"].bool()
        if "text" not in self._tokens:
            is_text[:, :length] = False
        where = is_text.nonzero()
        row, position = where.cpu().to(torch.int32).numpy().T
        tokens = TextTokens(
            np.array(batch.image_ids, np.int32)[row],
            position,
            ids[is_text].cpu().to(torch.int32).numpy(),
            position >= length,
            LensPass({}, {}),
        )
        return tokens, self._picked(computed, batch, where)


_Text = tuple[TextTokens, tuple[Tensor, Tensor]]
"""Tokens without what the lenses say of them, and their states."""


@dataclass(frozen=True)
class _Forward:
    """A batch after its forward pass: states [layers, tokens, dim] of image tokens and those after the last block."""

    batch: Batch
    image: tuple[Tensor, Tensor] | None = None
    text: _Text | None = None

    @property
    def states(self) -> list[Tensor]:
        """Those of image tokens, and of texts."""
        picked = [self.image, self.text and self.text[-1]]
        return [found[0] for found in picked if found is not None]

    @property
    def bytes(self) -> int:
        """Size of the states."""
        return sum(states.numel() * states.element_size() for states in self.states)
