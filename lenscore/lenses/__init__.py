"""The lenses, by name. To add a lens, write one class and add it here."""

from __future__ import annotations

from collections.abc import Sequence

from lenscore.index.contextual_index import ContextualIndex
from lenscore.lenses.embedding import EmbeddingLens
from lenscore.lenses.explained_variance import ExplainedVariance, References, VarianceExplainer, VectorLens, has_vectors
from lenscore.lenses.latent import LatentLens
from lenscore.lenses.lens import Lens
from lenscore.lenses.logit import LogitLens
from lenscore.lenses.next_token import NextToken, NextTokenLens, reads_next_token
from lenscore.lenses.tuned import TunedLens
from lenscore.lenses.word_scores import WordIds, WordLens, WordScores, scores_words
from lenscore.models.loading import LanguageModel
from storage_layouts.errors import InputError
from storage_layouts.tuned_lens import TunedLensFiles

LENSES: dict[str, type[Lens]] = {lens.name: lens for lens in (LatentLens, LogitLens, EmbeddingLens, TunedLens)}
"""Every lens that `--lenses` accepts."""

__all__ = [
    "LENSES",
    "EmbeddingLens",
    "ExplainedVariance",
    "LatentLens",
    "Lens",
    "LogitLens",
    "NextToken",
    "NextTokenLens",
    "References",
    "TunedLens",
    "VarianceExplainer",
    "VectorLens",
    "WordIds",
    "WordLens",
    "WordScores",
    "build_lenses",
    "has_vectors",
    "lenses_named",
    "needs_translators",
    "reads_next_token",
    "scores_words",
]


def lenses_named(names: str) -> list[type[Lens]]:
    """The lenses of a comma-separated list, in its order.

    Raises InputError for an unknown or repeated name, and for an empty list.
    """
    requested = [name.strip() for name in names.split(",") if name.strip()]
    for name in requested:
        if name not in LENSES:
            raise InputError(f"--lenses: {name!r} is not a lens; expected some of {', '.join(LENSES)}")
    if not requested or len(set(requested)) < len(requested):
        raise InputError(f"--lenses {names!r}: expected each of {', '.join(LENSES)} at most once, and at least one")
    return [LENSES[name] for name in requested]


def needs_translators(lens: type[Lens]) -> bool:
    """Whether a lens needs a trained Tuned Lens."""
    return issubclass(lens, TunedLens)


def build_lenses(
    kinds: Sequence[type[Lens]], llm: LanguageModel, index: ContextualIndex | None, tuned: TunedLensFiles | None
) -> list[Lens]:
    """Build lenses for one model, each with what it needs. Raises InputError if that is missing or does not fit."""
    return [
        kind.from_files(llm, tuned)
        if tuned is not None and issubclass(kind, TunedLens)
        else kind.from_model(llm, index if kind.needs_store else None)
        for kind in kinds
    ]
