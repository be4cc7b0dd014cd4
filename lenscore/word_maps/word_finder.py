"""Where words of somebody's choice are in images, by every lens, also where they are far from the best candidates."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.analysis.lens_choice import IndexSource, LensChoice
from lenscore.images.image_files import MAX_PIXELS, UnreadableImageError
from lenscore.index.topk import NO_CONTEXTUAL_LAYER
from lenscore.lenses import Lens, WordIds, WordLens, scores_words
from lenscore.models.flag_types import Quantization
from lenscore.models.loading import Vlm, loadable
from lenscore.readings.lens_titles import title_of
from lenscore.readings.word_reading import WordReading
from lenscore.readings.words import distinct_words, encodable
from lenscore.single_image.analysis import ReadyLenses, ready_lenses
from lenscore.single_image.image_source import ImageSource, OpenedImage, open_image_source
from lenscore.single_image.reading_of_results import bare_reading
from lenscore.word_maps.asked_words import NO_ROW_REMEDY, no_row, require_rows, rows_of_words, tokens_of_word
from lenscore.word_maps.found_words import FoundWords
from storage_layouts.counts import counted
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import InputError


def find_words(
    words: str | Sequence[str],
    image: ImageSource,
    vlm: Vlm | str | os.PathLike[str],
    index: IndexSource | None = None,
    *,
    layers: str | Sequence[int] = "paper",
    lenses: str | Sequence[str] | None = None,
    contextual_layers: str | Sequence[int] = "all",
    prompt: str = "Describe this image.",
    tuned: str | os.PathLike[str] | None = None,
    patchscope_prompt: str | None = None,
    name: str | None = None,
    caption: str = "",
    self_test: bool = True,
    progress: Callable[[str], None] = lambda message: None,
    max_pixels: int = MAX_PIXELS,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    quantization: Quantization = "none",
    trust_remote_code: bool = False,
    revision: str | None = None,
) -> FoundWords:
    """Score words of your choice on every patch of an image, at every layer, by every lens.

    - EmbeddingLens, LogitLens and Tuned Lens look up the tokens of the word as it stands inside a sentence, that is
      with a leading space where the tokenizer has such tokens. The score of a word of one token is that of
      `analyze_image`: a cosine, or a logit, of which there is also the probability (the softmax over the whole
      vocabulary). The score of a word of several tokens is the mean of their scores: of their cosines (the product with
      the mean of their unit embeddings), or of their logits; it has no probability.
    - LatentLens takes the row of the index that is nearest to the state among those that are this word, of any case, at
      any contextual layer.
    - The rank is 1 + the number of candidates (single tokens, or rows) with a higher score. It is exact.

    Args:
        words: one word or several.
        image: a file, a PIL image or an array of pixels.
        vlm: as in `analyze_image`, like all arguments that are not named here.
        index: contextual embeddings of the model's LLM.
        layers: visual layers.
        lenses: names, in the order to show; by default all that have what they need.
        contextual_layers: layers of a store to search.
        prompt: the text after the image.
        tuned: a Tuned Lens of the model's LLM.
        patchscope_prompt: of Patchscopes: identity, description, or a text (see `tokens_of_prompt`). None leaves it
            out, unless `lenses` names it, which then takes identity.
        name: the image's name.
        caption: the image's caption.
        self_test: first check the model.
        progress: called with a description of each step when it begins.
        max_pixels: a file with more pixels is refused.
        device: if `vlm` is a name, this and the following as in `load_vlm`.
        dtype: of the weights.
        quantization: hold them in 8 or 4 bits.
        trust_remote_code: run Python code that comes with the model.
        revision: of a Hub model.

    Raises:
        InputError: a word that the tokenizer does not know, or that no lens has; a lens that cannot be asked for words;
            and as `analyze_image`. A word without a row is left out of LatentLens if another lens has it; `notes` of
            the result say so.

    """
    opened = open_image_source(image, max_pixels)
    finder = WordFinder.load(
        [words] if isinstance(words, str) else words,
        vlm,
        index,
        layers=layers,
        lenses=lenses,
        contextual_layers=contextual_layers,
        prompt=prompt,
        tuned=tuned,
        patchscope_prompt=patchscope_prompt,
        self_test=self_test,
        progress=progress,
        device=device,
        dtype=dtype,
        quantization=quantization,
        trust_remote_code=trust_remote_code,
        revision=revision,
    )
    progress("running the lenses")
    try:
        return finder.find(opened, name, caption)
    except UnreadableImageError as reason:
        raise InputError(f"{opened.path or 'image'}: {reason}") from None


@dataclass(frozen=True)
class _Sought:
    """The ids of the words that a lens has, with their places among all words, and what they are, for people."""

    lens: WordLens
    places: tuple[int, ...]
    ids: tuple[WordIds, ...]
    described: tuple[str, ...]


class WordFinder:
    """Words, a loaded model and its lenses, for any number of images.

    Attributes:
        words: the words.
        notes: words that a lens does not have, one sentence each.

    """

    def __init__(
        self,
        words: Sequence[str],
        ready: ReadyLenses,
        tokens: Sequence[Sequence[int]],
        prompt: str,
        may_lack: bool = False,
    ) -> None:
        self.words = tuple(words)
        self.notes: tuple[str, ...] = ()
        self._ready = ready
        self._is_token = np.array([len(one) == 1 for one in tokens])
        self._sought = [self._looked_up(lens, tokens) for lens in ready.lenses]
        found = {place for sought in self._sought for place in sought.places}
        for place, word in enumerate(self.words):
            if place not in found and not may_lack:
                raise InputError(f"{word!r}: {self._without_rows()}; {NO_ROW_REMEDY}")
        self._engine = AnalysisEngine(ready.vlm, (), ready.layers, 1, prompt, batch_size=1, threads=1)

    @classmethod
    def load(
        cls,
        words: Sequence[str],
        vlm: Vlm | str | os.PathLike[str],
        index: IndexSource | None,
        *,
        layers: str | Sequence[int],
        lenses: str | Sequence[str] | None,
        contextual_layers: str | Sequence[int],
        prompt: str,
        tuned: str | os.PathLike[str] | None,
        patchscope_prompt: str | None,
        self_test: bool,
        progress: Callable[[str], None],
        device: str | torch.device | None,
        dtype: torch.dtype | str | None,
        quantization: Quantization,
        trust_remote_code: bool,
        revision: str | None,
        may_lack: bool = False,
    ) -> WordFinder:
        """Check the words, load the model and look the words up; arguments and errors are those of `find_words`.

        With `may_lack` a word that no lens has is no error.
        """
        words = distinct_words(words)
        source = loadable(vlm, device, dtype, quantization, trust_remote_code, revision)
        tokens: list[tuple[int, ...]] = []

        def check(choice: LensChoice, tokenizer: Any) -> None:
            for kind in choice.kinds:
                if not scores_words(kind):
                    raise InputError(f"--lenses {kind.name}: this lens cannot be asked for a word; leave it out")
            if any(kind.ids == "tokens" for kind in choice.kinds):
                tokens.extend(tokens_of_word(word, tokenizer) for word in words)
            elif isinstance(choice.source, EmbeddingStore) and not may_lack:
                require_rows(words, choice.source, tokenizer)

        ready = ready_lenses(
            source,
            index,
            layers,
            lenses,
            1,
            contextual_layers,
            prompt,
            self_test,
            progress,
            device,
            check,
            tuned,
            patchscope_prompt,
        )
        progress("looking the words up")
        return cls(words, ready, tokens, prompt, may_lack)

    def find(
        self, image: OpenedImage, name: str | None = None, caption: str = "", among: Container[str] | None = None
    ) -> FoundWords:
        """The words in one image, or those `among` them; the others then have no score and the rank 0.

        Raises UnreadableImageError for an image that the model's processor cannot take, InputError for hidden states
        that are not finite.
        """
        try:
            geometry, states = self._engine.states_of_picture(image.pixels)
        except NotFiniteError as error:
            raise InputError(str(error)) from None
        reading = bare_reading(image, geometry, self._ready.layers, name or image.name, caption)
        lenses = tuple(self._scored(sought, states, among) for sought in self._sought)
        path = encodable(str(image.path or name or image.name))
        return FoundWords(reading, self.words, lenses, self._ready.label, path, self.notes)

    def _looked_up(self, lens: Lens, tokens: Sequence[Sequence[int]]) -> _Sought:
        assert isinstance(lens, WordLens)
        tokenizer, index = self._ready.vlm.tokenizer, self._ready.index
        if lens.ids == "tokens":
            ids: list[WordIds] = [{NO_CONTEXTUAL_LAYER: word} for word in tokens]
            said = [" + ".join(tokenizer.convert_ids_to_tokens(list(word))) for word in tokens]
            return _Sought(lens, tuple(range(len(ids))), tuple(ids), tuple(said))
        assert index is not None
        tables = {layer: index.words(layer) for layer in index.available_layers}
        rows = [
            {layer: index.candidate_rows(layer, found) for layer, found in of_word.items()}
            for of_word in rows_of_words(self.words, tables, tokenizer)
        ]
        most = [max(map(len, of_word.values())) for of_word in rows]
        has = tuple(place for place, count in enumerate(most) if count)
        missing = [repr(word) for word, count in zip(self.words, most, strict=True) if not count]
        if missing:
            counts = f"{len(missing)} of {counted(len(self.words), 'word')}"
            self.notes += (f"{title_of(lens.name)}: {counts} left out, {', '.join(missing)}: {self._without_rows()}",)
        said = [counted(count, "row") if count else "" for count in most]
        return _Sought(lens, has, tuple(rows[place] for place in has), tuple(said))

    def _without_rows(self) -> str:
        index = self._ready.index
        assert index is not None
        where = index.store.path if index.store is not None else "the index"
        rows = max(len(index.words(layer)) for layer in index.available_layers)
        return no_row(where, rows)

    def _scored(self, sought: _Sought, states: Tensor, among: Container[str] | None) -> WordReading:
        shape = (len(self.words), *states.shape[:2])
        scores, ranks = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int64)
        asked = [
            (place, ids)
            for place, ids in zip(sought.places, sought.ids, strict=True)
            if among is None or self.words[place] in among
        ]
        if not asked:
            return WordReading(sought.lens.name, sought.described, 0, scores, ranks)
        places = [place for place, _ in asked]
        found = sought.lens.score_words(states, self._ready.layers, [ids for _, ids in asked])
        scores[places], ranks[places] = found.scores.cpu().numpy(), found.ranks.cpu().numpy()
        probabilities = contexts = None
        if found.log_normalizers is not None:
            probabilities = np.exp(scores - found.log_normalizers.cpu().numpy())
            probabilities[~self._is_token] = np.nan
        if found.contextual_layers is not None:
            contexts = np.full(shape, -1, np.int16)
            contexts[places] = found.contextual_layers.cpu().numpy()
        name, described = sought.lens.name, sought.described
        return WordReading(name, described, found.candidates, scores, ranks, probabilities, contexts)
