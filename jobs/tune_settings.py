"""The settings of a tune run, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import recorded_settings, require_positive, require_seed
from lenscore.contexts.corpus import TextChoice, require_corpora
from lenscore.contexts.named_corpora import absolute_corpus, read_paths
from lenscore.contexts.sentence_language import require_language
from lenscore.models.flag_types import Dtype, Quantization
from lenscore.models.source import absolute_model, model_folders, require_source
from lenscore.user_files.text_lines import EncodingErrors
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class TuneSettings:
    """Train a Tuned Lens: for every layer of an LLM an affine translator into the form of the last one.

    The result is RUN, for --tuned of analyze, show, read and find, and RUN/lens, a folder of the tuned-lens package.
    """

    model: str
    """Folder or Hub name of a causal LM, or of a VLM (its LLM reads the corpus)."""
    corpus: tuple[str, ...]
    """Files or folders: txt, csv, tsv, json, jsonl, parquet; gz and zst too. Or corpora by name: phrases, concepts, vg,
    hf:DATASET[@REVISION][:CONFIG][:SPLIT][:COLUMN]. With =0.5 behind one, half of its sentences."""
    out: Path
    """The run folder to write."""
    steps: int = 250
    """Updates in all."""
    sequences_per_step: int = 512
    """Sequences in one update; with 512 tokens in each, the 2^18 tokens of the tuned-lens package."""
    tokens_per_sequence: int = 512
    """Texts are joined, and cut into sequences of this length."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd with Nesterov momentum, or adam with amsgrad."""
    learning_rate: float | None = None
    """Rate of the first step, which falls linearly to 0; by default 1 of sgd, 0.001 of adam."""
    weight_decay: float = 1e-3
    """Pulls the translators to 0, where the lens is LogitLens."""
    clip: float = 1.0
    """Largest norm of the gradient of one translator."""
    held_out: float = 0.05
    """Share of the texts that the lens is evaluated on, and not trained."""
    held_out_tokens: int = 65536
    """Evaluate on no more tokens than this."""
    seed: int = 0
    """Decides which texts are held out, and the order of the sequences."""
    limit: int | None = None
    """Use only this many texts from the start of the corpus."""
    column: str | None = None
    """Text column of tables and JSON lines; by default text, sentence, caption or phrase."""
    encoding_errors: EncodingErrors = "strict"
    """What to do with bytes that are not UTF-8."""
    language: str = ""
    """Leave out sentences in another language than this one, as in en (ISO 639-1); needs the package py3langid."""
    dtype: Dtype = "auto"
    """Dtype of the model's weights; auto is the checkpoint's own. Translators, head and loss are in float32."""
    quantization: Quantization = "none"
    """Load the weights in 8 or 4 bits, by bitsandbytes on a GPU."""
    layers_per_shard: int | None = None
    """Layers per shard, the unit of work. Each shard runs the model on all sequences; by default as many layers that
    this takes less time than they do themselves."""
    batch_tokens: int = 8192
    """Tokens per forward pass of the model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch. The commit is recorded either way."""

    stage: ClassVar[str] = "tune"
    needs_device: ClassVar[bool] = True
    plans_on: ClassVar[Literal["planned", "complete"]] = "planned"
    shard_size: ClassVar[str] = "layers_per_shard"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "steps", "sequences_per_step", "held_out_tokens", "limit", "layers_per_shard")
        require_positive(self, "batch_tokens")
        require_seed(self.seed)
        if self.tokens_per_sequence < 2:
            raise InputError(f"--tokens-per-sequence: found {self.tokens_per_sequence}, expected at least 2")
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out: found {self.held_out}, expected more than 0 and less than 1")
        if not self.rate > 0 or not self.clip > 0:
            name, found = ("learning-rate", self.rate) if not self.rate > 0 else ("clip", self.clip)
            raise InputError(f"--{name}: found {found}, expected more than 0")
        if not self.weight_decay >= 0:
            raise InputError(f"--weight-decay: found {self.weight_decay}, expected at least 0")

    @property
    def rate(self) -> float:
        """The learning rate of the first step."""
        return self.learning_rate if self.learning_rate is not None else {"sgd": 1.0, "adam": 1e-3}[self.optimizer]

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        corpus = tuple(map(absolute_corpus, self.corpus))
        return recorded_settings(self, {"language": ""}, model=absolute_model(self.model), corpus=corpus)

    def text_choice(self) -> TextChoice:
        """What is read of the corpus."""
        return TextChoice(self.column, self.encoding_errors, self.seed, self.language)

    def input_paths(self) -> Sequence[Path] | None:
        """The model and the corpus; None with a model of the Hub."""
        models = model_folders(self.model)
        return models and [*models, *read_paths(self.corpus)]

    def require_files(self) -> None:
        """Raises InputError if the model or the corpus is not there."""
        require_source(self.model, self.revision)
        require_corpora(self.corpus)
        require_language(self.language)
