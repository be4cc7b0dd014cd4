"""The settings of an analyze run, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import begun_run, recorded_settings, require_positive
from lenscore.analysis.lens_folders import require_lens_folders
from lenscore.images.image_files import MAX_PIXELS, require_images
from lenscore.models.flag_types import Dtype, Quantization
from lenscore.models.source import absolute_model, hub_repository, model_folders, require_source
from storage_layouts.errors import InputError

TOKEN_KINDS = ("image", "text", "generated")
"""What `--tokens` takes; "all" is all of them."""


@dataclass(frozen=True)
class AnalyzeSettings:
    """Run images through a VLM and apply the lenses to every visual token at every layer."""

    model: str
    """Folder or Hub name of a vision-language model."""
    images: Path
    """A folder of images, a list (.txt, one path a line), or a table (csv, tsv, json, jsonl, parquet)."""
    out: Path
    """The run folder to write."""
    store: Path | None = None
    """Contextual embeddings of the model's LLM, made by extract, or hf:REPO, such a store on the Hub; the latent lens
    needs them."""
    tuned: Path | None = None
    """A Tuned Lens for the model's LLM, made by tune, or a folder of the tuned-lens package, which tuned needs."""
    patchscope_prompt: str | None = None
    """The prompt of patchscopes: identity (the default), description, or a text whose last token, or the one in braces,
    is replaced by each state, as in "cat->cat; hello->hello; {x}->"."""
    patchscope_tokens: int = 0
    """Also let patchscopes continue the prompt by at most so many tokens, each the likeliest, as a description."""
    lenses: str = "latent,logit,embedding"
    """The lenses, in the order of the results: some of latent, logit, embedding, tuned, patchscopes."""
    layers: str = "paper"
    """Visual layers: paper, all, numbers as in 0,2,-1, and final, the output of the last block, whose number is that of
    the blocks; joined by commas."""
    contextual_layers: str = "all"
    """Layers of the store to search: all, or numbers as in 1,2,-1."""
    top_k: int = 5
    """Number of candidates per lens."""
    prompt: str = "Describe this image."
    """The text after the image (in causal models the visual tokens do not attend to it)."""
    tokens: str = "image"
    """Which tokens to describe: image, also text (the prompt) and generated (the model's answer), joined by commas; or
    all."""
    max_new_tokens: int = 32
    """Tokens of the answer at most, each the likeliest one, if generated ones are described."""
    explained: bool = False
    """Also compute how much of each visual token's variance the best candidates explain, and random ones."""
    rogue_dimensions: bool = False
    """Keep how much of the cosines of the latent lens the largest dimensions make, for a section of the report."""
    path_column: str = ""
    """Column of a table with the images or their paths; by default path, file, file_name or image."""
    caption_column: str = ""
    """Column of a table with captions; by default caption, text or answer, if there is one."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are left out, because a small file can decode to an image that fills the memory."""
    dtype: Dtype = "auto"
    """Dtype of the weights; auto is the checkpoint's own."""
    quantization: Quantization = "none"
    """Load the weights in 8 or 4 bits, by bitsandbytes on a GPU; the store must be made in the same way."""
    self_test: bool = True
    """First check that patches, layers and logits of the model are as lenscore assumes; once per model."""
    images_per_shard: int = 64
    """Images per shard, the unit of work."""
    batch_size: int = 8
    """Images per forward pass."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch. The commit is recorded either way."""

    stage: ClassVar[str] = "analyze"
    needs_device: ClassVar[bool] = True
    plans_on: ClassVar[Literal["planned", "complete"]] = "planned"
    shard_size: ClassVar[str] = "images_per_shard"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "top_k", "images_per_shard", "batch_size", "max_pixels", "max_new_tokens")
        _ = self.token_kinds

    @property
    def token_kinds(self) -> frozenset[str]:
        """Which tokens are described; some of `TOKEN_KINDS`. InputError for others, and without image."""
        asked = [kind.strip() for kind in self.tokens.split(",")]
        kinds = frozenset(TOKEN_KINDS if asked == ["all"] else asked)
        if not kinds <= set(TOKEN_KINDS) or "image" not in kinds:
            raise InputError(
                f"--tokens {self.tokens}: expected image, alone or with text and generated, as in image,text; or all"
            )
        return kinds

    @property
    def searches_store(self) -> bool:
        """See `jobs.base.SearchingSettings`."""
        return self.store is not None

    def with_local_store(self) -> AnalyzeSettings:
        """These settings with the folder of a store that is named hf:REPO; its asked layers are downloaded.

        A run that has begun stays at its commit, as `lenscore.index.hub.store_folder` says. Raises InputError if it
        cannot be downloaded, or is no store.
        """
        if self.store is None or hub_repository(self.store) is None:
            return self
        self.require_files()
        from lenscore.analysis.store_compatibility import asked_layers
        from lenscore.index.hub import store_folder
        from lenscore.models.checkpoint import Checkpoint

        config = Checkpoint(self.model, self.revision, self.trust_remote_code).config
        run = begun_run(self.out, self.stage)
        layers, began_with = asked_layers(self.contextual_layers, config), run and run.config.get("store")
        return replace(self, store=store_folder(self.store, layers, began_with, self.model))

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        later = {
            **{"revision": "", "max_pixels": MAX_PIXELS, "tokens": "image", "max_new_tokens": 32, "tuned": None},
            **{"patchscope_prompt": None, "patchscope_tokens": 0, "explained": False},
            "rogue_dimensions": False,
        }
        kinds = self.token_kinds
        used: dict[str, Any] = {"tokens": ",".join(kind for kind in TOKEN_KINDS if kind in kinds)}
        if "generated" not in kinds:
            used["max_new_tokens"] = later["max_new_tokens"]
        return recorded_settings(self, later, model=absolute_model(self.model), **used)

    def input_paths(self) -> Sequence[Path] | None:
        """The model, the images, and what identifies the store; None with a model of the Hub."""
        models = model_folders(self.model)
        sources = [source for source in (self.store, self.tuned) if source]
        runs = [source for source in sources if (source / "run.json").exists()]
        identity = [run / name for run in runs for name in ("run.json", "plan.json")]
        folders = [source for source in sources if source not in runs]  # of the tuned-lens package
        return models and [*models, self.images, *identity, *folders]

    def require_files(self) -> None:
        """Raises InputError if the model, the images or the store are not there."""
        require_source(self.model, self.revision)
        require_images(self.images)
        require_lens_folders(self.store, self.tuned)
