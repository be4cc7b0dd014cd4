"""The vision encoder: a small CLIP vision transformer trained from scratch to classify each patch.

It learns from the attributes of scenes, never from text: linear heads on each patch predict the noun, colour, texture
and size of the object there. The heads are discarded afterwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from lenscore.shapes.rendering import object_masks, render
from lenscore.shapes.scenes import IMAGE_SIZE, Scene, Split, sample_scene
from lenscore.shapes.stage_trainer import Rates, Trainer
from lenscore.shapes.vocabulary import COLOURS, NOUNS, SIZES, TEXTURES

PATCH_SIZE = 12
GRID = IMAGE_SIZE // PATCH_SIZE
PIXEL_MEAN, PIXEL_STD = 0.5, 0.3

_RATES = Rates(muon=8e-3, adamw=2e-3, weight_decay=0.02)
_LEAST_SHARE = 0.3  # of a patch, for an object to be the patch's label
_OBJECT_WEIGHT, _BACKGROUND_WEIGHT = 4.25, 0.25
# Class 0 of noun, texture and size means background; a colour is then the background's.
_CLASSES = (1 + len(NOUNS), len(COLOURS), 1 + len(TEXTURES), 1 + len(SIZES))


@dataclass(frozen=True)
class VisionPlan:
    """Sizes and length of the training."""

    hidden: int = 128
    layers: int = 4
    head_size: int = 32
    scenes: int = 12000
    steps: int = 900
    batch: int = 64


def new_vision_encoder(plan: VisionPlan, seed: int) -> Any:
    """Returns an untrained ``CLIPVisionModel`` whose position embeddings start as waves over the grid."""
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=plan.hidden,
        intermediate_size=3 * plan.hidden,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden // plan.head_size,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_act="gelu",
    )
    model = CLIPVisionModel(config)
    # Positions learnt from scratch take far longer than a few minutes to show which patches are neighbours.
    with torch.no_grad():
        model.embeddings.position_embedding.weight[1:] = 0.3 * _position_waves(plan.hidden)
    return model


def train_vision_encoder(model: Any, plan: VisionPlan, seed: int) -> list[float]:
    """Train on attributes of training scenes, in place. Returns the loss of every step."""
    scenes = [sample_scene("train", index, seed) for index in range(plan.scenes)]
    images = np.stack([render(scene) for scene in scenes])
    labels = torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes]))
    torch.manual_seed(seed)
    heads = nn.Linear(plan.hidden, sum(_CLASSES))
    model.set_attn_implementation("eager")  # the fastest on a CPU for sequences this short
    trainer = Trainer("vision encoder", [model, nn.ModuleDict({"heads": heads})], _RATES, plan.steps)
    order = torch.Generator().manual_seed(seed)
    model.train()
    for step in range(plan.steps):
        chosen = torch.randint(0, plan.scenes, (plan.batch,), generator=order)
        pixels, wanted = to_pixel_values(images[chosen.numpy()]), labels[chosen]
        if step % 2:  # every other batch is mirrored
            pixels, wanted = pixels.flip(3), wanted.flip(2)
        states = model(pixel_values=pixels).last_hidden_state[:, 1:]
        trainer.step(_attribute_loss(heads(states), wanted.flatten(1, 2)))
    model.eval()
    return trainer.losses


def patch_labels(scene: Scene) -> npt.NDArray[np.int64]:
    """Returns the classes of noun, colour, texture and size of every patch: int64 ``[8, 8, 4]``."""
    labels = np.zeros((GRID, GRID, 4), dtype=np.int64)
    labels[:, :, 1] = list(COLOURS).index(scene.background)
    masks = object_masks(scene).reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean(axis=(2, 4))
    for item, mask in zip(scene.objects, masks, strict=True):
        labels[(mask >= _LEAST_SHARE) & (mask == masks.max(axis=0))] = (
            1 + list(NOUNS).index(item.noun),
            list(COLOURS).index(item.colour),
            1 + list(TEXTURES).index(item.texture),
            1 + list(SIZES).index(item.size),
        )
    return labels


def to_pixel_values(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Returns uint8 images ``[n, 96, 96, 3]`` as the image processor does: float32 ``[n, 3, 96, 96]``."""
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return (channels_first / 255 - PIXEL_MEAN) / PIXEL_STD


@torch.no_grad()
def image_features(model: Any, split: Split, count: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    """Returns scenes and the encoder's last states of their patches: float32 ``[count, 64, hidden]``."""
    scenes = [sample_scene(split, index, seed) for index in range(count)]
    features = []
    for start in range(0, count, 100):
        images = np.stack([render(scene) for scene in scenes[start : start + 100]])
        features.append(model(pixel_values=to_pixel_values(images)).last_hidden_state[:, 1:])
    return scenes, torch.cat(features)


def _attribute_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the four attributes, summed; ``[batch, patches, classes]`` and ``[batch, patches, 4]``."""
    is_object = (labels[..., 0] > 0).float()
    weights = _BACKGROUND_WEIGHT + is_object * (_OBJECT_WEIGHT - _BACKGROUND_WEIGHT)
    weights = (weights / weights.sum()).flatten()
    total = logits.new_zeros(())
    for aspect, part in enumerate(logits.split(_CLASSES, dim=-1)):
        each = F.cross_entropy(part.flatten(0, 1), labels[..., aspect].flatten(), reduction="none")
        total = total + (each * weights).sum()
    return total


def _position_waves(hidden: int) -> torch.Tensor:
    """Sines and cosines of row and column, from half a wave over the grid to four: ``[64, hidden]``."""
    frequencies = math.pi / GRID * torch.logspace(0, 3, hidden // 4, base=2)
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in (rows, columns)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
