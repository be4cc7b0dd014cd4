"""A step of `lens train` on a CPU, beside the plain step of transformers and the bare products of its matrices.

    python -m benchmarks.training          # language model and vision encoder of the shapes world
    python -m benchmarks.training --real   # SmolLM2 and DINOv2 as `lens demo` joins them, out of packages (258 MB)

All compute the same batches of 8 images in turn, with one thread. Plain is a training as it is usually written: the
loss of `model(**batch)`, with an attention mask and the attention that PyTorch chooses; batches, clipping and AdamW are
ours. The products are those of a step of ours, forward and backward, on random matrices; attention is not among them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measuring import interleaved, machine, timing_table, work_folder
from benchmarks.recall import package
from jobs.train_job import TrainJob
from lenscore import shapes
from lenscore.real_world import conversion
from lenscore.real_world.artwork_scenes import read_artwork, write_scenes
from lenscore.real_world.fitted_connector import IMAGE_SIZE, VIT_LAYERS
from lenscore.real_world.packages import LANGUAGE_MODEL, TRAINING_ARTWORK, VISION_ENCODER
from lenscore.training.examples import IGNORED
from lenscore.training.trainer import ConnectorTrainer
from tests.training_parts import save_shapes_parts

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
IMAGES = 200
OURS, PLAIN, BARE = "lenscore", "transformers", "bare products"


class Products(TorchDispatchMode):
    """Notes the products of matrices that are computed while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Callable[..., Tensor], list[Tensor]]] = []
        self._operands: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute a function as without the mode."""
        if func in PRODUCTS:
            self._calls.append((func, [self._random(operand) for operand in args]))
        return func(*args, **(kwargs or {}))

    def _random(self, like: Tensor) -> Tensor:
        """One tensor for all operands of a shape, so that little memory is read."""
        shape = like.shape, like.stride(), like.dtype
        if shape not in self._operands:
            self._operands[shape] = torch.randn_like(like, requires_grad=False)
        return self._operands[shape]

    @torch.no_grad()
    def again(self) -> None:
        """Compute all of them once more."""
        for product, operands in self._calls:
            product(*operands)


def plain_loss(trainer: ConnectorTrainer) -> Callable[[dict[str, Tensor], int], Tensor]:
    """The share of a forward pass in the mean loss, by transformers alone."""

    def loss(inputs: dict[str, Tensor], tokens: int) -> Tensor:
        learnt = inputs["labels"] != IGNORED
        mask = learnt.flip(1).cumsum(1).flip(1) > 0  # what is learnt comes last, before the padding
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer._recipe.autocast):
            mean: Tensor = trainer.model(**inputs, attention_mask=mask.long(), use_cache=False).loss
        return mean * learnt.sum() / tokens

    return loss


def shapes_parts(folder: Path) -> dict[str, Any]:
    """Settings of `lens train` for the shapes world."""
    llm, vision = save_shapes_parts(folder)
    shapes.write_images(folder / "images", "train", IMAGES)
    return {"llm": str(llm), "vision": str(vision), "data": str(folder / "images"), "vit_layers": "-1,-3"}


def real_parts(folder: Path, image_size: int) -> dict[str, Any]:
    """Those for the real world, whose parts are made where they are missing."""
    llm, vision, data = (folder / name for name in ("smollm2", "dinov2", "scenes"))
    if not data.exists():
        conversion.write_language_model(package(LANGUAGE_MODEL), llm)
        conversion.write_vision_encoder(package(VISION_ENCODER), vision)
        write_scenes(data, read_artwork(package(TRAINING_ARTWORK)), 0, IMAGES)
    layers = ",".join(map(str, VIT_LAYERS))
    parts = {"llm": str(llm), "vision": str(vision), "data": str(data), "vit_layers": layers}
    return parts | {"connector": "linear", "image_fit": "squash", "image_size": image_size}


def new_trainer(settings: dict[str, Any]) -> ConnectorTrainer:
    """A training at its first step."""
    with tempfile.TemporaryDirectory() as folder:
        job = TrainJob(out=Path(folder) / "run", steps=1000, warmup_steps=100, **settings)
        run = job.open_run()
        job.plan(run, lambda message: None)
        return job.open_worker(run, "cpu")._trainer


def measure(settings: dict[str, Any], runs: int) -> None:
    """Print the table of one setting."""
    ours, plain = new_trainer(settings), new_trainer(settings)
    plain._loss = plain_loss(plain)  # type: ignore[method-assign]
    products = Products()
    with products:
        first = ours.train_step()
    expected = plain.train_step()
    calls = {OURS: ours.train_step, PLAIN: plain.train_step, BARE: products.again}
    timings = interleaved(calls, runs)
    ratios = zip(timings[PLAIN].processor, timings[OURS].processor, strict=True)
    computed = "bfloat16" if ours._recipe.autocast else "float32"
    print(f"\nmicro-batches of {settings['micro_batch_size']} images, {computed}\n")
    print(timing_table(timings, BARE))
    print(
        f"\n{OURS} is {statistics.median(a / b for a, b in ratios):.2f} times as fast as {PLAIN} (processor time)\n"
        f"first step: loss {first.loss:.6f} and {expected.loss:.6f}, "
        f"norm of the gradient {first.gradient_norm:.5g} and {expected.gradient_norm:.5g}"
    )


def main() -> int:
    """Print a table for each size of micro-batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="SmolLM2 and DINOv2 instead of the shapes world")
    parser.add_argument("--micro-batch-size", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--image-size", type=int, default=IMAGE_SIZE, help="pixels, with --real")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--keep", type=Path, help="folder of the models and images, to use them again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with work_folder(arguments.keep) as folder:
        parts = real_parts(folder, arguments.image_size) if arguments.real else shapes_parts(folder)
        world = "real" if arguments.real else "shapes"
        print(f"{machine()}\n{arguments.runs} interleaved steps of 8 images, {world} world")
        for size in arguments.micro_batch_size:
            measure(parts | {"micro_batch_size": size, "precision": arguments.precision}, arguments.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
