"""What the engine found on one image, in words: from ids to an `ImageReading`."""

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
from lenscore.viewer.scene_truth import truth_of
from lenscore.viewer.words_of_ids import token_as_word, word_in_sentence


def reading_of(
    image: OpenedImage,
    findings: BatchResults,
    layers: Sequence[int],
    tokenizer: Any,
    index: ContextualIndex | None,
    name: str,
    caption: str,
) -> ImageReading:
    """The reading of the one image in ``findings``; ``index`` is what the latent lens searched, if it was asked."""
    (geometry,) = findings.geometries
    patches = geometry.patches
    places = np.array([(patch.view, patch.row, patch.col) for patch in patches], np.int32).reshape(-1, 3)
    boxes = np.array([(patch.left, patch.top, patch.right, patch.bottom) for patch in patches], np.float32)
    boxes = boxes.reshape(-1, 4)
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
        lenses=tuple(_lens_reading(lens, top, tokenizer, index) for lens, top in findings.tops.items()),
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
    # As a rule all layers have the same rows; those of a cache of the latentlens library may differ.
    differ = len({id(index.words(layer)) for layer in index.available_layers}) > 1
    pairs = np.stack([contexts.ravel() if differ else np.full(ids.size, contexts.min()), ids.ravel()], axis=1)
    known, which = np.unique(pairs, axis=0, return_inverse=True)
    words: list[Word] = []
    for layer in np.unique(known[:, 0]).tolist():  # ascending, as the pairs are
        found = index.words(layer).describe(known[known[:, 0] == layer, 1].tolist())
        words += [_row_word(row, tokenizer) for row in found]
    return LensReading(lens, tuple(words), _shaped(which, ids), scores, contexts)


def _row_word(row: RowWord, tokenizer: Any) -> Word:
    """The row's word in its sentence; where nobody kept its characters, the tokenizer says where they are."""
    start, end = row.start, row.end
    if start < 0:
        place = np.array([row.position])
        try:
            encoded = tokenizer(row.sentence, truncation=True, max_length=DEFAULT_MAX_TOKENS)["input_ids"]
            if encoded[row.position] != row.token_id:
                raise IndexError
            ((start, end),) = character_spans([row.sentence], [place], tokenizer, DEFAULT_MAX_TOKENS).tolist()
        except IndexError:  # made with another tokenizer: the sentence stays without a mark
            return Word(row.token.strip() or row.token, row.token, row.sentence)
    return word_in_sentence(row.token, row.sentence, start, end)


def _encodable(text: str) -> str:
    """The text with what is no character (bytes of a file name that are not UTF-8) as U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _shaped(which: npt.NDArray[Any], ids: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    return which.reshape(ids.shape).astype(np.int32)
