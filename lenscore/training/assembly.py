# ruff: noqa: E402 - torchvision is looked at before the imports that name another cause
"""A vision-language model put together from a language model, a vision encoder and an untrained connector."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from lenscore.models.torchvision_fits import require_fitting_torchvision

require_fitting_torchvision()
import transformers
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, LlavaProcessor
from transformers.image_processing_backends import PilBackend
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from lenscore.models.checkpoint import Checkpoint
from lenscore.models.connector_config import ConnectorConfig, plain_config
from lenscore.models.connector_model import ConnectorForConditionalGeneration, initialise
from lenscore.models.flag_types import ConnectorKind, ImageFit
from storage_layouts.errors import InputError, first_line


@dataclass(frozen=True)
class Parts:
    """What a model is made of.

    Attributes:
        llm: folder or Hub name of a causal language model.
        vision: folder or Hub name of a vision encoder, or of a model that holds one (CLIP, SigLIP).
        connector: swiglu, mlp or linear.
        connector_hidden_size: width inside the connector; None is the LLM's intermediate size, as in the paper.
        vit_layers: indices of the encoder's hidden_states whose features are concatenated.
        image_fit: how images meet the encoder: own (its image processor as it is), squash (to a square of
            `image_size`), pad (with the mean colour to a square, then as squash).
        image_size: side in pixels; None is the encoder's own.
        llm_revision, vision_revision: branch, tag or commit of Hub models; None is the main branch.
        image_token: stands for the image in the text; added to the tokenizer if it has no such token.

    """

    llm: str
    vision: str
    connector: ConnectorKind = "swiglu"
    connector_hidden_size: int | None = None
    vit_layers: tuple[int, ...] = (-2, -9)
    image_fit: ImageFit = "own"
    image_size: int | None = None
    image_token: str = "<image>"  # noqa: S105 - a token of text
    trust_remote_code: bool = False
    llm_revision: str | None = None
    vision_revision: str | None = None

    @cached_property
    def language(self) -> Checkpoint:
        """The checkpoint of the language model; its tokenizer may take seconds to load."""
        return Checkpoint(self.llm, self.llm_revision, self.trust_remote_code, flag="--llm")

    @property
    def encoder(self) -> Checkpoint:
        """That of the vision encoder, which may hold a text side too."""
        return Checkpoint(self.vision, self.vision_revision, self.trust_remote_code, flag="--vision")


def assemble(parts: Parts, seed: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, in eval mode on the CPU, and its processor.

    The two models are loaded in `dtype`; the connector is a function of the seed alone, in float32. Raises InputError
    if a part cannot be loaded, or does not fit.
    """
    tokenizer = tokenizer_of(parts)
    image_token = tokenizer.convert_tokens_to_ids(parts.image_token)
    llm = replace(parts.language, dtype=dtype).model(AutoModelForCausalLM, "cpu")
    vision_config = vision_config_of(parts)
    vision, missing = _load_vision(parts, _vision_class(parts, vision_config), dtype)
    image_processor = image_processor_for(parts)
    rows = llm.get_input_embeddings().weight.shape[0]
    if image_token >= rows:
        _add_rows(llm, image_token + 1)
    text_config = llm.config
    config = ConnectorConfig(
        vision_config=plain_config(vision_config),
        text_config=plain_config(text_config),
        image_token_index=image_token,
        image_seq_length=0,
        vision_feature_layer=list(parts.vit_layers),
        vision_feature_select_strategy="full",
        connector=parts.connector,
        connector_hidden_size=parts.connector_hidden_size or getattr(text_config, "intermediate_size", 0),
        tie_word_embeddings=bool(text_config.tie_word_embeddings),
        dtype=dtype,
    )
    grid, prefix = _measure(parts, vision, missing, image_processor, vision_config.patch_size)
    config.image_seq_length, config.num_prefix_tokens = grid, prefix
    with torch.device("meta"):
        model = ConnectorForConditionalGeneration(config)
    model.model.language_model = getattr(llm, llm.base_model_prefix)
    model.lm_head = llm.get_output_embeddings()
    model.model.vision_tower = vision
    model.connector.to_empty(device="cpu").float()
    initialise(model.connector, seed)
    model.generation_config = copy.deepcopy(llm.generation_config)
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=vision_config.patch_size,
        vision_feature_select_strategy="full",
        image_token=parts.image_token,
    )
    return model.eval(), processor


def vision_config_of(parts: Parts) -> Any:
    """The configuration of the encoder alone. Raises InputError if it has no patches or lacks one of the layers."""
    config = parts.encoder.config
    config, commit = getattr(config, "vision_config", config), config._commit_hash
    config._commit_hash = commit
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None or not isinstance(getattr(config, "patch_size", None), int):
        raise InputError(
            f"--vision {parts.vision}: a {config.model_type!r} model has no square patches or no layers; "
            "expected a vision transformer (CLIP, DINOv2, SigLIP and the like)"
        )
    for layer in parts.vit_layers:
        if not -depth - 1 <= layer <= depth:
            raise InputError(
                f"--vit-layers: {layer} does not exist; {parts.vision} has hidden states 0 to {depth} "
                f"(or {-depth - 1} to -1)"
            )
    return config


def require_llm(parts: Parts) -> Any:
    """The configuration of the language model. Raises InputError if it is no causal language model."""
    config = parts.language.config
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not parts.trust_remote_code:
        raise InputError(f"--llm {parts.llm}: a {config.model_type!r} model is no causal language model")
    return config


def image_processor_for(parts: Parts) -> Any:
    """The encoder's image processor, changed as `image_fit` and `image_size` ask. InputError if there is none."""
    try:
        own = AutoImageProcessor.from_pretrained(
            parts.vision, trust_remote_code=parts.trust_remote_code, revision=parts.vision_revision
        )
        if parts.image_fit == "pad":
            own = _padding(own)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"--vision {parts.vision}: no image processor ({first_line(error)})") from None
    if parts.image_fit == "own" and parts.image_size is None:
        return own
    if parts.image_fit == "own":
        raise InputError("--image-size: needs --image-fit squash or pad, which say how an image gets this size")
    side = parts.image_size or vision_config_of(parts).image_size
    own.do_resize, own.do_center_crop = True, False
    own.size = own.crop_size = {"height": side, "width": side}
    return type(own)(**{name: value for name, value in own.to_dict().items() if not name.startswith("_")})


def _padding(own: Any) -> Any:
    """LLaVA's image processor, which pads to a square, with the colours and the resampling of another one."""
    kept = ("image_mean", "image_std", "resample", "rescale_factor", "do_rescale", "do_normalize", "do_convert_rgb")
    settings = {name: getattr(own, name) for name in kept if getattr(own, name, None) is not None}
    if isinstance(own, PilBackend):
        return LlavaImageProcessorPil(**settings, do_pad=True)
    return transformers.LlavaImageProcessor(**settings, do_pad=True)  # needs torchvision, as the encoder's own does


def tokenizer_of(parts: Parts) -> Any:
    """The LLM's tokenizer with the image token. InputError if it has no token for the end of a text."""
    tokenizer = parts.language.tokenizer
    if tokenizer.eos_token_id is None:
        raise InputError(f"--llm {parts.llm}: its tokenizer has no token for the end of a text (eos_token)")
    if parts.image_token not in tokenizer.get_vocab():
        tokenizer.add_special_tokens({"additional_special_tokens": [parts.image_token]}, False)
    # An LLM's own chat template has no place for an image.
    tokenizer.chat_template = None
    return tokenizer


def patches_of_an_image(parts: Parts) -> int:
    """How many patches, and so visual tokens, an image has."""
    return _patches(_plain_pixels(image_processor_for(parts)), vision_config_of(parts).patch_size)


def _vision_class(parts: Parts, vision_config: Any) -> Any:
    """The class of the encoder alone, which leaves out the text side of a checkpoint that has one."""
    with torch.device("meta"):
        return type(AutoModel.from_config(vision_config, trust_remote_code=parts.trust_remote_code))


def _load_vision(parts: Parts, kind: Any, dtype: torch.dtype) -> tuple[Any, set[str]]:
    """The encoder, and the weights that its checkpoint lacks; see `_measure`."""
    remote: dict[str, Any] = {"trust_remote_code": True} if parts.trust_remote_code else {}
    remote |= {"revision": parts.vision_revision} if parts.vision_revision else {}
    try:
        model, report = kind.from_pretrained(parts.vision, dtype=dtype, output_loading_info=True, **remote)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"--vision {parts.vision}: its weights cannot be loaded: {first_line(error)}") from None
    return model.eval(), set(report["missing_keys"])


def _add_rows(llm: Any, rows: int) -> None:
    """More rows for the tables of embeddings and head, each the mean of those that were there."""
    before = llm.get_input_embeddings().weight.shape[0]
    llm.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for table in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight):
            table[before:] = table[:before].float().mean(dim=0).to(table.dtype)


def _plain_pixels(image_processor: Any) -> torch.Tensor:
    """A plain picture as the encoder gets it: [1, 3, height, width]."""
    pixels: torch.Tensor = image_processor(images=[Image.new("RGB", (64, 48))], return_tensors="pt")["pixel_values"]
    return pixels


def _patches(pixels: torch.Tensor, patch: int) -> int:
    return (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)


@torch.no_grad()
def _measure(parts: Parts, vision: Any, missing: set[str], image_processor: Any, patch: int) -> tuple[int, int]:
    """Patches of an image, and tokens of the encoder before them, seen on a plain picture.

    Weights that the checkpoint lacks, which transformers made at random, are NaN meanwhile: those of a pooler reach no
    state. Raises InputError if one does, as when the names in the file are those of a larger model.
    """
    made = {name: weight for name, weight in vision.named_parameters() if name in missing}
    kept = {name: weight.clone() for name, weight in made.items()}
    for weight in made.values():
        weight.fill_(torch.nan)
    pixels = _plain_pixels(image_processor)
    height, width = pixels.shape[-2:]
    try:
        found = vision(pixel_values=pixels.to(vision.dtype), output_hidden_states=True).hidden_states
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--vision: cannot take pictures of {width} x {height} pixels ({first_line(error)}); "
            "see --image-fit and --image-size"
        ) from None
    for name, weight in made.items():
        weight.copy_(kept[name])
    if made and any(state.isnan().any() for state in found):
        raise InputError(
            f"--vision {parts.vision}: the checkpoint lacks {len(made)} weights of {type(vision).__name__}, e.g. "
            f"{min(made)}; expected a vision encoder, or a model of CLIP's kind that holds one"
        )
    states = found[-1]
    patches = _patches(pixels, patch)
    prefix = states.shape[1] - patches if states.dim() == 3 else -1
    if prefix < 0:
        raise InputError(
            f"--vision: gives states {tuple(states.shape)} for {patches} patches of {width} x {height} pixels; "
            "expected [images, tokens, features] with one token a patch"
        )
    return patches, prefix
