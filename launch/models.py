"""`lens models`: the supported model families, and the checks that each has passed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import transformers
from rich import box
from rich.console import Console
from rich.table import Table

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.progress import StageProgress
from launch.terminal import Terminal, to_file_or_terminal

KNOWN: dict[str, tuple[str, str]] = {
    "llava": ("LLaVA-1.5", "square"),
    "lenscore_llava": ("what `lens train` makes", "square"),
    "llava_next": ("LLaVA-NeXT (1.6)", "square, then tiles as one grid, a newline ends each row"),
    "llava_onevision": ("LLaVA-OneVision", "square, then tiles as one grid, a newline ends each row"),
    "qwen2_vl": ("Qwen2-VL", "image / (patch x merge)"),
    "qwen2_5_vl": ("Qwen2.5-VL", "image / (patch x merge)"),
    "qwen3_vl": ("Qwen3-VL", "image / (patch x merge)"),
    "molmo2": ("Molmo2", "whole image, then overlapping crops as one grid"),
    "internvl": ("InternVL 2.5, 3, 3.5 (-hf)", "tiles, then a thumbnail"),
    "gemma3": ("Gemma 3", "pooled square, then crops of pan and scan"),
    "gemma4": ("Gemma 4", "image / (patch x pool)"),
    "paligemma": ("PaliGemma 1 and 2", "square"),
    "idefics3": ("Idefics3", "tiles, then the whole image"),
    "smolvlm": ("SmolVLM 1 and 2", "tiles, then the whole image"),
    "mistral3": ("Mistral Small 3.1 and later", "image / (patch x merge), a break ends each row"),
    "pixtral": ("Pixtral (as LLaVA)", "image / patch, a break ends each row"),
}
"""Models by family (`lenscore.images.geometry.family_name`), and their patch grid in words."""


@dataclass(frozen=True)
class ModelsCommand:
    """The supported families of vision-language models, and the checks of the self-test that they have passed."""

    model: str | None = None
    """Folder or Hub name of a model to test now, as analyze does before its first images."""
    device: str | None = None
    """Where to load it: cpu, cuda, cuda:1, or spread (over all GPUs); by default CUDA where there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the weights; auto is the checkpoint's own."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold the weights in 8 or 4 bits, by bitsandbytes on a GPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 1 if a check of `--model` failed."""
    return exit_code(lambda: _run(parse(ModelsCommand, argv, "lens models")))


def _run(command: ModelsCommand) -> int:
    console = to_file_or_terminal(160)
    if command.model is not None:
        return _test(command, console)
    from lenscore.self_test.records import read_records, shipped_checks  # loads torch, which --help does not need

    shipped = shipped_checks()
    checks = list(dict.fromkeys(name for passed in shipped.checks.values() for name in passed))
    table = Table("family", "models", "patches", "verified", box=box.SIMPLE)
    for family, (models, grid) in KNOWN.items():
        table.add_row(
            family, models, grid, _of(checks, shipped.checks[family]) if family in shipped.checks else "at load"
        )
    console.print(table)
    console.print(
        f"Verified by the self-test on a tiny random model of each family, with transformers {shipped.transformers} "
        f"(installed: {transformers.__version__}): {', '.join(checks)}."
    )
    console.print("For any other family the grid is guessed, with a warning, and the same self-test runs.")
    records = read_records()
    here = Table("family", "model", "dtype", "transformers", "verified here", box=box.SIMPLE)
    for record in records:
        passed = _of(checks, [result.check for result in record.checks if result.passed])
        here.add_row(record.family, record.model, record.dtype.removeprefix("torch."), record.transformers, passed)
    if records:
        console.print(here)
    else:
        console.print("No model has been tested on this machine yet; `lens models --model M` and analyze test one.")
    return 0


def _of(checks: Sequence[str], passed: Sequence[str]) -> str:
    missing = [name for name in checks if name not in passed]
    return f"all {len(checks)}" if not missing else f"all but {', '.join(missing)}"


def _test(command: ModelsCommand, console: Console) -> int:
    from transformers.utils.logging import disable_progress_bar

    from lenscore.models.loading import load_vlm
    from lenscore.self_test.checks import check
    from lenscore.self_test.records import keep_record

    assert command.model is not None  # _run
    code, revision = command.trust_remote_code, command.revision or None
    with StageProgress(Terminal(stderr=True), "models") as progress:
        disable_progress_bar()  # replaced by that of StageProgress
        progress.say("loading the model")
        vlm = load_vlm(command.model, command.device, command.dtype, code, command.quantization, revision)
        progress.say("testing the model")
        checks = check(vlm)
    table = Table("check", "", "found", box=box.SIMPLE)
    for result in checks:
        table.add_row(result.check, result.outcome, result.found)
    console.print(f"{command.model}: {vlm.model.config.model_type}, transformers {transformers.__version__}")
    console.print(table)
    keep_record(vlm, checks)
    return 0 if all(result.passed for result in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
