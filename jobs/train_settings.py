"""The settings of a training, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import require_positive, require_seed
from lenscore.images.image_files import require_images
from lenscore.models.flag_types import ConnectorKind, ImageFit
from lenscore.models.source import absolute_model, model_folders, require_source
from lenscore.training.pairs import HUB_PREFIX, require_data
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class TrainSettings:
    """Train a connector that joins a frozen LLM and a frozen vision encoder, on images with captions.

    The result is RUN/model, a vision-language model like any other.
    """

    llm: str
    """Folder or Hub name of a causal language model."""
    vision: str
    """Folder or Hub name of a vision encoder, or of a model that holds one (CLIP, SigLIP)."""
    data: str
    """Images with captions: a folder with one table, a table, webdataset tar files, or hf:NAME[:SPLIT]."""
    out: Path
    """The run folder to write."""
    connector: ConnectorKind = "swiglu"
    """What joins them: swiglu (the paper's), mlp (LLaVA's), linear."""
    connector_hidden_size: int | None = None
    """Width inside the connector; by default the LLM's intermediate size."""
    vit_layers: str = "-2,-9"
    """Hidden states of the encoder whose features are concatenated (0 is its embeddings, -1 its last layer)."""
    image_fit: ImageFit = "own"
    """How images meet the encoder: its own image processor, squashed to a square, or padded to a square."""
    image_size: int | None = None
    """Side of the square in pixels, with squash and pad; by default the encoder's own."""
    image_token: str = "<image>"  # noqa: S105 - a token of text
    """Token that stands for the image; added to the tokenizer if it has no such token."""
    prompt: str = ""
    """Text between image and caption that is given, not learnt."""
    image_column: str = ""
    """Column of the images or their paths; by default path, file, file_name or image."""
    caption_column: str = ""
    """Column of the captions; by default caption, text or answer."""
    prompt_column: str = ""
    """Column of prompts, one for each image, instead of --prompt."""
    top_bottom: str = ""
    """Learn whether objects are at the top or bottom of their image, instead of captions: a truth file, as of
    `lens judge --judge truth:FILE`, for the images in the folder --data."""
    first_sentence: bool = False
    """Learn only the first sentence of each caption."""
    max_tokens: int = 1600
    """Captions are cut so that an example has at most so many tokens, image included."""
    unfreeze_llm: bool = False
    """Train the LLM too, but for its embeddings and head."""
    unfreeze_vit: bool = False
    """Train the vision encoder too."""
    steps: int = 12000
    """Updates in all; 0 joins the parts as they are."""
    batch_size: int = 8
    """Images in one update."""
    micro_batch_size: int = 2
    """Images in one forward pass; changes memory and rounding, nothing else."""
    learning_rate: float = 2e-4
    """Peak rate of the connector."""
    llm_learning_rate: float = 2e-5
    """Peak rate of an unfrozen LLM."""
    vit_learning_rate: float = 6e-6
    """Peak rate of an unfrozen encoder."""
    warmup_steps: int = 200
    """Steps to the peak rate of the connector."""
    unfrozen_warmup_steps: int = 2000
    """Steps to the peak rates of an unfrozen LLM and encoder."""
    last_rate: float = 0.1
    """Share of the peak rates that the cosine ends at."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    clip: float = 1.0
    """Largest norm of a gradient: the connector's, the LLM's, the encoder's."""
    seed: int = 6198
    """Decides the connector's first weights and the order of the data."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """bfloat16: frozen weights in bfloat16, trained ones in float32 under autocast; on a CPU without instructions for
    bfloat16 products in float32. float32: everything."""
    start_from: str = ""
    """Connector weights to begin with: a published connector (folder, file or Hub name), or one of ours."""
    steps_per_shard: int = 250
    """Steps in one unit of work: as many are lost at most when it is killed."""
    save_at: str = ""
    """Steps after which the model is kept as it is then, in RUN/models, as in 100,1000,6000; 0 is before training."""
    trust_remote_code: bool = False
    """Run Python code that comes with a model."""
    llm_revision: str = ""
    """Branch, tag or commit of --llm on the Hub; by default its main branch. The commit is recorded either way."""
    vision_revision: str = ""
    """The same of --vision."""
    start_from_revision: str = ""
    """The same of --start-from."""

    stage: ClassVar[str] = "train"
    needs_device: ClassVar[bool] = True
    plans_on: ClassVar[Literal["planned", "complete"]] = "planned"
    shard_size: ClassVar[str] = "steps_per_shard"
    is_chain: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        """Refuse values that no run could use."""
        numbers = ("connector_hidden_size", "image_size", "max_tokens", "batch_size", "micro_batch_size")
        require_positive(self, *numbers, "steps_per_shard")
        require_seed(self.seed)
        if self.steps < 0:
            raise InputError(f"--steps: found {self.steps}, expected at least 0")
        for field in ("learning_rate", "llm_learning_rate", "vit_learning_rate", "clip"):
            if not getattr(self, field) > 0:
                raise InputError(f"--{field.replace('_', '-')}: found {getattr(self, field)}, expected more than 0")
        if late := [step for step in self.saved_steps if step >= self.steps]:
            raise InputError(
                f"--save-at: found {late[0]}, expected steps below --steps {self.steps}, after which RUN/model is saved"
            )

    @cached_property
    def saved_steps(self) -> frozenset[int]:
        """What `save_at` lists. InputError unless it is numbers between commas."""
        steps = [step.strip() for step in self.save_at.split(",")] if self.save_at else []
        if not all(step.isdecimal() and step.isascii() and len(step) < 10 for step in steps):
            raise InputError(f"--save-at {self.save_at}: expected numbers of steps as in 100,1000,6000")
        return frozenset(map(int, steps))

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json: all fields but `out`, with absolute paths."""
        data = self.data if self.data.startswith(HUB_PREFIX) else str(Path(self.data).resolve())
        models = {"llm": absolute_model(self.llm), "vision": absolute_model(self.vision)}
        start = absolute_model(self.start_from) if self.start_from else ""
        settings = asdict(self) | models | {"data": data, "start_from": start}
        if self.top_bottom:  # the model is one of data with prompts, wherever they come from
            settings |= {"top_bottom": str(Path(self.top_bottom).resolve()), "prompt_column": "prompt"}
        del settings["out"]
        for name in ("top_bottom", "llm_revision", "vision_revision", "start_from_revision", "save_at"):
            if not settings[name]:  # as in runs from before there was this field
                del settings[name]
        return settings

    def input_paths(self) -> Sequence[Path] | None:
        """The models and the data; None with a model or dataset of the Hub."""
        models = model_folders(self.llm, self.vision, *filter(None, [self.start_from]))
        if models is None or self.data.startswith(HUB_PREFIX):
            return None
        return [*models, *map(Path, filter(None, [self.data, self.top_bottom]))]

    def require_files(self) -> None:
        """Raises InputError if one of the models or the data is not there."""
        require_source(self.llm, self.llm_revision, "--llm")
        require_source(self.vision, self.vision_revision, "--vision")
        if self.top_bottom:
            require_images(Path(self.data), "--data")
        else:
            require_data(self.data)
