"""Changed forward passes that go on from a recorded one, against each run alone, in interleaved rounds.

    python -m benchmarks.interventions --results RUN [--patches 8] [--rounds 3] [--batch-tokens 4096]

For one image of an analyze run, states of single visual tokens are replaced at every layer of the run. Alone means the
whole model with a hook, as it is usually written, one pass after the other. The largest difference of the outputs is
shown as a share of their length. Only processor time counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measuring import machine, markdown_table
from lenscore.images.image_files import ImageFile
from lenscore.images.preprocessing import BatchReader
from lenscore.models.decoder import decoder_of
from lenscore.models.greedy_answer import followed_by, greedy_answer
from lenscore.models.hidden_states import after_block, run_until
from lenscore.models.loading import Vlm, load_vlm
from lenscore.models.recorded_pass import RecordedPass, batches_of
from lenscore.user_files.finding import path_from_stored
from storage_layouts.results import LensResults

ANSWER = 16


def main() -> None:
    """Print the ratio of both for each layer, and of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--patches", type=int, default=8)
    parser.add_argument("--variants", type=int, default=4, help="states for each patch and layer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-tokens", type=int, default=4096)
    given = parser.parse_args()
    results = LensResults.open(given.results)
    vlm = load_vlm(results.run.config["model"], dtype=torch.float32)
    line = results.images().to_pylist()[0]
    image = ImageFile(path_from_stored(line["path"]), line["sha256"], line["bytes"], line["caption"])
    batch = next(BatchReader(vlm, results.run.config["prompt"], 1).read([(0, image)]))
    inputs = batch.on_device(vlm)
    inputs = followed_by(vlm.model, inputs, greedy_answer(vlm.model, inputs, ANSWER))
    places = [patch.position for patch in batch.geometries[0].patches]
    step = max(1, len(places) // given.patches)
    places = places[::step][: given.patches]
    layers = results.mean_layers
    together: dict[int, list[float]] = {layer: [] for layer in layers}
    alone: dict[int, list[float]] = {layer: [] for layer in layers}
    off = 0.0
    for number in range(given.rounds):
        began = time.process_time()
        recorded = RecordedPass(vlm.model, inputs)
        share = (time.process_time() - began) / len(layers)
        torch.manual_seed(number)
        for layer in layers:
            length = recorded.states[layer].float().norm(dim=1).mean()
            states = torch.randn(len(places), given.variants, recorded.states[layer].shape[1])
            states = (states / states.norm(dim=2, keepdim=True) * length).to(recorded.states[layer])
            began = time.process_time()
            quick = _together(recorded, layer, places, states, given.batch_tokens)
            together[layer].append(time.process_time() - began + share)
            began = time.process_time()
            slow = _alone(vlm, inputs, layer, places, states)
            alone[layer].append(time.process_time() - began)
            off = max(off, float((quick - slow).norm(dim=-1).max() / slow.norm(dim=-1).mean()))
    passes = len(places) * given.variants
    rows = [
        [
            layer,
            f"{of_all(alone[layer], passes):.1f}",
            f"{of_all(together[layer], passes):.1f}",
            ratio(alone[layer], together[layer]),
        ]
        for layer in layers
    ]
    sums = [[sum(found[layer][i] for layer in layers) for i in range(given.rounds)] for found in (alone, together)]
    rows.append(["all", *(f"{of_all(one, passes * len(layers)):.1f}" for one in sums), ratio(*sums)])
    print(machine())
    print(f"{vlm.name}: {recorded.length} positions, {passes} passes a layer; outputs differ by at most {off:.1e}")
    print(markdown_table(["layer", "alone, ms a pass", "together, ms a pass", "times faster"], rows))


def of_all(seconds: list[float], passes: int) -> float:
    """Milliseconds a pass."""
    return 1000 * statistics.median(seconds) / passes


def ratio(slow: list[float], quick: list[float]) -> str:
    """The median of the ratios of the rounds."""
    return f"{statistics.median(a / b for a, b in zip(slow, quick, strict=True)):.1f}"


def _together(recorded: RecordedPass, layer: int, places: list[int], states: Tensor, batch_tokens: int) -> Tensor:
    """The outputs [patches * variants, dim] at the last position."""
    rows = [(place, state) for place, variants in zip(places, states, strict=True) for state in variants]
    starts = [recorded.first_affected(layer, place) for place, _ in rows]
    outputs = torch.empty(len(rows), states.shape[2])
    for batch in batches_of(starts, recorded.length, batch_tokens):
        start = min(starts[i] for i in batch)
        changed = recorded.states[layer][None, start:].repeat(len(batch), 1, 1)
        for row, i in zip(changed, batch, strict=True):
            row[rows[i][0] - start] = rows[i][1]
        outputs[batch] = recorded.resume(layer, changed, start)[:, -1]
    return outputs


def _alone(vlm: Vlm, inputs: dict[str, Any], layer: int, places: list[int], states: Tensor) -> Tensor:
    blocks = decoder_of(vlm.model).layers
    last = after_block(len(blocks) - 1)
    found = []
    for place, variants in zip(places, states, strict=True):
        for state in variants:

            def replace(
                _: nn.Module, args: Any, kwargs: Any, place: int = place, state: Tensor = state
            ) -> tuple[Any, Any]:
                given = (args[0] if args else kwargs["hidden_states"]).clone()
                given[0, place] = state
                return ((given, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": given})

            hook = blocks[layer].register_forward_pre_hook(replace, with_kwargs=True)
            try:
                found.append(run_until(vlm.model, inputs, [last])[last][0, -1])
            finally:
                hook.remove()
    return torch.stack(found)


if __name__ == "__main__":
    main()
