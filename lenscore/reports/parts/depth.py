"""How many layers a model has, as far as an analyze run tells."""

from __future__ import annotations

from storage_layouts.results import LensResults


def depth_of(results: LensResults) -> int | None:
    """The number of blocks of the language model; None where an older run does not tell.

    Such a run tells if the last layer was among the asked ones: ``paper``, ``all`` and -1 name it.
    """
    facts = results.run.require_plan().facts
    if "depth" in facts:
        return int(facts["depth"])
    asked = str(results.run.config.get("layers", "")).replace(" ", "").split(",")
    return max(results.layers) + 1 if {"paper", "all", "-1"} & set(asked) else None
