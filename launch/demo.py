"""`lens demo`: the whole pipeline on the embedded shapes world, with the commands that a user would type."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch import analyze, extract, judge, report
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.terminal import Terminal, print_plain, shown
from lenscore import shapes
from storage_layouts.counts import counted
from storage_layouts.files import require_place


@dataclass(frozen=True)
class DemoCommand:
    """Write test images, then extract, analyze, judge by the exact truth, and report; no network, no GPU."""

    out: Path
    """Folder for all of it; repeating the command continues where it stopped."""
    images: int = 300
    """Number of held-out images."""
    patches: int | None = None
    """Patches to judge in all; by default one for each image, so that they are independent."""
    workers: int | None = None
    """Worker processes; by default one for each GPU, or for each core."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: _demo(parse(DemoCommand, argv, "lens demo")))


def _demo(demo: DemoCommand) -> int:
    console = Terminal()
    images, store, results, verdicts, out = (
        shown(demo.out) / name for name in ("images", "store.zarr", "results", "verdicts", "report")
    )
    for folder in (images, store, results, verdicts, out):
        require_place(folder)
    model = str(shapes.model_path())
    workers = [] if demo.workers is None else ["--workers", str(demo.workers)]
    console.print(f"writing {counted(demo.images, 'test image')} to {images}", highlight=False, soft_wrap=True)
    shapes.write_images(images, "test", demo.images)
    stages = (
        (extract.main, ["--model", model, "--corpus", str(shapes.corpus_path()), "--out", str(store), *workers]),
        (
            analyze.main,
            [
                *("--model", model, "--images", str(images / "captions.csv")),
                *("--store", str(store), "--out", str(results), *workers),
            ],
        ),
        (
            judge.main,
            [
                *("--results", str(results), "--out", str(verdicts), "--judge", "truth"),
                *("--patches", str(demo.patches or demo.images), *workers),
            ],
        ),
        (report.main, [str(verdicts), "--out", str(out)]),
    )
    for stage, arguments in stages:
        verb = stage.__module__.rpartition(".")[2]
        console.print(f"\n$ lens {verb} {shlex.join(arguments)}", style="bold", highlight=False, soft_wrap=True)
        code = stage(arguments)
        if code:
            return code
    picture = next(iter(sorted(images.glob("*.png"))))
    show = ["lens", "show", "--model", model, "--image", str(picture), "--store", str(store), "--out", str(demo.out)]
    print_plain(
        console,
        f"\nnext: open {out / 'viewer' / 'index.html'} in a browser, read {out / 'report.md'}, or look at one image:\n"
        f"$ {shlex.join(show)}\n"
        "The demo's model knows coloured shapes only; for photographs give the commands above another model.",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
