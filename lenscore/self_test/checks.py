"""The checks of the self-test, with the code that processes the user's images."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from math import inf, log
from pathlib import Path

import torch
from torch import Tensor

from lenscore.analysis.engine import AnalysisEngine, NotFiniteError
from lenscore.images.geometry import visual_tokens
from lenscore.images.geometry.grids import ImageGeometry
from lenscore.images.image_files import ImageFile
from lenscore.images.preprocessing import Batch, BatchReader
from lenscore.lenses import LogitLens
from lenscore.models.decoder import number_of_layers
from lenscore.models.float32_blocks import blocks_in_float32, has_16_bit_blocks
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.loading import Vlm
from lenscore.models.text_only import is_causal, ordinary_tokens
from lenscore.self_test.probe_pictures import COLOURS, COVERS, SIZES, quadrant, save_picture
from storage_layouts.errors import InputError

PROMPT = "Describe this image."
BLOCKS_AT_A_TIME = 10
"""Blocks whose states are compared at a time."""


NOT_COMPARED = "not compared: "
"""Beginning of what a check found that the model gives no occasion for."""


@dataclass(frozen=True)
class CheckResult:
    """Result of one check; `found` is a description."""

    check: str
    passed: bool
    found: str

    @property
    def outcome(self) -> str:
        """The result in a word or two."""
        if not self.passed:
            return "FAILED"
        return "not compared" if self.found.startswith(NOT_COMPARED) else "passed"


def check(vlm: Vlm) -> list[CheckResult]:
    """Run every check on a loaded model, in this order: image tokens, quadrants, logits, blocks, text, batching.

    It takes about 30 forward passes, most of them only through the vision encoder. Raises InputError for a model whose
    processor or patch grid is not supported.
    """
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        return _Checks(vlm, Path(folder)).run()


class _Checks:
    def __init__(self, vlm: Vlm, folder: Path) -> None:
        self._vlm = vlm
        self._folder = folder
        self._readers: dict[int, BatchReader] = {}
        self._depth = number_of_layers(vlm.model)
        # Largest rounding error; a token that attends to others, or at another position, differs far more.
        self._rounding = 1e-3 if vlm.model.dtype == torch.float32 else 0.05
        self._dtype = str(vlm.model.dtype).removeprefix("torch.")

    def run(self) -> list[CheckResult]:
        plain = {name: self._batch(save_picture(self._folder, size)) for name, size in SIZES.items()}
        try:  # whatever else is compared with them would blame something else
            self._states(plain["square"], sorted({0, self._depth - 1}))
        except NotFiniteError as error:
            raise InputError(f"--model {self._vlm.name}: the self-test's picture: {error}") from None
        return [
            self._image_tokens(plain),
            *(self._quadrants(name, batch) for name, batch in plain.items()),
            self._logits(plain["square"]),
            self._between_blocks(plain["square"]),
            self._text(),
            self._batching(plain["square"], plain["wide"]),
        ]

    def _image_tokens(self, batches: dict[str, Batch]) -> CheckResult:
        """Patches have distinct image-token positions, each cell of each view occurs once, few tokens are left."""
        found = []
        for name, batch in batches.items():
            (geometry,), ids = batch.geometries, batch.inputs["input_ids"]
            tokens = set(visual_tokens(self._vlm, ids)[0].nonzero().flatten().tolist())
            positions = [patch.position for patch in geometry.patches]
            cells = Counter((patch.view, patch.row, patch.col) for patch in geometry.patches)
            grid = Counter((v.view, row, col) for v in geometry.views for row in range(v.rows) for col in range(v.cols))
            rest, rows = len(tokens) - len(positions), sum(view.rows for view in geometry.views)
            summary = f"{name}: {len(positions)} patches at {len(tokens)} image tokens"
            if len(set(positions)) < len(positions) or not set(positions) <= tokens:
                return CheckResult("image tokens", False, f"{summary}, but not all at distinct image tokens")
            if cells != grid:
                return CheckResult("image tokens", False, f"{summary}, but the views have {grid.total()} cells")
            if rest > rows:
                return CheckResult("image tokens", False, f"{summary}, more than one left for each row")
            found.append(summary + (f" ({rest} at ends of rows)" if rest else ""))
        return CheckResult("image tokens", True, "; ".join(found))

    def _quadrants(self, size: str, plain: Batch) -> CheckResult:
        """Cover a quadrant of the picture: in each view the states of its patches must change most.

        Tokens at ends of rows must not change.
        """
        name = f"quadrants ({size})"
        (geometry,) = plain.geometries
        groups = _groups(geometry)
        if not groups:
            return CheckResult(name, True, f"{NOT_COMPARED}no view has patches in every quadrant")
        positions = [patch.position for patch in geometry.patches]
        tokens = visual_tokens(self._vlm, plain.inputs["input_ids"])[0].nonzero().flatten().tolist()
        # Some encoders hand on a class token in front, which sees the whole picture.
        ends = sorted(set(tokens[1:]) - set(positions))
        before = self._first_layer(plain)
        lengths = before.norm(dim=1).clamp_min(1e-30)
        changes = []
        for covered in range(len(COLOURS)):
            change = torch.zeros_like(lengths)
            for cover in COVERS:
                after = self._first_layer(self._batch(save_picture(self._folder, SIZES[size], covered, cover)))
                if after.shape != before.shape:
                    return CheckResult(name, False, "the number of patches depends on the picture")
                moved_by = after - before
                # What every patch has of the whole picture, which a trained connector may amplify.
                moved_by[positions] -= moved_by[positions].median(dim=0).values
                change += moved_by.norm(dim=1) / lengths
            if float(change[ends].sum()) > self._rounding:
                return CheckResult(name, False, "image tokens at ends of rows depend on the picture")
            changes.append(change[positions])
        for view, members in groups.items():
            # The median, because some patches of large encoders hold information on the whole image.
            moved = [[float(change[of_quadrant].median()) for of_quadrant in members] for change in changes]
            found = best_assignment(moved)
            if found != tuple(range(len(COLOURS))):
                summary = "; ".join(" ".join(f"{value:.2g}" for value in line) for line in moved)
                where = f"quadrants {found}, not (0, 1, 2, 3)" if found else "none"
                return CheckResult(name, False, f"the largest changes in {view} were in {where}: {summary}")
        return CheckResult(name, True, f"as expected in {', '.join(groups)}")

    def _logits(self, batch: Batch) -> CheckResult:
        """The lens on the output of the last block gives the model's logits."""
        try:
            lens = LogitLens.from_model(self._vlm)
        except InputError as error:
            return CheckResult("logits", True, f"{NOT_COMPARED}{error}")
        inputs = batch.on_device(self._vlm)
        end = after_block(self._depth - 1)
        state = run_until(self._vlm.model, inputs, [end])[end][0]
        theirs = self._vlm.model(**inputs, use_cache=False).logits[0].float()
        ours = lens.logits(state).to(theirs.device)
        off = float((ours - theirs).norm() / theirs.norm())
        # Unlike the lens, the model rounds the output of its norm and its logits to its dtype.
        most = max(4 * torch.finfo(self._vlm.model.dtype).eps, 1e-4)
        summary = f"off by {off:.0e} of their length at {len(state)} positions, expected at most {most:.0e}"
        return CheckResult("logits", off <= most, summary)

    def _between_blocks(self, batch: Batch) -> CheckResult:
        """Layer l+1 is the output of block l, except for image tokens with DeepStack."""
        inputs = batch.on_device(self._vlm)
        image = visual_tokens(self._vlm, batch.inputs["input_ids"])[0]
        added: list[int] = []
        for first in range(0, self._depth - 1, BLOCKS_AT_A_TIME):
            blocks = range(first, min(first + BLOCKS_AT_A_TIME, self._depth - 1))
            names: list[int | str] = [name for block in blocks for name in (after_block(block), block + 1)]
            states = run_until(self._vlm.model, inputs, names)
            for block in blocks:
                differs = (states[after_block(block)][0] != states[block + 1][0]).any(dim=1).cpu()
                if differs.any():
                    added.append(block)
                if (differs & ~image).any():
                    return CheckResult("blocks", False, f"the states of text change after block {block}")
        summary = (
            f"image features are added after block {', '.join(map(str, added))}"
            if added
            else "nothing is added between blocks"
        )
        return CheckResult("blocks", True, summary)

    def _text(self) -> CheckResult:
        probe = ordinary_tokens(self._vlm.tokenizer, 8)
        causal = len(probe) < 2 or is_causal(self._vlm.model, probe)
        summary = "equal prefixes have equal states" if causal else "bidirectional: prefixes are not shared"
        return CheckResult("text", True, summary)

    def _batching(self, *singles: Batch) -> CheckResult:
        """Images in one batch, with padding, get the same states as alone.

        If the states of a 16-bit model differ by more than rounding usually does, they are compared again with the
        language model in float32: massive activations amplify rounding, but a fault remains.
        """
        together = self._batch(*(save_picture(self._folder, SIZES[name]) for name in ("square", "wide")))
        off = self._difference(singles, together)
        where = ""
        if off > self._rounding and has_16_bit_blocks(self._vlm.model):
            with blocks_in_float32(self._vlm.model):
                off, where = self._difference(singles, together), f" in float32 ({off:.0e} in {self._dtype})"
        length = together.inputs["input_ids"].shape[1]
        padded = any(single.inputs["input_ids"].shape[1] < length for single in singles)
        summary = f"{'padded' if padded else 'of equal length'}, off by {off:.0e} of their spread{where}"
        return CheckResult("batching", off <= self._rounding, f"{summary}, expected at most {self._rounding:.0e}")

    def _difference(self, singles: Sequence[Batch], together: Batch) -> float:
        """How far the deepest states in a batch are from those alone, as a share of their spread; inf if other.

        Both are means over the patches, the spread of the distance from their mean; the median over the dimensions is
        taken. A few dimensions may hold most of a state's length (massive activations), beside which a fault is small.
        """
        alone, within = (
            torch.cat([self._states(batch, [self._depth - 1])[0] for batch in batches]).float()
            for batches in (singles, [together])
        )
        if alone.shape != within.shape:
            return inf
        spread = (alone - alone.mean(dim=0)).abs().mean(dim=0).clamp_min(1e-30)
        return float(((alone - within).abs().mean(dim=0) / spread).median())

    def _batch(self, *pictures: ImageFile) -> Batch:
        if len(pictures) not in self._readers:
            self._readers[len(pictures)] = BatchReader(self._vlm, PROMPT, len(pictures), threads=1)
        (batch,) = self._readers[len(pictures)].read(list(enumerate(pictures)))
        for reason in batch.unreadable.values():
            raise InputError(f"--model {self._vlm.name}: the self-test's picture: {reason}")
        return batch

    def _first_layer(self, batch: Batch) -> Tensor:
        """Layer 0 of a batch of one picture, float32 [sequence, dim] on the CPU."""
        return run_until(self._vlm.model, batch.on_device(self._vlm), [0])[0][0].float().cpu()

    def _states(self, batch: Batch, layers: Sequence[int]) -> Tensor:
        engine = AnalysisEngine(self._vlm, [], layers, 1, PROMPT, len(batch.image_ids))
        return engine.visual_states(batch)


def best_assignment(moved: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The assignment of quadrants to groups of patches with the largest product of `moved`; () if all are 0.

    `moved[i][j]` is the change of the patches of group j when quadrant i is covered. The product is not affected by
    colours or patches that change more than others.
    """
    most = max(max(line) for line in moved)
    if not most > 0:
        return ()
    logs = [[log(value + 1e-6 * most) for value in line] for line in moved]
    return max(permutations(range(len(moved))), key=lambda order: sum(logs[i][j] for i, j in enumerate(order)))


def _groups(geometry: ImageGeometry) -> dict[str, list[list[int]]]:
    """Indices of patches by quadrant, for all views together and for each view with patches in all four."""
    names = {view.view: view.name for view in geometry.views}
    places = [quadrant(patch.left, patch.top, patch.right, patch.bottom) for patch in geometry.patches]
    everything = [[i for i, place in enumerate(places) if place == q] for q in range(len(COLOURS))]
    groups = {"all views": everything} if len(names) > 1 else {}
    for view, name in names.items():
        groups[f"view {name}"] = [[i for i in some if geometry.patches[i].view == view] for some in everything]
    return {name: members for name, members in groups.items() if all(members)}
