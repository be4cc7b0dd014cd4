"""The self-test: every family passes it, and each kind of error in a family fails the right check."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import lenscore.self_test.records as records
from launch import models
from lenscore.images import geometry
from lenscore.images import preprocessing as batches
from lenscore.lenses.head_output import head_path
from lenscore.models.decoder import decoder_of
from lenscore.models.float32_blocks import blocks_in_float32
from lenscore.models.hidden_states import run_until
from lenscore.models.loading import Vlm
from lenscore.self_test.checks import CheckResult, best_assignment, check
from lenscore.self_test.records import read_records, require_self_test, shipped_checks
from storage_layouts.errors import InputError
from tests.families import BUILDERS, OWN_PLACES
from tests.verified_families import load_tiny

VlmOf = Callable[[str], Vlm]


@pytest.fixture(scope="module")
def vlm_of(tmp_path_factory: pytest.TempPathFactory) -> VlmOf:
    base = tmp_path_factory.mktemp("families")
    return lambda name: load_tiny(name, base)


@pytest.fixture
def own_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "self-tests"


def failed(checks: list[CheckResult]) -> set[str]:
    return {result.check.split(" (")[0] for result in checks if not result.passed}


@pytest.mark.parametrize("name", OWN_PLACES)
def test_every_family_passes_what_the_shipped_table_says(name: str, vlm_of: VlmOf) -> None:
    """If the table is not what is found, after an upgrade of transformers: python -m tests.verified_families"""
    shipped = shipped_checks()
    assert shipped.transformers == transformers.__version__
    found = {result.check: result for result in check(vlm_of(name))}
    assert shipped.checks[name] == [name for name, result in found.items() if not result.found.startswith("none:")]
    assert not failed(list(found.values())), found
    assert ("bidirectional" in found["text"].found) == (name == "paligemma")
    assert ("after block 0, 1" in found["blocks"].found) == name.startswith("qwen3_vl")
    assert all("as expected in" in found[f"quadrants ({size})"].found for size in ("square", "wide", "tall"))


Mistake = Callable[[geometry.ImageGeometry], geometry.ImageGeometry]


def transposed(found: geometry.ImageGeometry) -> geometry.ImageGeometry:
    patches = [dataclasses.replace(p, left=p.top, top=p.left, right=p.bottom, bottom=p.right) for p in found.patches]
    return dataclasses.replace(found, patches=tuple(patches))


def upside_down(found: geometry.ImageGeometry) -> geometry.ImageGeometry:
    return dataclasses.replace(
        found, patches=tuple(dataclasses.replace(p, top=1 - p.bottom, bottom=1 - p.top) for p in found.patches)
    )


def columns_first(found: geometry.ImageGeometry) -> geometry.ImageGeometry:
    """The right boxes at the wrong positions."""
    order = sorted(found.patches, key=lambda p: (p.view, p.col, p.row))
    places = sorted(p.position for p in found.patches)
    return dataclasses.replace(
        found, patches=tuple(dataclasses.replace(p, position=at) for p, at in zip(order, places, strict=True))
    )


def off_by_one(found: geometry.ImageGeometry) -> geometry.ImageGeometry:
    return dataclasses.replace(
        found, patches=tuple(dataclasses.replace(p, position=p.position + 1) for p in found.patches)
    )


def one_forgotten(found: geometry.ImageGeometry) -> geometry.ImageGeometry:
    return dataclasses.replace(found, patches=found.patches[1:])


@pytest.mark.parametrize(
    ("name", "mistake", "named"),
    [
        ("llava", transposed, "quadrants"),
        ("internvl", upside_down, "quadrants"),
        ("qwen2_5_vl", columns_first, "quadrants"),
        ("llava_next", columns_first, "quadrants"),
        ("qwen2_5_vl", off_by_one, "image tokens"),
        ("llava_next", off_by_one, "quadrants"),  # its patches are then still image tokens, but ends of rows as well
        ("idefics3", one_forgotten, "image tokens"),
    ],
)
def test_wrong_places_are_caught(
    name: str, mistake: Mistake, named: str, vlm_of: VlmOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = batches.image_geometry
    monkeypatch.setattr(batches, "image_geometry", lambda *given: [mistake(found) for found in honest(*given)])
    assert named in failed(check(vlm_of(name)))


def test_a_connector_that_hands_on_the_whole_picture_is_no_wrong_place(vlm_of: VlmOf) -> None:
    """Seen on a connector trained on captions: all patches changed more than those that were covered."""
    vlm = vlm_of("llava")
    model = copy.deepcopy(vlm.model)
    model.model.multi_modal_projector.register_forward_hook(
        lambda _module, _args, patches: patches - 4 * patches.mean(dim=-2, keepdim=True)
    )
    assert not failed(check(dataclasses.replace(vlm, model=model)))


def test_another_norm_than_the_models_is_caught(vlm_of: VlmOf, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = vlm_of("gemma3")
    path = head_path(vlm.model, 5)
    for wrong in (nn.Sequential(path.norm, path.norm), nn.Identity()):
        monkeypatch.setattr(
            "lenscore.lenses.logit.head_path", lambda *_, wrong=wrong: dataclasses.replace(path, norm=wrong)
        )
        assert failed(check(vlm)) == {"logits"}


def test_a_lens_that_the_model_does_not_have_is_not_called_passed(
    vlm_of: VlmOf, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise InputError("--lenses logit: none here")

    monkeypatch.setattr("lenscore.lenses.logit.head_path", refuse)
    assert models.main(["--model", vlm_of("llava").name, "--device", "cpu"]) == 0
    assert re.search(r"logits +not compared +not compared: --lenses logit: none here", capsys.readouterr().out)


def with_hook(vlm: Vlm, change: Callable[[torch.Tensor], torch.Tensor]) -> Vlm:
    """The model with a hook after its block 1, which lenscore does not know of."""
    model = copy.deepcopy(vlm.model)

    def before(_block: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Any:
        return (change(args[0]), *args[1:]), kwargs

    decoder_of(model).layers[2].register_forward_pre_hook(before, with_kwargs=True)
    return dataclasses.replace(vlm, model=model)


def test_states_that_depend_on_the_batch_are_caught(vlm_of: VlmOf) -> None:
    found = check(with_hook(vlm_of("llava_next"), lambda state: state + state.mean(dim=0, keepdim=True)))
    assert "batching" in failed(found)


def test_a_fault_in_bfloat16_is_no_rounding(vlm_of: VlmOf) -> None:
    """A state that depends on its batch in bfloat16 alone is rounded; one that does in float32 too is wrong."""
    vlm = vlm_of("llava_next")
    model = copy.deepcopy(vlm.model).to(torch.bfloat16)
    half = dataclasses.replace(vlm, model=model)

    def wrong(state: torch.Tensor) -> torch.Tensor:
        return state + state.mean(dim=0, keepdim=True)

    for change, passes in (
        (lambda state: state if state.dtype == torch.float32 else wrong(state), True),
        (wrong, False),
    ):
        (batching,) = (result for result in check(with_hook(half, change)) if result.check == "batching")
        assert batching.passed == passes
        assert re.search(r"of their spread in float32 \(\de-\d\d in bfloat16\)", batching.found)


def test_a_fault_beside_massive_activations_is_caught(vlm_of: VlmOf) -> None:
    """Seen on Gemma 3 270M: a state that depends on its batch was off by 3 % of its length, by 20 % of its spread."""
    vlm = vlm_of("llava_next")
    model = copy.deepcopy(vlm.model).to(torch.bfloat16)
    half = dataclasses.replace(vlm, model=model)

    def wrong(state: torch.Tensor) -> torch.Tensor:
        state = state + state.mean(dim=0, keepdim=True)
        state[..., 0] = 1000  # a massive activation
        return state

    assert "batching" in failed(check(with_hook(half, wrong)))


def test_blocks_in_float32_compute_as_a_float32_model_and_stay_as_they_were(vlm_of: VlmOf) -> None:
    model = copy.deepcopy(vlm_of("llava").model).to(torch.bfloat16)
    # As transformers keeps some tensors of 16-bit models in float32.
    decoder_of(model).layers[1].register_buffer("precise", torch.tensor([1 / 3]))
    before = copy.deepcopy(model.state_dict())
    ids = torch.tensor([[1, 5, 7, 9, 11, 6]])
    (exact,) = run_until(copy.deepcopy(model).float(), {"input_ids": ids}, [2]).values()
    with blocks_in_float32(model):
        (found,) = run_until(model, {"input_ids": ids}, [2]).values()
    (rounded,) = run_until(model, {"input_ids": ids}, [2]).values()
    assert found.dtype == torch.float32
    # Rotary embeddings are still computed in 16 bits, outside the blocks.
    assert (found - exact).norm() < 5e-3 * exact.norm() < (rounded.float() - exact).norm()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)


def test_text_that_is_changed_between_blocks_is_caught(vlm_of: VlmOf) -> None:
    assert failed(check(with_hook(vlm_of("llava"), lambda state: state * 2))) == {"blocks"}


def test_of_all_assignments_the_likeliest() -> None:
    assert best_assignment([[9, 1, 1, 1], [1, 9, 1, 1], [1, 1, 9, 1], [1, 1, 1, 9]]) == (0, 1, 2, 3)
    # Patches of quadrant 2 change with any cover, and covering 0 changes all patches.
    assert best_assignment([[3, 2, 90, 2], [0.1, 1, 8, 0.1], [0.1, 0.1, 60, 0.1], [0, 0, 8, 1]]) == (0, 1, 2, 3)
    assert best_assignment([[1, 1, 9, 1], [1, 9, 1, 1], [9, 1, 1, 1], [1, 1, 1, 9]]) == (2, 1, 0, 3)
    assert best_assignment([[0.0] * 4] * 4) == ()


def test_a_model_is_tested_once_and_again_if_anything_is_new(
    vlm_of: VlmOf, own_records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    honest = records.check
    monkeypatch.setattr(records, "check", lambda vlm: runs.append(vlm.name) or honest(vlm))
    vlm = vlm_of("llava")
    first = require_self_test(vlm)
    assert require_self_test(vlm_of("llava")) == first
    assert len(runs) == 1
    assert read_records() == [first]
    assert first.family == "llava"
    settings = copy.deepcopy(vlm.processor)
    settings.image_processor.image_mean = [0.4, 0.4, 0.4]
    require_self_test(dataclasses.replace(vlm, processor=settings))
    monkeypatch.setattr(records.transformers, "__version__", "0")
    require_self_test(vlm)
    assert len(runs) == 3
    for path in own_records.glob("*.json"):
        path.write_text("{damaged")
    require_self_test(vlm)
    assert len(runs) == 4
    assert [record.transformers for record in read_records()] == ["0"]


def test_a_failure_names_family_and_check_and_is_not_kept(
    vlm_of: VlmOf, own_records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = batches.image_geometry
    monkeypatch.setattr(batches, "image_geometry", lambda *given: [upside_down(found) for found in honest(*given)])
    with pytest.raises(InputError, match=r"self-test of the qwen2_vl family failed: quadrants \(square\) \(") as caught:
        require_self_test(vlm_of("qwen2_vl"))
    assert "--no-self-test" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read_records() == []


def test_a_cache_that_cannot_be_written_is_no_obstacle(
    vlm_of: VlmOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "file"))
    assert require_self_test(vlm_of("llava")).family == "llava"
    assert read_records() == []


def test_every_family_is_in_the_tables() -> None:
    assert set(models.KNOWN) == set(geometry.FAMILIES)
    assert set(shipped_checks().checks) == set(BUILDERS) <= set(models.KNOWN)


def test_lens_models_shows_families_and_what_was_verified(
    vlm_of: VlmOf, own_records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert models.main([]) == 0
    said = capsys.readouterr().out
    assert all(family in said for family in BUILDERS)
    assert f"with transformers {transformers.__version__}" in " ".join(said.split())
    assert "No model has been tested on this machine" in said
    folder = vlm_of("smolvlm").name
    assert models.main(["--model", folder, "--device", "cpu"]) == 0
    assert "quadrants (wide)" in capsys.readouterr().out
    assert models.main([]) == 0
    assert re.search(r"smolvlm .*float32 .*all 8", capsys.readouterr().out)
    honest = batches.image_geometry
    monkeypatch.setattr(batches, "image_geometry", lambda *given: [upside_down(found) for found in honest(*given)])
    assert models.main(["--model", folder, "--device", "cpu"]) == 1
    assert "FAILED" in capsys.readouterr().out
