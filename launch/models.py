"""`lens models`: the supported model families, and the checks that each has passed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from rich import box
from rich.console import Console
from rich.table import Table

from launch.exit_codes import exit_code
from launch.flags import parse
from launch.model_flags import ModelFlags
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
    "qwen3_vl_moe": ("Qwen3-VL, mixture of experts", "image / (patch x merge)"),
    "qwen3_5": ("Qwen3.5", "image / (patch x merge)"),
    "qwen3_5_moe": ("Qwen3.5, mixture of experts", "image / (patch x merge)"),
    "glm4v": ("GLM-4.1V", "image / (patch x merge)"),
    "glm4v_moe": ("GLM-4.5V", "image / (patch x merge)"),
    "glm46v": ("GLM-4.6V", "image / (patch x merge)"),
    "glm_ocr": ("GLM-OCR", "image / (patch x merge)"),
    "ernie4_5_vl_moe": ("ERNIE 4.5 VL", "image / (patch x merge)"),
    "exaone4_5": ("EXAONE 4.5", "image / (patch x merge)"),
    "hyperclovax_vision_v2": ("HyperCLOVA X Vision 2", "image / (patch x merge)"),
    "cohere_compass": ("Cohere Compass", "image / (patch x merge)"),
    "cosmos3_omni": ("Cosmos 3 Omni", "image / (patch x merge)"),
    "lfm3_vl": ("LFM3-VL", "image / (patch x merge)"),
    "minimax_m3_vl": ("MiniMax M3", "image / (patch x merge)"),
    "muse_glimmer": ("Muse Glimmer", "image / (patch x merge)"),
    "paddleocr_vl": ("PaddleOCR-VL", "image / (patch x merge)"),
    "video_llama_3": ("VideoLLaMA 3", "image / (patch x merge)"),
    "kimi_k25": ("Kimi K2.5", "padded image / (patch x merge)"),
    "molmo2": ("Molmo2", "whole image, then overlapping crops as one grid"),
    "internvl": ("InternVL 2.5, 3, 3.5 (-hf)", "tiles, then a thumbnail"),
    "aya_vision": ("Aya Vision", "tiles, then a thumbnail"),
    "cohere2_vision": ("Command A Vision", "tiles, then a thumbnail"),
    "ovis2": ("Ovis2", "the whole image, then tiles"),
    "llama4": ("Llama 4", "tiles of a padded image, then the whole image"),
    "gemma3": ("Gemma 3", "pooled square, then crops of pan and scan"),
    "gemma4": ("Gemma 4", "image / (patch x pool)"),
    "paligemma": ("PaliGemma 1 and 2", "square"),
    "deepseek_vl": ("DeepSeek-VL without the second encoder", "padded square"),
    "janus": ("Janus and Janus-Pro", "padded square"),
    "idefics3": ("Idefics3", "tiles, then the whole image"),
    "smolvlm": ("SmolVLM 1 and 2", "tiles, then the whole image"),
    "lfm2_vl": ("LFM2-VL", "tiles, then the whole image in patches of its own"),
    "mistral3": ("Mistral Small 3.1 and later", "image / (patch x merge), a break ends each row"),
    "mistral_large4": ("Mistral Large 4", "image / (patch x merge), a break ends each row"),
    "lighton_ocr": ("LightOnOCR", "image / (patch x merge)"),
    "pixtral": ("Pixtral (as LLaVA)", "image / patch, a break ends each row"),
}
"""Models by family (`lenscore.images.geometry.family_name`), and their patch grid in words."""


@dataclass(frozen=True)
class ModelsCommand:
    """The supported families of vision-language models, and the checks of the self-test that they have passed."""

    model: str | None = None
    """Folder or Hub name of a model to test now, as analyze does before its first images."""
    loading: ModelFlags = field(default_factory=ModelFlags)


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
        f"(installed: {version('transformers')}): {', '.join(checks)}."
    )
    console.print(
        "The visual tokens of any other family have no places, which analyze says, and the same self-test runs. Models "
        "that read images by cross attention are refused."
    )
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
    held, code, revision = command.loading, command.loading.trust_remote_code, command.loading.revision or None
    with StageProgress(Terminal(stderr=True), "models") as progress:
        disable_progress_bar()  # replaced by that of StageProgress
        progress.say("loading the model")
        vlm = load_vlm(command.model, held.device, held.dtype, code, held.quantization, revision)
        progress.say("testing the model")
        checks = check(vlm)
    table = Table("check", "", "found", box=box.SIMPLE)
    for result in checks:
        table.add_row(result.check, result.outcome, result.found)
    console.print(f"{command.model}: {vlm.model.config.model_type}, transformers {version('transformers')}")
    console.print(table)
    keep_record(vlm, checks)
    return 0 if all(result.passed for result in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
