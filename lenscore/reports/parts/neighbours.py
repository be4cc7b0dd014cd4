"""Counts of the contextual layers of LatentLens neighbours, over all patches of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lenscore.readings.lens_titles import LATENT
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """Neighbours by visual layer.

    Attributes:
        visual: the visual layers.
        contextual: the contextual layers of neighbours, ascending.
        counts: the number of all neighbours ``[visual, contextual]``.
        nearest: the number of nearest neighbours ``[visual, contextual]``.
        sums: the sum of the nearest neighbours' layers ``[images, visual]``.
        sizes: the number of patches in ``sums`` ``[images, visual]``.
        searched: the contextual layers of the store that were searched.

    """

    visual: tuple[int, ...]
    contextual: tuple[int, ...]
    counts: Ints
    nearest: Ints
    sums: Ints
    sizes: Ints
    searched: frozenset[int]


def count_neighbours(results: LensResults) -> Neighbours | None:
    """Count over all patches of a run; None for a run without LatentLens."""
    if LATENT not in results.lenses:
        return None
    plan, visual = results.run.require_plan(), np.array(results.layers)
    counts = nearest = np.zeros((len(visual), 0), np.int64)
    sums, sizes = np.zeros((2, plan.items, len(visual)), np.int64)
    for shard in plan.shards():
        images = range(shard.first, shard.stop)
        table = results.results(lens=LATENT, image_ids=images, columns=["image_id", "layer", "contextual_layers"])
        layers = matrix_of_lists(table["contextual_layers"])
        order = np.argsort(visual)
        place = order[np.searchsorted(visual, table["layer"].to_numpy(), sorter=order)]
        counts, nearest = _add(counts, place, layers), _add(nearest, place, layers[:, :1])
        found = layers[:, 0] >= 0
        where = table["image_id"].to_numpy()[found], place[found]
        np.add.at(sums, where, layers[found, 0])
        np.add.at(sizes, where, 1)
    used = np.flatnonzero(counts.sum(axis=0))
    seen = sizes.any(axis=1)
    searched = frozenset(plan.facts.get("contextual_layers") or used.tolist())
    contextual = tuple(used.tolist())
    return Neighbours(results.layers, contextual, counts[:, used], nearest[:, used], sums[seen], sizes[seen], searched)


def _add(counts: Ints, place: Ints, layers: npt.NDArray[np.int16]) -> Ints:
    """Add neighbours to counts, with further columns for new layers."""
    columns = max(1, counts.shape[1], int(layers.max(initial=-1)) + 1)  # no neighbour where no image was readable
    codes = (place[:, None] * columns + layers)[layers >= 0]
    found = np.bincount(codes, minlength=counts.shape[0] * columns).reshape(-1, columns)
    found[:, : counts.shape[1]] += counts
    return found
