"""A linear connector without training: least squares from features of patches to the embeddings of their nouns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Dinov2Model

from lenscore.real_world.artwork_scenes import Picture, draw
from lenscore.training.assembly import Parts, image_processor_for

IMAGE_SIZE = 112
"""Pixels that the encoder sees of a scene: 8 x 8 patches of 14."""
VIT_LAYERS = (-1, -2, -4)
BACKGROUND = "background"
BACKGROUND_PATCHES = 6
"""Of a scene at most so many patches without an object are fitted."""
RIDGE = 1e-4
"""Added to the diagonal of the features' covariance."""
BATCH = 32


@torch.inference_mode()
def fit_connector(
    language: Path,
    vision: Path,
    artwork: Sequence[Picture],
    seed: int,
    scenes: int,
    file: Path,
    progress: Callable[[int], None] = lambda done: None,
    dtype: torch.dtype = torch.bfloat16,
) -> float:
    """Write a linear connector that `lens train --start-from` reads, and return the share of variance it explains.

    Patches of which an object covers at least half get the mean input embedding of their noun's tokens, some others
    that of "background". `scenes` scenes of `artwork` are drawn; `progress` is called with how many are done. The
    encoder computes in `dtype`.
    """
    encoder = Dinov2Model.from_pretrained(vision, dtype=dtype).eval()
    parts = Parts(
        str(language), str(vision), "linear", vit_layers=VIT_LAYERS, image_fit="squash", image_size=IMAGE_SIZE
    )
    processor = image_processor_for(parts)
    tokenizer = AutoTokenizer.from_pretrained(language)
    input_embeddings = AutoModelForCausalLM.from_pretrained(language).get_input_embeddings()
    grid = IMAGE_SIZE // encoder.config.patch_size

    def embedding(noun: str) -> Tensor:
        ids = tokenizer(f" {noun}", add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        return input_embeddings(ids).float().mean(dim=0)  # called, because Gemma's scales the rows of its table

    features: list[Tensor] = []
    targets: list[Tensor] = []
    background = embedding(BACKGROUND)
    for first in range(0, scenes, BATCH):
        drawn = [draw(artwork, seed, index) for index in range(first, min(first + BATCH, scenes))]
        pixels = processor(images=[scene.image for scene in drawn], return_tensors="pt")["pixel_values"]
        states = encoder(pixel_values=pixels.to(dtype), output_hidden_states=True).hidden_states
        found = torch.cat([states[layer] for layer in VIT_LAYERS], dim=-1)[:, 1:].float()  # without the class token
        for scene, patches in zip(drawn, found, strict=True):
            cells = torch.from_numpy(scene.cells(grid)).flatten()
            for number, picture in enumerate(scene.objects):
                of_it = patches[cells == number]
                features.append(of_it)
                targets.append(embedding(picture.noun).expand(len(of_it), -1))
            nothing = patches[cells == -1][:BACKGROUND_PATCHES]
            features.append(nothing)
            targets.append(background.expand(len(nothing), -1))
        progress(first + len(drawn))
    weight, bias, explained = least_squares(torch.cat(features), torch.cat(targets))
    save_file({"weight": weight, "bias": bias}, file)
    return explained


def least_squares(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, float]:
    """Ridge regression with an intercept, solved in float64.

    `features` [n, f] and `targets` [n, d] are float32. Returns weight [d, f] and bias [d] in float32, and the
    share of the targets' variance that they explain.
    """
    x_mean, y_mean = features.double().mean(dim=0), targets.double().mean(dim=0)
    x, y = features.double() - x_mean, targets.double() - y_mean
    covariance = x.T @ x / len(x)
    ridge = RIDGE * torch.eye(len(covariance), dtype=torch.float64)
    solution = torch.linalg.solve(covariance + ridge, x.T @ y / len(x))
    explained = 1 - float((y - x @ solution).square().sum() / y.square().sum())
    weight = solution.T.contiguous()
    return weight.float(), (y_mean - weight @ x_mean).float(), explained
