"""The settings of an extract run, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import recorded_settings, require_positive, require_seed
from lenscore.contexts.choice_by_hash import Sampling
from lenscore.contexts.corpus import TextChoice, require_corpora
from lenscore.contexts.named_corpora import absolute_corpus, read_paths
from lenscore.contexts.sentence_language import require_language
from lenscore.models.flag_types import Dtype, Quantization
from lenscore.models.source import absolute_model, model_folders, require_source
from lenscore.user_files.text_lines import EncodingErrors
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder
from storage_layouts.zarr_metadata import INNER_ROWS


@dataclass(frozen=True)
class ExtractSettings:
    """Run a corpus through an LLM and keep the contextual embeddings that the lenses search."""

    model: str
    """Folder or Hub name of a causal LM, or of a VLM (its LLM reads the corpus)."""
    corpus: tuple[str, ...]
    """Files or folders: txt, csv, tsv, json, jsonl, parquet; gz and zst too. Or corpora by name: phrases, concepts, vg,
    hf:DATASET[@REVISION][:CONFIG][:SPLIT][:COLUMN]. With =0.5 behind one, half of its sentences."""
    out: Path
    """The store to write, usually NAME.zarr."""
    layers: str = "paper"
    """Contextual layers: paper, all, or numbers as in 1,2,-1."""
    per_token: int = 20
    """Number of contexts kept of each distinct token."""
    positions: Literal["all", "from-2"] = "all"
    """all, or from position 2 on: as the latentlens library, which leaves out the first two tokens of a sentence."""
    keep_sinks: bool = False
    """Let searches find attention sinks too: rows whose state is 20 times as long as usual in some layer (first tokens
    of models without a BOS token, and others). Their neighbours are other sinks, whatever their words."""
    leave_out: str = ""
    """Words whose tokens are never found, separated by commas: for a corpus in a chat template its roles, as in
    user,assistant. Their states are computed, as part of the sentences."""
    sampling: Sampling = "uniform"
    """uniform over distinct contexts, or the first ones of the corpus."""
    seed: int = 0
    """Seed of the sampling of contexts."""
    fraction: float = 1.0
    """Share of the corpus' sentences to use."""
    limit: int | None = None
    """Use only this many sentences from the start of the corpus."""
    column: str | None = None
    """Text column of tables and JSON lines; by default text, sentence, caption or phrase."""
    encoding_errors: EncodingErrors = "strict"
    """What to do with bytes that are not UTF-8."""
    language: str = ""
    """Leave out sentences in another language than this one, as in en (ISO 639-1); needs the package py3langid."""
    encoding: Literal["float8_e4m3fn", "int8", "float16"] = "float8_e4m3fn"
    """How embeddings are stored. int8 takes as many bytes as float8 and finds more of the true neighbours; float16
    takes twice as many and finds nearly all (docs/performance.md has the table)."""
    dtype: Dtype = "auto"
    """Dtype of the weights; auto is the checkpoint's own."""
    quantization: Quantization = "none"
    """Load the weights in 8 or 4 bits, by bitsandbytes on a GPU; analyze must use the same."""
    causal: bool = True
    """Equal prefixes give equal states; turned off automatically for models that are known to be bidirectional."""
    max_tokens: int | None = None
    """Sentences are cut after this number of tokens; by default 512, or the limit of the model if that is lower."""
    rows_per_shard: int = 8192
    """Rows per shard, the unit of work: at most 1024, or a multiple of it."""
    separate_layers: bool = False
    """Write files of its own for each layer, so that others can download single layers of a store on the Hub. Without
    it, a shard is one file for all layers, and a store with 33 layers has a twentieth of the files."""
    batch_tokens: int = 8192
    """Tokens per forward pass."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch. The commit is recorded either way."""
    add: tuple[Path, ...] = ()
    """Stores to go on from: --out becomes a new store with their rows and layers, those of --corpus and those of
    --layers. What is in them is copied, and only the rest is computed. Settings that are not given are those of the
    first store; without --corpus there are no more sentences. hf:REPO names a store on the Hub."""

    stage: ClassVar[str] = "extract"
    needs_device: ClassVar[bool] = True
    shard_size: ClassVar[str] = "rows_per_shard"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "per_token", "rows_per_shard", "batch_tokens", "limit", "max_tokens")
        if self.rows_per_shard > INNER_ROWS and self.rows_per_shard % INNER_ROWS:
            raise InputError(
                f"--rows-per-shard: found {self.rows_per_shard}, expected at most {INNER_ROWS}, or a multiple of it"
            )
        if not 0 < self.fraction <= 1:
            raise InputError(f"--fraction: found {self.fraction}, expected more than 0 and at most 1")
        require_seed(self.seed)
        if self.out.resolve() in [store.resolve() for store in self.add]:
            raise InputError(
                f"--out {self.out}: is a store to go on from, which is never changed; choose another --out"
            )

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        unset = {"revision": "", "keep_sinks": False, "leave_out": "", "separate_layers": False}
        later = unset | {"add": (), "language": ""}
        corpus = tuple(map(absolute_corpus, self.corpus))
        return recorded_settings(self, later, model=absolute_model(self.model), corpus=corpus)

    def text_choice(self) -> TextChoice:
        """What is read of the corpus."""
        return TextChoice(self.column, self.encoding_errors, self.seed, self.language)

    def input_paths(self) -> Sequence[Path] | None:
        """The model, the corpus, and what identifies the stores of --add; None with a model of the Hub."""
        models = model_folders(self.model)
        identity = [store / name for store in self.add for name in ("run.json", "plan.json")]
        return models and [*models, *read_paths(self.corpus), *identity]

    def require_files(self) -> None:
        """Raises InputError if the model or the corpus is not there."""
        require_source(self.model, self.revision)
        if self.corpus or not self.add:
            require_corpora(self.corpus)
        require_language(self.language)


def require_chosen_by_hash(run: RunFolder) -> None:
    """Raises InputError unless a store was made by extract, whose choice of contexts can go on with other sentences."""
    if "per_token" not in run.config:
        raise InputError(f"{run.path}: made by convert, so nobody knows which contexts its rows were chosen from")
