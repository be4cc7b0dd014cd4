from __future__ import annotations

from pathlib import Path

from lenscore.statistics.grid import Grid
from lenscore.statistics.sources import AnalyzeSource, read_sources

CLIP = {"vision": "openai/clip", "vit_layers": [-3, -10], "image_fit": "pad"}
DINO = {"vision": "facebook/dino", "vit_layers": [-2, -9], "image_fit": "squash"}
SAME = {"connector": "swiglu", "seed": 6198, "unfreeze_llm": False}


def sources(folder: Path, make_results, parts: list[dict[str, object] | None]) -> list[AnalyzeSource]:
    """Analyze runs of models that are made of these parts, in this order."""
    runs = [
        make_results(folder / str(i), images=1, unreadable=False, model=f"made/{i}", made_of=made_of).path
        for i, made_of in enumerate(parts)
    ]
    return list(read_sources(runs).analyses)


def test_base_models_make_the_grid_and_ablations_stand_beside_their_cell(tmp_path: Path, make_results) -> None:
    olmo, llama = {"llm": "allenai/OLMo", **SAME}, {"llm": "/models/llama", **SAME, "image_token": "<|reserved|>"}
    found = sources(
        tmp_path,
        make_results,
        [
            olmo | CLIP | {"connector": "linear"},  # named before the base model
            olmo | CLIP,
            olmo | CLIP | {"unfreeze_llm": True, "seed": 10},
            llama | DINO,
            None,
            olmo | DINO,
            llama | CLIP,
        ],
    )
    grid = Grid.of(found)
    assert grid.llms == ("OLMo", "llama")
    assert grid.encoders == ("clip", "dino")
    assert {cell: source.label for cell, source in grid.cells.items()} == {
        ("OLMo", "clip"): "made/1",
        ("llama", "dino"): "made/3",
        ("OLMo", "dino"): "made/5",
        ("llama", "clip"): "made/6",
    }
    assert [(one.source.label, one.llm, one.encoder, one.title) for one in grid.ablations] == [
        ("made/0", "OLMo", "clip", "connector linear"),
        ("made/2", "OLMo", "clip", "seed 10, unfreeze llm"),
    ]
    assert [source.label for source in grid.others] == ["made/4"]


def test_equal_last_names_are_told_apart_and_equal_settings_are_an_ablation(tmp_path: Path, make_results) -> None:
    one, two = ({"llm": f"{who}/llm", "vision": "v/clip", **SAME} for who in ("a", "b"))
    found = sources(tmp_path, make_results, [one, two, one])
    grid = Grid.of(found)
    assert grid.llms == ("a/llm", "b/llm")
    assert grid.cells["a/llm", "clip"] is found[0]
    assert [(ablation.source, ablation.title) for ablation in grid.ablations] == [(found[2], "made/2")]
    assert Grid.of([]) == Grid((), (), {}, (), ())
