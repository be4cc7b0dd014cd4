"""How well the patches of an image say a noun, by each lens at each layer."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenscore.readings.words import folded, token_word
from lenscore.reports.parts.word_vocabulary import CodedResults, Vocabulary
from lenscore.unseen_nouns.noun_lists import Nouns
from lenscore.word_maps.found_words import FoundWords
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists

LOGIT = "logit"
"""The lens whose probabilities are the internal confidence."""
_PATCH = ("image_id", "view", "row", "col")


@dataclass(frozen=True)
class Evidence:
    """What the lenses say of one noun on one image.

    Attributes:
        ranks: int64 ``[lenses, layers]``, the best rank of a word for the noun on any patch, from 1 on; 0 where no
            patch has it among the candidates that are known.
        candidates: int64 ``[lenses]``, how many candidates there are; of the results of a run, one more than it keeps.
        patches: int64 ``[lenses, layers]``, on how many patches this rank is at most the number of kept candidates.
        places: int64 ``[lenses, layers, 3]``, view, row and column of the first patch with the best rank.
        probability: the largest probability of such a word at any patch and layer by LogitLens; of a run the largest
            that is known, 0 if there is none. NaN without LogitLens or its distributions, and for a noun none of whose
            words is one token.

    """

    ranks: npt.NDArray[np.int64]
    candidates: npt.NDArray[np.int64]
    patches: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    probability: float

    @property
    def strength(self) -> npt.NDArray[np.float64]:
        """1 where the noun is first on a patch, 0 where it is last or not known; by the log of the rank between."""
        share = np.log(np.maximum(self.ranks, 1)) / np.log(self.candidates)[:, None]
        return np.where(self.ranks > 0, 1 - share, 0.0)


def kept_evidence(
    results: LensResults, nouns: Nouns, said: Mapping[int, Iterable[str]]
) -> Iterator[tuple[int, dict[str, Evidence]]]:
    """What the candidates of an analyze run say of the nouns of its images, by image id.

    Each image of `said` comes once, ascending, with its nouns. The model is not needed: a noun that is not among the
    candidates is not known.
    """
    vocabulary = Vocabulary()
    coded = CodedResults(results, vocabulary)
    layers = np.array(results.layers)
    has_chances = LOGIT in results.distribution_lenses
    tokens = one_token_words(results) if has_chances else frozenset[str]()
    for shard in results.run.require_plan().shards():
        image_ids = sorted(image_id for image_id in said if shard.first <= image_id < shard.stop)
        if not image_ids:
            continue
        by_lens = [(found.lens, found.places, found.codes) for found in coded.read(image_ids)]
        probabilities = _probabilities(results, LOGIT, image_ids) if has_chances else None
        code_of = {word: code for code, word in enumerate(vocabulary.words())}
        for image_id in image_ids:
            mine = []
            for lens, places, codes in by_lens:
                lines = places[:, 0] == image_id
                chances = probabilities[lines] if lens == LOGIT and probabilities is not None else None
                mine.append((places[lines], codes[lines], chances))
            found = {}
            for noun in said[image_id]:
                forms = nouns.forms[noun]
                least = np.nan if tokens.isdisjoint(forms) else 0.0
                codes_of_noun = [code_of[form] for form in forms if form in code_of]
                found[noun] = _of_noun(codes_of_noun, mine, layers, results.top_k, least)
            yield image_id, found


def one_token_words(results: LensResults) -> frozenset[str]:
    """The words of the vocabulary of a run."""
    return frozenset(folded(token_word(token)) for token in results.token_words())


def _of_noun(
    codes_of_noun: Sequence[int],
    by_lens: Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float64] | None]],
    layers: npt.NDArray[np.int64],
    top_k: int,
    probability: float,
) -> Evidence:
    shape = len(by_lens), len(layers)
    ranks, patches = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    where = np.zeros((*shape, 3), np.int64)
    for number, (places, codes, chances) in enumerate(by_lens):
        hits = np.isin(codes, np.array(codes_of_noun, np.int32))
        if chances is not None and hits.any():
            probability = float(np.fmax(probability, chances[hits].max()))
        for line in np.flatnonzero(hits.any(axis=1)):
            layer = int(np.flatnonzero(layers == places[line, 4])[0])
            rank = int(hits[line].argmax()) + 1
            patches[number, layer] += 1
            if ranks[number, layer] == 0 or rank < ranks[number, layer]:
                ranks[number, layer], where[number, layer] = rank, places[line, 1:4]
    return Evidence(ranks, np.full(shape[0], top_k + 1), patches, where, probability)


def _probabilities(results: LensResults, lens: str, image_ids: Sequence[int]) -> npt.NDArray[np.float64]:
    """The probability of each candidate, [lines, k], in the order of the results of the lens."""
    lines = results.results(lens=lens, image_ids=image_ids, columns=[*_PATCH, "layer", "scores"])
    kept = results.distributions(lens, image_ids)
    normalizers = matrix_of_lists(kept["log_normalizers"])
    described, asked = (pd.MultiIndex.from_arrays([t[n].to_numpy() for n in _PATCH]) for t in (kept, lines))
    at = described.get_indexer(asked)
    layer = pd.Index(results.layers).get_indexer(lines["layer"].to_numpy())
    return np.exp(matrix_of_lists(lines["scores"]).astype(np.float64) - normalizers[at, layer][:, None])


def exact_evidence(found: FoundWords, forms: Container[str], top_k: int) -> Evidence:
    """The same for all words of a noun from their ranks at every patch of an image, as `lens find` has them.

    `top_k` is up to which rank a patch counts among `Evidence.patches`. Words that were not looked for do not count.
    """
    words = [place for place, word in enumerate(found.words) if word in forms]
    ranks, patches, places, probability = [], [], [], np.nan
    never = np.iinfo(np.int64).max
    for lens in found.lenses:
        of_words = lens.ranks[words]  # [words, layers, patches], 0 for a word that the lens does not have
        far = np.where(of_words > 0, of_words, never).min(axis=0, initial=never)  # [layers, patches]
        best = far.argmin(axis=1)
        lowest = far.min(axis=1)
        ranks.append(np.where(lowest == never, 0, lowest))
        patches.append((far <= top_k).sum(axis=1))
        places.append(found.reading.places[best])
        if lens.lens == LOGIT and lens.probabilities is not None and words:
            probability = float(np.fmax.reduce(lens.probabilities[words], axis=None))
    candidates = np.array([max(lens.candidates, 2) for lens in found.lenses])
    return Evidence(np.stack(ranks), candidates, np.stack(patches), np.stack(places).astype(np.int64), probability)
