"""Training batches: which pairs a step takes, and their tensors, prepared on threads ahead of the device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lenscore.contexts.sampling import mix64
from lenscore.images.image_files import UnreadableImageError
from lenscore.training.examples import IGNORED, Examples, Row, TextRules
from lenscore.training.pairs import ImageReader, Pair
from storage_layouts.errors import InputError

_THREADS = 4


def epoch_order(pairs: int, epoch: int, seed: int) -> NDArray[np.int64]:
    """The order of the pairs in an epoch: int64 [pairs], by hash(seed, epoch, pair)."""
    key = mix64(np.array([seed], np.uint64) ^ mix64(np.array([epoch + 1], np.uint64)))
    return np.argsort(mix64(np.arange(1, pairs + 1, dtype=np.uint64) ^ key), kind="stable")


class BatchOrder:
    """Which pairs each step takes: a function of seed and step alone, so that a run can go on anywhere."""

    def __init__(self, pairs: int, batch_size: int, seed: int) -> None:
        self._pairs, self._batch_size, self._seed = pairs, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def of_step(self, step: int) -> list[int]:
        """Indices of the pairs of step 0, 1, 2, ...; an epoch may end within a batch."""
        indices = []
        for position in range(step * self._batch_size, (step + 1) * self._batch_size):
            epoch, place = divmod(position, self._pairs)
            if epoch != self._epoch:
                self._epoch, self._order = epoch, epoch_order(self._pairs, epoch, self._seed)
            indices.append(int(self._order[place]))
        return indices


@dataclass(frozen=True)
class TrainingBatch:
    """What one process computes of one step.

    Attributes:
        micro: inputs of the model, one forward pass each: input_ids and labels int64 [images, length], padded on the
            right, and pixel_values float32 [images, 3, height, width]. Examples of like length are together, so that
            little is padded. There is no attention mask: what is learnt comes before the padding, so a causal model
            does not see it there, and attention without a mask takes half the time. A pair whose image cannot be read
            has a black one and no labels, so that all processes keep in step.
        tokens: learnt tokens of the whole batch, those of the other processes included.
        unreadable: the pairs that count for nothing, by their index, with the reason.

    """

    micro: tuple[dict[str, Tensor], ...]
    tokens: int
    unreadable: dict[int, str]


class CaptionBatches:
    """The batches of a training, each asked for by its step.

    `visual_tokens` is the number of visual tokens of an image; of `processes` processes this is number `rank`.
    """

    def __init__(
        self,
        pairs: list[Pair],
        processor: Any,
        visual_tokens: int,
        rules: TextRules,
        order: BatchOrder,
        micro_batch_size: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._pairs, self._processor, self._order = pairs, processor, order
        self._examples = Examples(processor.tokenizer, processor.image_token, visual_tokens, rules)
        self._size, self._rank, self._processes = micro_batch_size, rank, processes
        self._reader = ImageReader()
        self._openers = ThreadPoolExecutor(_THREADS)
        self._thread = ThreadPoolExecutor(1)  # one, because a fast tokenizer refuses to be shared
        self._next: tuple[int, Future[TrainingBatch]] | None = None

    def take(self, step: int) -> TrainingBatch:
        """The batch of a step; the next one is prepared meanwhile.

        Raises InputError if an image file has changed, or if not one image of the batch can be read.
        """
        expected, self._next = self._next, None
        future = expected[1] if expected and expected[0] == step else self._thread.submit(self._prepare, step)
        batch = future.result()
        self._next = (step + 1, self._thread.submit(self._prepare, step + 1))
        return batch

    def source_of(self, pair: int) -> str:
        """Where the image of a pair lies."""
        return self._pairs[pair].source

    def _prepare(self, step: int) -> TrainingBatch:
        indices = self._order.of_step(step)
        # All processes open all images: only so does each know how many tokens the whole batch has.
        opened = list(self._openers.map(self._open, indices))
        unreadable = {i: found for i, found in zip(indices, opened, strict=True) if isinstance(found, str)}
        rows = [self._examples.row(self._pairs[i], learnt=i not in unreadable) for i in indices]
        tokens = sum(label != IGNORED for _, labels in rows for label in labels)
        if not tokens:
            raise InputError(
                f"--data: no image of step {step} can be read, e.g. {self._pairs[indices[0]].source}: "
                f"{unreadable[indices[0]]}"
            )
        pictures = [Image.new("RGB", (64, 64)) if isinstance(found, str) else found for found in opened]
        examples = sorted(zip(rows, pictures, strict=True), key=lambda example: len(example[0][0]))
        starts = range(self._rank * self._size, len(examples), self._processes * self._size)
        micro = (self._tensors(examples[start : start + self._size]) for start in starts)
        return TrainingBatch(tuple(micro), tokens, unreadable)

    def _open(self, index: int) -> Image.Image | str:
        try:
            return self._reader.open(self._pairs[index])
        except UnreadableImageError as reason:
            return str(reason)

    def _tensors(self, examples: list[tuple[Row, Image.Image]]) -> dict[str, Tensor]:
        rows, pictures = zip(*examples, strict=True)
        padding = self._processor.tokenizer.pad_token_id
        padding = self._processor.tokenizer.eos_token_id if padding is None else padding
        pad = torch.nn.utils.rnn.pad_sequence
        ids = [torch.tensor(ids) for ids, _ in rows]
        pixels = self._processor.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=padding),
            "labels": pad([torch.tensor(labels) for _, labels in rows], batch_first=True, padding_value=IGNORED),
            "pixel_values": pixels,
        }
