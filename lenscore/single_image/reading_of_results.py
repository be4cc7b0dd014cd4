"""From the engine's results for one image to an `ImageReading`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.analysis.engine import BatchResults
from lenscore.contexts.tokenization import character_spans
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.row_words import RowWord
from lenscore.index.topk import TopK
from lenscore.models.decoder import DEFAULT_MAX_TOKENS
from lenscore.readings.image_reading import ImageReading, LensReading, Word
from lenscore.readings.words import token_text
from lenscore.single_image.image_source import OpenedImage
from lenscore.viewer.readings import places_and_boxes
from lenscore.viewer.scene_truth import truth_of
from lenscore.viewer.words_of_ids import token_as_word, word_in_sentence


def reading_of(
    image: OpenedImage,
    results: BatchResults,
    layers: Sequence[int],
    tokenizer: Any,
    index: ContextualIndex | None,
    name: str,
    caption: str,
) -> ImageReading:
    """Returns the reading of the only image of a batch.

    Args:
        image: the image.
        results: the batch.
        layers: its visual layers.
        tokenizer: of the model.
        index: the contextual embeddings that lenses over a store searched; None if there was no such lens.
        name: the image's name.
        caption: the image's caption; "" for none.

    """
    (geometry,) = results.geometries
    places, boxes = places_and_boxes([vars(patch) for patch in geometry.patches])
    return ImageReading(
        name=_encodable(name),
        caption=_encodable(caption),
        width=geometry.width,
        height=geometry.height,
        picture=image.picture(),
        views={view.view: view.name for view in geometry.views},
        places=places,
        boxes=boxes,
        layers=tuple(layers),
        lenses=tuple(_lens_reading(lens, top, tokenizer, index) for lens, top in results.tops.items()),
        truth=truth_of(image.path, boxes) if image.path is not None else None,
    )


def _lens_reading(lens: str, top: TopK, tokenizer: Any, index: ContextualIndex | None) -> LensReading:
    ids, scores, contexts = (part.numpy() for part in (top.ids, top.scores, top.contextual_layers))
    if (contexts < 0).all():  # token ids
        known, which = np.unique(ids, return_inverse=True)
        vocabulary = set(tokenizer.get_vocab().values())
        texts = (token_text(tokenizer, i) if i in vocabulary else "" for i in known.tolist())
        return LensReading(lens, tuple(map(token_as_word, texts)), _shaped(which, ids), scores)
    assert index is not None
    # All layers have the same rows, except in caches of the latentlens library.
    differ = len({id(index.words(layer)) for layer in index.available_layers}) > 1
    pairs = np.stack([contexts.ravel() if differ else np.full(ids.size, contexts.min()), ids.ravel()], axis=1)
    known, which = np.unique(pairs, axis=0, return_inverse=True)
    words: list[Word] = []
    for layer in np.unique(known[:, 0]).tolist():  # ascending, as the pairs are
        found = index.words(layer).describe(known[known[:, 0] == layer, 1].tolist())
        words += [_row_word(row, tokenizer) for row in found]
    return LensReading(lens, tuple(words), _shaped(which, ids), scores, contexts)


def _row_word(row: RowWord, tokenizer: Any) -> Word:
    """The row's word in its sentence; the tokenizer finds its characters if they were not stored."""
    start, end = row.start, row.end
    if start < 0:
        place = np.array([row.position])
        try:
            encoded = tokenizer(row.sentence, truncation=True, max_length=DEFAULT_MAX_TOKENS)["input_ids"]
            if encoded[row.position] != row.token_id:
                raise IndexError
            ((start, end),) = character_spans([row.sentence], [place], tokenizer, DEFAULT_MAX_TOKENS).tolist()
        except IndexError:  # made with another tokenizer: a sentence without a mark
            return Word(row.token.strip() or row.token, row.token, row.sentence)
    return word_in_sentence(row.token, row.sentence, start, end)


def _encodable(text: str) -> str:
    """The text with U+FFFD for bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _shaped(which: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return which.reshape(ids.shape).astype(np.int32)
