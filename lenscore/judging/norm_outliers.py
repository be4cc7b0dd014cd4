"""Sink and dead visual tokens: their hidden states have a far larger or smaller norm than the others of their image.

In most models a few visual tokens serve as registers or attention sinks instead of showing the image, and have outlying
norms (Darcet et al., arXiv 2309.16588; Sun et al., arXiv 2402.17762). They are left out only on request, and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lenscore.judging.patches import ImagePatches
from storage_layouts.tables import matrix_of_lists

_TO_SIGMA = 0.6745  # the median absolute deviation of a normal distribution, in standard deviations


def norm_outliers(norms: npt.ArrayLike, cut: float) -> npt.NDArray[np.bool_]:
    """Which tokens are outliers at any layer: bool ``[tokens]`` from ``norms``, float ``[tokens, layers]``, one image.

    At each layer the logarithms of the norms are compared with their median in units of the median absolute
    deviation, scaled to standard deviations (the modified z-score of Iglewicz and Hoaglin, 1993, who advise 3.5);
    an outlier differs by more than ``cut``. Norms of zero are outliers. Where all tokens but a few have the same norm,
    those few are outliers.

    Raises ValueError for norms that are negative or not finite.
    """
    values = np.asarray(norms, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("norms must be finite and not negative")
    dead = values == 0
    logs = np.log(np.where(dead, np.nan, values))
    logs[:, dead.all(axis=0)] = 0.0  # a median needs numbers
    distance = np.abs(logs - np.nanmedian(logs, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = _TO_SIGMA * distance / np.nanmedian(distance, axis=0)
    found: npt.NDArray[np.bool_] = (dead | (scores > cut)).any(axis=1)
    return found


def outlying_patches(
    images: Iterable[ImagePatches], norms: pa.Table, cut: float, layers: Sequence[int] | None = None
) -> frozenset[tuple[int, int, int, int]]:
    """The keys of the outliers among the patches of the images.

    ``norms`` is the table of `LensResults.norms`, ``layers`` are the places of those to look at, by default all.
    Medians include the visual tokens in padding. Raises ValueError if an image has a patch without norms.
    """
    keys = list(zip(*(norms[name].to_pylist() for name in ("image_id", "view", "row", "col")), strict=True))
    values = matrix_of_lists(norms["norms"])
    values = values if layers is None else values[:, list(layers)]
    image_ids = norms["image_id"].to_numpy()
    outlying = np.zeros(len(keys), dtype=bool)
    for image_id in np.unique(image_ids):
        mine = image_ids == image_id
        outlying[mine] = norm_outliers(values[mine], cut)
    known = dict(zip(keys, outlying.tolist(), strict=True))
    asked = [place.key for image in images for place in image.places]
    missing = next((key for key in asked if key not in known), None)
    if missing is not None:
        raise ValueError(f"no norms for the patch (image, view, row, col) {missing}")
    return frozenset(key for key in asked if known[key])
