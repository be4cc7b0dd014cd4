"""Measures of the hidden state of every visual token at every visual layer of an analyze run.

    norms/part-00012.parquet          L2 norm; shows sink and dead tokens (lenscore/judging/norm_outliers.py)
    cosines/part-00012.parquet        cosine with the state at the lowest visual layer of the run: of the same token
                                      (own), and of another visual token of the image (shuffled, the baseline of
                                      lenscore/analysis/drift.py). NaN if there is no other token, or a state has
                                      length 0
    dimensions/part-00012.parquet     with `--rogue-dimensions`: the shares of LatentLens' best cosine that the largest
                                      product of two coordinates makes (first) and the five largest (five), and
                                      which dimension the largest is (lenscore/analysis/rogue_dimensions.py)
    distributions/part-00012.parquet  of each lens whose scores are logits: numbers of softmax(logits) over the whole
                                      vocabulary, in nats: log_normalizers (the probability of a candidate is
                                      exp(score - log_normalizer)), entropies, and divergences, KL(final || layer)
                                      from what the lens reads after the last block

    descriptions/part-00012.parquet   of each lens that describes states in words of its own: a text for each layer
    explained/part-00012.parquet      with `--explained`, of each lens that compares with vectors: the squared distance
                                      of what it compares from its mean over the visual tokens of the image (variances),
                                      and the share of it that the best candidate explains, the five best (all, of a run
                                      with fewer), and as many random ones (lenscore/lenses/explained_variance.py). NaN
                                      where the variance is 0

    texts/part-00012.parquet          with `--tokens text` or generated: the tokens of prompt and answer
    text_results/, text_distributions/, text_descriptions/  what the lenses say at these tokens

The parts are in the receipt of the shard, beside results and geometry. Older runs do not have them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

PATCH_KEY = (("image_id", pa.int32()), ("view", pa.int16()), ("row", pa.int16()), ("col", pa.int16()))
"""Columns that identify a patch of a run."""
DIMENSIONS = "dimensions"
LARGEST = 5
"""Dimensions that the column `five` of `DIMENSIONS` adds up."""
MEASURES = {"norms": ("norms",), "cosines": ("own", "shuffled"), DIMENSIONS: ("first", "five", "dimension")}
"""Columns by measure, which is also the name of the folder."""
PROMPT, ANSWER = -1, -2
"""Views of tokens of text: of the prompt, with all that the processor puts around it, and of the model's answer."""
TEXT_ROW = 1 << 15
"""The position of such a token in the model's input is row * TEXT_ROW + column."""
TEXTS, TEXT_RESULTS, TEXT_DISTRIBUTIONS = "texts", "text_results", "text_distributions"
"""Parts of runs that describe tokens of text: which tokens, and what `results` and `distributions` are for patches."""
TEXT_SCHEMA = pa.schema([*PATCH_KEY, ("token_id", pa.int32())])
DISTRIBUTIONS = "distributions"
"""The measure of lenses; a run without a lens that reads distributions does not have it."""

DESCRIPTIONS, TEXT_DESCRIPTIONS = "descriptions", "text_descriptions"
"""Parts of runs in which a lens describes states, at patches and at tokens of text."""


def description_schema(layers: int) -> pa.Schema:
    """Schema of `DESCRIPTIONS`: one line per (image, view, row, col, lens), with a text for each layer."""
    return pa.schema([*PATCH_KEY, ("lens", pa.string()), ("texts", pa.list_(pa.string(), layers))])


EXPLAINED = "explained"
"""The measure of lenses that compare with vectors, in runs that asked for it."""
EXPLAINED_NUMBERS = ("variances", "explained_1", "explained_5", "random_1", "random_5")


def distribution_schema(layers: int) -> pa.Schema:
    """Schema of `DISTRIBUTIONS`: one line per (image, view, row, col, lens), with float32 lists over the layers."""
    return _schema_of_lenses(("log_normalizers", "entropies", "divergences"), layers)


def explained_schema(layers: int) -> pa.Schema:
    """Schema of `EXPLAINED`: one line per (image, view, row, col, lens), with float32 lists over the layers."""
    return _schema_of_lenses(EXPLAINED_NUMBERS, layers)


def _schema_of_lenses(numbers: Sequence[str], layers: int) -> pa.Schema:
    lists = ((name, pa.list_(pa.float32(), layers)) for name in numbers)
    return pa.schema([*PATCH_KEY, ("lens", pa.string()), *lists])


def measure_schema(measure: str, layers: int) -> pa.Schema:
    """Schema of one of `MEASURES`: one line per (image, view, row, col), with a float32 list over the visual layers."""
    return pa.schema([*PATCH_KEY, *((name, pa.list_(pa.float32(), layers)) for name in MEASURES[measure])])
