"""The lenses, by name. To add a lens, write one class and add it here."""

from __future__ import annotations

from collections.abc import Sequence

from lenscore.index.contextual_index import ContextualIndex
from lenscore.lenses.descriptions import DescribingLens
from lenscore.lenses.embedding import EmbeddingLens
from lenscore.lenses.explained_variance import ExplainedVariance, VarianceExplainer, VectorLens, has_vectors
from lenscore.lenses.latent import LatentLens
from lenscore.lenses.lens import Lens
from lenscore.lenses.logit import LogitLens
from lenscore.lenses.next_token import NextToken, NextTokenLens, reads_next_token
from lenscore.lenses.patchscopes import USUAL_PROMPT, Patchscopes
from lenscore.lenses.references import References
from lenscore.lenses.tuned import TunedLens
from lenscore.lenses.word_scores import WordIds, WordLens, WordScores, scores_words
from lenscore.models.loading import LanguageModel
from storage_layouts.errors import InputError
from storage_layouts.tuned_lens import TunedLensFiles

LENSES: dict[str, type[Lens]] = {
    lens.name: lens for lens in (LatentLens, LogitLens, EmbeddingLens, TunedLens, Patchscopes)
}
"""Every lens that `--lenses` accepts."""

__all__ = [
    "LENSES",
    "DescribingLens",
    "EmbeddingLens",
    "ExplainedVariance",
    "LatentLens",
    "Lens",
    "LogitLens",
    "NextToken",
    "NextTokenLens",
    "Patchscopes",
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
    "needs_prompt",
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


def needs_prompt(lens: type[Lens]) -> bool:
    """Whether a lens puts states into a prompt."""
    return issubclass(lens, Patchscopes)


def build_lenses(
    kinds: Sequence[type[Lens]],
    llm: LanguageModel,
    index: ContextualIndex | None,
    tuned: TunedLensFiles | None,
    prompt: str | None = None,
    description_tokens: int = 0,
) -> list[Lens]:
    """Build lenses for one model, each with what it needs. Raises InputError if that is missing or does not fit.

    `prompt` is that of Patchscopes, None for its usual one, and `description_tokens` the length of its descriptions.
    """
    lenses: list[Lens] = []
    for kind in kinds:
        if tuned is not None and issubclass(kind, TunedLens):
            lenses.append(kind.from_files(llm, tuned))
        elif issubclass(kind, Patchscopes):
            lenses.append(kind.from_prompt(llm, USUAL_PROMPT if prompt is None else prompt, description_tokens))
        else:
            lenses.append(kind.from_model(llm, index if kind.needs_store else None))
    return lenses
