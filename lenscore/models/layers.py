"""Which layers of a model are analysed: those of the paper, of the latentlens library, or of the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from storage_layouts.errors import InputError

SUPPORTED_MODELS: dict[str, dict[str, Any]] = {
    name: {
        "num_hidden_layers": depth,
        "hidden_size": width,
        "default_layers": [1, 2, 4, 8, 16, 24, depth - 2, depth - 1],
    }
    for name, depth, width in (
        ("allenai/OLMo-7B-1024-preview", 32, 4096),
        ("meta-llama/Meta-Llama-3-8B", 32, 4096),
        ("Qwen/Qwen2-7B", 28, 3584),
    )
}
"""Depth, width and contextual layers of the LLMs of the LatentLens paper. `build_index` uses them, and entries that you
add or change; any other model gets `auto_layers`."""

MODEL_DEFAULTS = SUPPORTED_MODELS
"""The same table under its name in latentlens 0.1.0 on PyPI."""

WIDE_PAPER_LAYERS: dict[int, tuple[int, ...]] = {
    60: (1, 2, 4, 8, 16, 30, 45, 59),
    64: (1, 2, 4, 8, 16, 32, 48, 56, 62, 63),
    80: (1, 2, 4, 8, 16, 40, 60, 72, 78, 79),
}
"""The paper's layers of its deep models, by number of blocks: LLaVA-NeXT-34B, Qwen2.5-VL-32B, Molmo-72B."""

FINAL = "final"
"""A name of the layer after the last block, whose number is that of the blocks."""

DEEP = 48
"""Models with more blocks take layers N/2 and 3N/4 in place of 24, as the paper's deep models do."""


def paper_layers(depth: int, visual: bool) -> tuple[int, ...]:
    """The layers of the LatentLens paper (section 4) for a model of `depth` blocks.

    Contextual: 1, 2, 4, 8, 16, 24, N-2, N-1, and the paper's lists for its models of 60, 64 and 80 blocks; other models
    of more than `DEEP` blocks use N/2 and 3N/4 in place of 24. Visual: layer 0 too. Layers that the model does not have
    are left out.
    """
    middle = (24,) if depth <= DEEP else (depth // 2, 3 * depth // 4)
    layers = WIDE_PAPER_LAYERS.get(depth, (1, 2, 4, 8, 16, *middle, depth - 2, depth - 1))
    return tuple(sorted({layer for layer in (*layers, *([0] if visual else [])) if 0 <= layer < depth}))


def auto_layers(num_hidden_layers: int) -> list[int]:
    """The contextual layers of the latentlens library: 1, 2, 4, 8, 16, 24, N-2, N-1, as far as the model has them."""
    depth = num_hidden_layers
    return sorted({layer for layer in (1, 2, 4, 8, 16, 24, depth - 2, depth - 1) if 0 <= layer < depth})


def default_layers(model_name: str) -> list[int]:
    """The contextual layers that `SUPPORTED_MODELS` has for one of its models.

    Raises InputError if the entry holds no list of layers under "default_layers".
    """
    entry = SUPPORTED_MODELS[model_name]
    layers = entry.get("default_layers") if isinstance(entry, dict) else None
    if not isinstance(layers, (list, tuple)) or not layers or not all(type(layer) is int for layer in layers):
        raise InputError(
            f"SUPPORTED_MODELS[{model_name!r}]: found {entry!r:.100}, "
            "expected a dict in which default_layers is a list of layer numbers"
        )
    return list(layers)


def with_final(requested: str, depth: int) -> str:
    """The same layers, with the output of the last block named "final", so that both spellings are one run."""
    parts = requested.split(",")
    return ",".join(part.replace(str(depth), FINAL) if part.strip() == str(depth) else part for part in parts)


def resolve_layers(requested: str | Sequence[int], depth: int, visual: bool, flag: str = "--layers") -> tuple[int, ...]:
    """Resolve "paper", "all", "0,2,-1", "all,final" or a sequence of integers to distinct layers, ascending.

    Negative layers count from the end, -1 is the input of the last block. `visual` layers of the paper differ from
    contextual ones, and may have layer `depth`, also named "final": the output of the last block. Raises InputError if
    a layer is outside the valid range; layers are never clamped.
    """
    parts = requested.split(",") if isinstance(requested, str) else list(requested)
    named: dict[Any, Sequence[int]] = {"paper": paper_layers(depth, visual), "all": range(depth)}
    if visual:
        named[FINAL] = (depth,)
    expected = f"{', '.join(map(repr, named))} or numbers as in 0,2,-1"
    layers: set[int] = set()
    for part in parts:
        part = part.strip() if isinstance(part, str) else part
        if part in named:
            layers.update(named[part])
            continue
        try:
            layer = int(part)
        except ValueError:
            raise InputError(f"{flag}: {part!r} is not a layer; expected {expected}") from None
        if visual and layer == depth:
            layers.add(depth)
            continue
        if not -depth <= layer < depth:
            last = f", and {depth}, the output of the last one" if visual else ""
            raise InputError(
                f"{flag}: layer {layer} does not exist; the model has {depth} blocks, "
                f"so layers 0 to {depth - 1} (or -{depth} to -1){last}"
            )
        layers.add(layer % depth)
    if not layers:
        raise InputError(f"{flag}: no layer was requested; expected {expected}")
    return tuple(sorted(layers))
