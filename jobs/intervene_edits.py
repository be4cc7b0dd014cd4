"""Erasing and writing words in an intervene run: what is looked up for it, where, and the lines of its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jobs.intervene_settings import InterveneSettings
from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.row_words import RowWords
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.interventions.names import DIRECTIONS, EVERYWHERE, SAID, SAMPLED, TRUTH, place_of
from lenscore.interventions.substitutes import Candidates
from lenscore.interventions.substitution import AnsweredPass, Effect
from lenscore.interventions.word_directions import WordDirections
from lenscore.interventions.word_edits import AskedEdit, WordEdit, edits_of
from lenscore.judging.patches import ImagePatches
from lenscore.judging.truth_files.regions import BoxRegion
from lenscore.lenses import VectorLens, WordIds
from lenscore.models.changed_states import ChangedStates
from lenscore.readings.words import folded, token_word
from lenscore.word_maps.asked_words import (
    first_tokens,
    other_word,
    require_rows,
    rows_of_words,
    says_word,
    tokens_of_word,
)
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults

Places = list[list[int]]
"""View, row and column of some patches."""


def words_looked_up(
    settings: InterveneSettings, results: LensResults, lenses: Sequence[str], tokenizer: Any
) -> dict[str, str]:
    """For each word that is erased or written, another one as a control. Raises InputError for an unknown word."""
    words = _distinct(settings)
    store = results.store() if words and set(lenses) & set(results.store_lenses) else None
    for word in words:
        tokens_of_word(word, tokenizer)
    if store is not None:
        require_rows(words, store, tokenizer)
    table = None if store is None else RowWords.of_store(store)
    return {word: other_word(word, words, table, tokenizer, settings.seed) for word in words}


def edited_places(
    settings: InterveneSettings, image: ImagePatches, sampled: Places, objects: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Places]]:
    """By edit and word the patches of an image, where they do not depend on the candidates (`SAID`).

    `sampled` are its patches of the sample, `objects` have words and patches.
    """
    return {
        edit: {word: _places(settings, place, word, image, sampled, objects) for word in words}
        for edit, words in settings.edited_words.items()
        if (place := place_of(edit, settings.at)) != SAID
    }


def _places(
    settings: InterveneSettings,
    at: str,
    word: str,
    image: ImagePatches,
    sampled: Places,
    objects: Sequence[Mapping[str, Any]],
) -> Places:
    if at == SAMPLED:
        return sampled
    every = [[place.view, place.row, place.col] for place in image.places]
    if at == EVERYWHERE:
        return every
    if settings.box is not None:
        scale = np.array([image.width, image.height] * 2)
        region = BoxRegion(tuple((np.array(settings.box) / scale).tolist()), image.width, image.height)
        on = region.coverage(np.array([place.box for place in image.places])) >= settings.cover
        return [place for place, is_on in zip(every, on, strict=True) if is_on]
    name = folded(word if at == TRUTH else at.removeprefix(f"{TRUTH}:"))
    found = {tuple(place) for one in objects if name in one["words"] for place in one["patches"]}
    return sorted(map(list, found))


def passes_of_edits(settings: InterveneSettings, lenses: int, layers: int) -> int:
    """The number of changed passes of an image at most, each followed by an answer."""
    words = sum(map(len, settings.edited_words.values()))
    moving = sum(map(bool, settings.dose_values))
    return words * lenses * layers * (len(settings.dose_values) + moving * (len(DIRECTIONS) - 1))


def _distinct(settings: InterveneSettings) -> list[str]:
    return list(dict.fromkeys(word for words in settings.edited_words.values() for word in words))


class EditedImage(NamedTuple):
    """What the edits of an image need.

    Attributes:
        image_id: of the run.
        sha256: of its file.
        at: what `edited_places` found.
        numbers: the number of each patch among the visual tokens.
        passed: the unchanged pass.
        generated: the answer that the model generates then, ids [n].
        is_own: whether it is also the answer of the pass.
        answers: generates the answers [n] each with other states in layer, positions and states.

    """

    image_id: int
    sha256: str
    at: Mapping[str, Mapping[str, Places]]
    numbers: Mapping[tuple[int, ...], int]
    passed: AnsweredPass
    generated: Tensor
    is_own: bool
    answers: Callable[[int, Sequence[ChangedStates]], list[Tensor]]


class WordEditor:
    """Erases and writes the words of a run. Raises InputError for a word that no search may find."""

    def __init__(
        self,
        settings: InterveneSettings,
        others: Mapping[str, str],
        lenses: Mapping[str, VectorLens],
        index: ContextualIndex | None,
        tokenizer: Any,
        results: LensResults,
    ) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        words = _distinct(settings)
        both = [*words, *(others[word] for word in words)]
        tokens: list[WordIds] = [{NO_CONTEXTUAL_LAYER: tokens_of_word(word, tokenizer)} for word in both]
        rows: list[WordIds] = [] if index is None else _rows(both, index, tokenizer)
        self._numbers = {word: number for number, word in enumerate(words)}
        self._first_tokens = {word: first_tokens(word, tokenizer) for word in words}
        self._directions = {
            name: WordDirections(lens, rows if lens.ids == "rows" else tokens, settings.nearest)
            for name, lens in lenses.items()
        }
        shown = [folded(token_word(text)) for text in results.token_words()] if words else []
        said: list[WordIds] = [
            {NO_CONTEXTUAL_LAYER: [token for token, text in enumerate(shown) if text == folded(word)]} for word in words
        ]
        self._said = {name: rows if lens.ids == "rows" else said for name, lens in lenses.items()}

    def lines(
        self, image: EditedImage, found: Sequence[tuple[int, Mapping[str, Candidates]]], progress: Callable[[], None]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The lines of an image in the tables of edits and of answers; `found` are the candidates by layer."""
        texts = {self._text(image.generated): 0}
        lines = []
        for layer, candidates in found:
            edits = list(self._edits(image, layer, candidates))
            substitutions = [edit.substitution for edit in edits]
            effects = image.passed.effects(
                layer, substitutions, self._settings.batch_tokens, progress, leads=image.is_own
            )
            answers = self._answers(image, layer, edits, effects, progress)
            for edit, effect, answer in zip(edits, effects, answers, strict=True):
                lines.append(self._line(image, layer, edit, effect, answer, texts))
        if not lines:
            return [], []
        return lines, [{"image_id": image.image_id, "answer": i, "text": text} for text, i in texts.items()]

    def _edits(self, image: EditedImage, layer: int, candidates: Mapping[str, Candidates]) -> Iterator[WordEdit]:
        states = image.passed.states(layer)
        name = f"lenscore.interventions/{self._settings.seed}/{image.sha256}/{layer}"
        for edit, words in self._settings.edited_words.items():
            for word in words:
                number = self._numbers[word]
                for lens, found in candidates.items():
                    if edit in image.at:
                        places = sorted(image.numbers[tuple(place)] for place in image.at[edit][word])
                        tokens = np.array(places, np.int64)
                    else:
                        tokens = _saying(found, self._said[lens][number])
                    if len(tokens):
                        other = number + len(self._numbers)
                        asked = AskedEdit(edit, word, number, other, self._first_tokens[word], tokens)
                        doses = self._settings.dose_values
                        yield from edits_of(asked, lens, self._directions[lens], doses, states, name)

    def _answers(
        self,
        image: EditedImage,
        layer: int,
        edits: Sequence[WordEdit],
        effects: Sequence[Effect],
        progress: Callable[[], None],
    ) -> list[Tensor]:
        """The answers of all edits; where the pass shows that it stays the same, it is not generated again."""
        sure = _SURE * torch.finfo(image.passed.states(layer).dtype).eps
        changed = [i for i, effect in enumerate(effects) if not (image.is_own and effect.lead > sure)]
        answers = [image.generated] * len(edits)
        together = max(1, self._settings.batch_tokens // image.passed.recorded.length)
        for first in range(0, len(changed), together):
            some = changed[first : first + together]
            states = [image.passed.changed_states(edits[i].substitution) for i in some]
            for i, answer in zip(some, image.answers(layer, states), strict=True):
                answers[i] = answer
            progress()
        return answers

    def _line(
        self, image: EditedImage, layer: int, edit: WordEdit, effect: Effect, answer: Tensor, texts: dict[str, int]
    ) -> dict[str, Any]:
        asked, text = edit.asked, self._text(answer)
        return {
            "image_id": image.image_id,
            "edit": asked.kind,
            "word": asked.word,
            "tokens": len(edit.substitution.target.tokens),
            "layer": layer,
            "lens": edit.substitution.lens,
            "direction": edit.direction,
            "dose": edit.dose,
            **effect.measures(),
            "answer": texts.setdefault(text, len(texts)),
            "said_before": says_word(next(iter(texts)), asked.word),
            "said": says_word(text, asked.word),
        }

    def _text(self, answer: Tensor) -> str:
        return str(self._tokenizer.decode(answer, skip_special_tokens=True, clean_up_tokenization_spaces=False))


_SURE = 1e4
"""Roundings by which the answer's tokens must lead for the answer to be known; in bfloat16 it never is."""


def _rows(words: Sequence[str], index: ContextualIndex, tokenizer: Any) -> list[WordIds]:
    tables = {layer: index.words(layer) for layer in index.available_layers}
    found: list[WordIds] = [
        {layer: index.candidate_rows(layer, rows) for layer, rows in of_word.items()}
        for of_word in rows_of_words(words, tables, tokenizer)
    ]
    for word, rows in zip(words, found, strict=True):
        if not any(rows.values()):
            raise InputError(
                f"{word!r}: no row that a search may find is this word; expected another word, or another --seed if it "
                "is a control that nobody asked for"
            )
    return found


def _saying(found: Candidates, ids: WordIds) -> np.ndarray:
    """The visual tokens that have one of some ids among their candidates, int64 [m]."""
    said = torch.zeros(found.ids.shape, dtype=torch.bool)
    for layer, of_layer in ids.items():
        said |= (found.contextual_layers == layer) & torch.isin(found.ids, torch.tensor(of_layer, dtype=torch.int64))
    return said.any(dim=1).nonzero()[:, 0].numpy()
