"""The numbers of a report, recomputed with pandas from the files of its runs, without lenscore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t

PATCH = ["image_id", "view", "row", "col"]


def raw_verdicts(run: Path) -> pd.DataFrame:
    """All verdicts of a judge run."""
    return pd.concat(
        (pd.read_json(path, lines=True) for path in sorted((run / "verdicts").iterdir())), ignore_index=True
    )


def answers(run: Path, control: str = "") -> pd.DataFrame:
    """1 yes, 0 no, NaN neither, by patch and (lens, layer), of a run with one judge."""
    verdicts = raw_verdicts(run)
    verdicts = verdicts[verdicts["control"] == control]
    verdicts["yes"] = verdicts["outcome"].map({"yes": 1.0, "no": 0.0})
    return verdicts.pivot(index=PATCH, columns=["lens", "layer"], values="yes")


def rank_of_first_fit(run: Path) -> pd.DataFrame:
    """The place (1, 2, ...) of the first fitting word by patch and (lens, layer); infinity without one."""
    verdicts = raw_verdicts(run)
    verdicts = verdicts[verdicts["control"] == ""]
    verdicts["rank"] = [
        min((place for place, word in enumerate(words, 1) if word in fitting), default=float("inf"))
        for words, fitting in zip(verdicts["candidates"], verdicts["fitting"], strict=True)
    ]
    return verdicts.pivot(index=PATCH, columns=["lens", "layer"], values="rank")


def neighbours(run: Path) -> pd.DataFrame:
    """A line for each patch and layer: the contextual layers of its LatentLens neighbours, best first."""
    parts = sorted((run / "results").glob("*.parquet"))
    table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
    return table[table["lens"] == "latent"]


def facts(run: Path) -> dict:
    """The facts of a run's plan."""
    return json.loads((run / "plan.json").read_text())["facts"]


def wilson_over_images(values: pd.Series, most: int) -> tuple[float, float]:
    """Wilson's interval for as many answers as the variance over images amounts to.

    With Student's quantile for the degrees of freedom that a variance of such values has: 2 n / (kurtosis - 1).
    """
    images = (values - values.mean()).groupby("image_id").sum() / len(values)
    variance = len(images) / (len(images) - 1) * (images**2).sum()
    p, n = values.mean(), min(most, values.mean() * (1 - values.mean()) / variance)
    kurtosis = (images**4).mean() / (images**2).mean() ** 2
    z = t.ppf(0.975, np.clip(2 * len(images) / (kurtosis - 1), 1, len(images) - 1))
    middle, half = (p + z * z / (2 * n)), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
