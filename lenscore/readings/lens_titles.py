"""Titles of the lenses, and the meaning of their scores."""

from __future__ import annotations

from typing import NamedTuple

LATENT = "latent"
"""The name of LatentLens."""
SAVED_LOGIT = "logit-page"
"""The name of LogitLens in saved pages of other tools, which have probabilities in place of logits."""


class LensTitle(NamedTuple):
    """The title of a lens, and the meaning of its words and scores."""

    title: str
    unit: str


ANALYZED = {
    LATENT: LensTitle("LatentLens", "nearest word in context · cosine"),
    "logit": LensTitle("LogitLens", "likeliest next token · logit"),
    "embedding": LensTitle("EmbeddingLens", "nearest input embedding · cosine"),
}
"""The lenses of the paper, in the order of their colours in figures."""

PUBLISHED = ANALYZED | {
    "tuned": LensTitle("Tuned Lens", "likeliest next token, states translated · logit"),
    SAVED_LOGIT: LensTitle("LogitLens", "likeliest next token · probability"),
    "patchscopes": LensTitle("Patchscopes", "likeliest next token behind a prompt · logit"),
}
"""These, and the lenses that occur only in published rates and result files."""

ATTENTION = {
    "attention": LensTitle("Attention", "mean over the heads of the block"),
    "rollout": LensTitle("Attention rollout", "of all blocks up to this one"),
}
"""What is drawn like a lens, but is none."""


def title_of(lens: str) -> str:
    """Returns the title of a lens: a published one, or the ``title`` of a registered class, or else its name."""
    return _titled(lens).title


def unit_of_scores(lens: str) -> str:
    """Returns the meaning of a lens's words and scores: published, or the ``unit`` of its class, or else "score"."""
    return _titled(lens).unit


def _titled(lens: str) -> LensTitle:
    if lens in PUBLISHED or lens in ATTENTION:
        return (PUBLISHED | ATTENTION)[lens]
    from lenscore.lenses import LENSES  # loads PyTorch, which the published lenses do not need here

    kind = LENSES.get(lens)
    return LensTitle(getattr(kind, "title", lens), getattr(kind, "unit", "score"))
