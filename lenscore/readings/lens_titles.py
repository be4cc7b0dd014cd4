"""What people call a lens, and what its scores are. One that is not among the published ones is shown by its name."""

from __future__ import annotations

from typing import NamedTuple

LATENT = "latent"
"""The name of LatentLens."""


class LensTitle(NamedTuple):
    """For people: the title of a lens, and what its words and scores are."""

    title: str
    unit: str


ANALYZED = {
    LATENT: LensTitle("LatentLens", "nearest word in context · cosine"),
    "logit": LensTitle("LogitLens", "likeliest next token · logit"),
    "embedding": LensTitle("EmbeddingLens", "nearest input embedding · cosine"),
}
"""The lenses of the paper, in the order in which figures give them their colours."""

PUBLISHED = ANALYZED | {
    "tuned": LensTitle("Tuned Lens", "likeliest next token, states translated · logit"),
    "patchscopes": LensTitle("Patchscopes", "likeliest next token behind an identity prompt · logit"),
}
"""These, and those of published rates and result files alone."""


def title_of(lens: str) -> str:
    """What people call a lens."""
    return PUBLISHED[lens].title if lens in PUBLISHED else lens


def unit_of_scores(lens: str) -> str:
    """What the words and the scores of a lens are."""
    return PUBLISHED[lens].unit if lens in PUBLISHED else "score"
