"""The connector: a standard Llava in which only the projector is trained, on captions only.

The language model and the vision encoder stay frozen. The training has captions of whole images and no positions of
objects or words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lenscore.models.connector_config import plain_config
from lenscore.shapes.chance import generator
from lenscore.shapes.grammar import PROMPT, caption
from lenscore.shapes.language_model import ANSWER_WEIGHT, weighted_cross_entropy
from lenscore.shapes.scenes import IMAGE_SIZE
from lenscore.shapes.stage_trainer import Rates, Trainer
from lenscore.shapes.tokenizer import IMAGE, scene_word_ids
from lenscore.shapes.vision_encoder import GRID, PATCH_SIZE, PIXEL_MEAN, PIXEL_STD, image_features

CHAT_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)

_RATES = Rates(muon=5e-3, adamw=3e-3, weight_decay=0.0)


@dataclass(frozen=True)
class ConnectorPlan:
    """Length of the training."""

    scenes: int = 6000
    steps: int = 1000
    batch: int = 16


def assemble(language_model: Any, vision_encoder: Any, tokenizer: Any, seed: int) -> Any:
    """Returns a ``LlavaForConditionalGeneration`` of the two trained parts and an untrained projector."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=plain_config(vision_encoder.config),
        text_config=plain_config(language_model.config),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.lm_head.load_state_dict(language_model.lm_head.state_dict())
    model.model.vision_tower.load_state_dict(vision_encoder.state_dict())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    return model.eval()


def new_processor(tokenizer: Any, image_processor: Any) -> Any:
    """Returns the ``LlavaProcessor`` for messages and 96-pixel images."""
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def train_connector(model: Any, tokenizer: Any, plan: ConnectorPlan, seed: int) -> list[float]:
    """Train the projector of the model in place. Returns the loss of every step."""
    model.set_attn_implementation("eager")  # the fastest on a CPU for sequences this short
    model.requires_grad_(False)
    projector = model.model.multi_modal_projector.requires_grad_(True)
    embed = model.get_input_embeddings()
    scenes, features = image_features(model.model.vision_tower, "train", plan.scenes, seed)
    _match_text_norm(projector, features[:50], embed.weight)
    answers = torch.ones(len(tokenizer))
    answers[scene_word_ids(tokenizer)] = ANSWER_WEIGHT
    answers[tokenizer.pad_token_id] = 0
    prompt_length = len(tokenizer(PROMPT, add_special_tokens=False)["input_ids"])
    begin = embed(torch.tensor([[tokenizer.bos_token_id]])).expand(plan.batch, 1, -1)
    trainer = Trainer("connector", [projector], _RATES, plan.steps)
    rng = generator("connector", seed)
    for _ in range(plan.steps):
        chosen = [rng.randrange(plan.scenes) for _ in range(plan.batch)]
        texts = [f"{PROMPT} {caption(scenes[i], rng)}{tokenizer.eos_token}" for i in chosen]
        tokens = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        tokens = tokens["input_ids"]
        visual = projector(features[chosen])
        inputs = torch.cat([begin, visual, embed(tokens)], dim=1)
        states = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        # The state before each caption token predicts it; the prompt itself is given.
        first = 1 + visual.shape[1] + prompt_length
        wanted = tokens[:, prompt_length:]
        trainer.step(weighted_cross_entropy(model.lm_head(states[:, first - 1 : -1]), wanted, answers[wanted]))
    return trainer.losses


def pil_image_processor() -> Any:
    """Returns a CLIP image processor that needs no torchvision: 96 x 96 pixels, no crop."""
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )


@torch.no_grad()
def _match_text_norm(projector: Any, features: torch.Tensor, embeddings: torch.Tensor) -> None:
    """Scale the projector: visual tokens start with the mean norm of text embeddings, or the model ignores them."""
    ratio = embeddings.norm(dim=1).mean() / projector(features).norm(dim=-1).mean()
    projector.linear_2.weight *= ratio
