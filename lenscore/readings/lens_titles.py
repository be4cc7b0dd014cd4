"""Titles of lenses, and units of their scores. An unpublished lens is shown by its name."""

from __future__ import annotations

from typing import NamedTuple

LATENT = "latent"
"""The name of LatentLens."""


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
    "patchscopes": LensTitle("Patchscopes", "likeliest next token behind an identity prompt · logit"),
}
"""These, and the lenses that occur only in published rates and result files."""


def title_of(lens: str) -> str:
    """The title of a lens."""
    return PUBLISHED[lens].title if lens in PUBLISHED else lens


def unit_of_scores(lens: str) -> str:
    """The meaning of the words and scores of a lens."""
    return PUBLISHED[lens].unit if lens in PUBLISHED else "score"
