"""LensResults: the top k of each lens at each patch and layer, in the run folder of the stage analyze.

    images.parquet  tokens.parquet      written by the planning
    geometry/part-00012.parquet         the patches of each image
    results/part-00012.parquet          the top k of every (image, patch, layer, lens)

The items of the run are the images: image_id is the item number, so the parts of a shard hold the ids
[``shard.first``, ``shard.stop``). The plan's facts (or else the configuration) hold ``lenses``, ``layers``, ``top_k``
and ``model``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.errors import CorruptError, IncompleteError, InputError, MachineError
from storage_layouts.fields import COUNT, SIZE, TEXT, Kind, check_fields, list_of
from storage_layouts.files import FileDigest, read_checked
from storage_layouts.run_identity import receipt_remedy
from storage_layouts.runs import Receipt, RunFolder
from storage_layouts.shards import PLAN_REMEDY, part_name
from storage_layouts.tables import parse_table, with_schema, write_table
from storage_layouts.token_measures import (
    DESCRIPTIONS,
    DIMENSIONS,
    DISTRIBUTIONS,
    EXPLAINED,
    PATCH_KEY,
    TEXT_SCHEMA,
    TEXTS,
    description_schema,
    distribution_schema,
    explained_schema,
    measure_schema,
)

STAGE = "analyze"
IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.int32()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("caption", pa.string()),
    ]
)
TOKEN_SCHEMA = pa.schema([("token_id", pa.int32()), ("token", pa.string())])
_latest_tokens: tuple[bytes, list[str]] = b"", []
"""A file of tokens and their texts, which runs of one model share: ten MB for a hundred thousand."""
TOKEN_BYTES = pa.field("bytes", pa.binary())
"""A further column of the tokens in runs that describe text: the bytes of tokens that hold a part of a character."""
PATCH = pa.struct(
    [
        ("position", pa.int32()),
        ("view", pa.int16()),
        ("row", pa.int16()),
        ("col", pa.int16()),
        ("left", pa.float32()),
        ("top", pa.float32()),
        ("right", pa.float32()),
        ("bottom", pa.float32()),
    ]
)
VIEW = pa.struct([("view", pa.int16()), ("name", pa.string()), ("rows", pa.int16()), ("cols", pa.int16())])
GEOMETRY_SCHEMA = pa.schema(
    [
        ("image_id", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("error", pa.string()),
        ("patches", pa.list_(PATCH)),
        ("views", pa.list_(VIEW)),
    ]
)


def result_schema(k: int) -> pa.Schema:
    """Schema of the results: one line per (image, view, row, col, layer, lens) with the top ``k``.

    ``ids`` are rows of the store for `LensResults.store_lenses`, else token ids; ``contextual_layers`` is -1 for lenses
    without a store. Scores are float32, because float16 would merge ranks.
    """
    return pa.schema(
        [
            *PATCH_KEY,
            ("layer", pa.int16()),
            ("lens", pa.string()),
            ("ids", pa.list_(pa.int32(), k)),
            ("scores", pa.list_(pa.float32(), k)),
            ("contextual_layers", pa.list_(pa.int16(), k)),
        ]
    )


def checked_results(table: pa.Table) -> pa.Table:
    """Results as in `result_schema`; k is the length of the fixed-size lists in the column ``ids``.

    ValueError for columns that do not fit, or scores that are not finite.
    """
    ids = table.schema.field("ids").type
    if not pa.types.is_fixed_size_list(ids):
        raise ValueError(f"ids: found {ids}, expected a fixed-size list of int32")
    table = with_schema(table, result_schema(ids.list_size))
    scores = table.column("scores").combine_chunks().flatten()
    if not np.isfinite(scores.to_numpy(zero_copy_only=False)).all():
        raise ValueError("scores hold NaN or infinity")
    return table


def write_results(path: Path, table: pa.Table) -> FileDigest:
    """Write a part of the results; ValueError as `checked_results`."""
    table = checked_results(table)
    return write_table(path, table, table.schema)


def write_geometry(path: Path, table: pa.Table) -> FileDigest:
    """Write a part of the geometry: one line per image, also for unreadable ones (``error``)."""
    return write_table(path, table, GEOMETRY_SCHEMA)


def write_images(path: Path, table: pa.Table) -> FileDigest:
    """Write images.parquet: one line per image, image_id 0, 1, 2, ... (ValueError otherwise)."""
    return write_table(path, _numbered(table, "image_id"), IMAGE_SCHEMA)


def write_tokens(path: Path, table: pa.Table) -> FileDigest:
    """Write tokens.parquet: the text, perhaps `TOKEN_BYTES`, of each token id 0, 1, 2, ... (ValueError otherwise)."""
    schema = TOKEN_SCHEMA.append(TOKEN_BYTES) if TOKEN_BYTES.name in table.column_names else TOKEN_SCHEMA
    return write_table(path, _numbered(table, "token_id"), schema)


def _numbered(table: pa.Table, name: str) -> pa.Table:
    if name in table.column_names and table.column(name).to_pylist() != list(range(len(table))):
        raise ValueError(f"{name}: expected 0, 1, 2, ... in order")
    return table


STORE_LENSES = ("latent",)
"""Lenses whose ids are rows of the store, unless the plan has ``store_lenses``."""


class LensResults:
    """The results of an analyze run; `open` them.

    Attributes:
        path: the run folder.
        run: the same folder as a run.
        lenses: names, in the order of the configuration, without those passed to `leave_out`.
        run_lenses: all lenses of the run.
        store_lenses: lenses whose ids are rows of the store; the ids of the others are tokens.
        layers: visual layers.
        top_k: number of candidates per line.
        model: name of the vision-language model.
        store_path: path of the store that lenses searched, or None; to be changed if the store was moved.

    """

    def __init__(self, run: RunFolder, receipts: dict[int, Receipt]) -> None:
        self.run, self._receipts = run, receipts
        self.path = run.path
        self.run_lenses: tuple[str, ...] = tuple(self._setting("lenses", list_of(TEXT)))
        self.lenses = self.run_lenses
        self.store_lenses = self._lenses_of_plan("store_lenses", STORE_LENSES)
        self._distribution_lenses = self._lenses_of_plan("distribution_lenses", ())
        self._description_lenses = self._lenses_of_plan("description_lenses", ())
        self._explained_lenses = self._lenses_of_plan("explained_lenses", ())
        self.layers: tuple[int, ...] = tuple(self._setting("layers", list_of(COUNT)))
        self.top_k: int = self._setting("top_k", SIZE)
        self.model: str = self._setting("model", TEXT)
        entry = run.inputs.get("store")
        self.store_path = Path(entry["path"]) if entry else None

    @property
    def depth(self) -> int | None:
        """Number of blocks of the language model, whose layer `depth` is the output of the last; None if unknown."""
        return self._setting("depth", COUNT) if "depth" in self.run.require_plan().facts else None

    @property
    def prompt(self) -> str:
        """The text with which the images ran. InputError for results that name none, as those of lens convert."""
        prompt = self.run.config.get("prompt")
        if not isinstance(prompt, str):
            raise InputError(
                f"{self.path}: names no prompt with which its images could run again, as results of lens convert; "
                "expected a run of lens analyze"
            )
        return prompt

    @property
    def mean_layers(self) -> tuple[int, ...]:
        """The layers that enter means over layers: all but the output of the last block, unless there is no other."""
        return tuple(layer for layer in self.layers if layer != self.depth) or self.layers

    def _lenses_of_plan(self, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self._setting(name, list_of(TEXT))) if name in self.run.require_plan().facts else default

    def _setting(self, name: str, kind: Kind) -> Any:
        facts = self.run.require_plan().facts
        if name in facts:
            check_fields(self.path / "plan.json", facts, {name: kind}, PLAN_REMEDY, "facts")
            return facts[name]
        if name not in self.run.config:
            raise InputError(f"{self.path}: neither plan.json nor run.json has the field {name!r}")
        check_fields(self.path / "run.json", self.run.config, {name: kind}, within="config")
        return self.run.config[name]

    @classmethod
    def open(cls, path: Path | str, allow_incomplete: bool = False) -> LensResults:
        """Open results: check plan, receipts and the sizes of all files; digests when a file is read.

        Args:
            path: the run folder.
            allow_incomplete: also open a run that is not complete; it then has the shards that are done.

        Raises:
            InputError: not a run of the stage analyze.
            IncompleteError: shards are missing.
            CorruptError: a file is missing or damaged.

        """
        run = RunFolder.open(path, STAGE)
        return cls(run, run.check_sizes(allow_incomplete))

    def images(self) -> pa.Table:
        """The images, as in `IMAGE_SCHEMA`."""
        return self._plan_table("images.parquet", IMAGE_SCHEMA)

    def token_words(self) -> list[str]:
        """Text of each token, by token id: one list, not to be changed, of runs that are read one after the other."""
        global _latest_tokens
        name = "tokens.parquet"
        data, (known, words) = self.run.read_plan_file(name), _latest_tokens
        if data != known:
            table = parse_table(self.path / name, data, TOKEN_SCHEMA)
            if not np.array_equal(table.column("token_id").to_numpy(), np.arange(len(table))):
                raise CorruptError(self.path / name, "other token ids", "0, 1, 2, ...", PLAN_REMEDY)
            words = table.column("token").to_pylist()
            _latest_tokens = data, words
        return words

    def token_bytes(self) -> list[bytes | None]:
        """The bytes of tokens that hold a part of a character, by token id; None for others and in older runs."""
        if not self.run.require_plan().facts.get("token_bytes"):
            return [None] * len(self.token_words())
        return self._plan_table("tokens.parquet", pa.schema([TOKEN_BYTES])).column(0).to_pylist()

    def _plan_table(self, name: str, schema: pa.Schema) -> pa.Table:
        return parse_table(self.path / name, self.run.read_plan_file(name), schema)

    def _parts(
        self, folder: str, schema: pa.Schema, image_ids: Iterable[int] | None, columns: list[str] | None = None
    ) -> Iterable[pa.Table]:
        """The parts with the given images (None: all), filtered to these images; with image_id among the columns."""
        asked = None if image_ids is None else np.unique(np.fromiter(image_ids, np.int64))
        plan = self.run.require_plan()
        for index, receipt in sorted(self._receipts.items()):
            shard = plan.shard(index)
            if asked is not None and not ((asked >= shard.first) & (asked < shard.stop)).any():
                continue
            name = part_name(folder, index)
            remedy = receipt_remedy(index)
            if name not in receipt.files:
                raise CorruptError(self.run.receipt_path(index), "no digest", f"one of {name}", remedy)
            data = read_checked(self.path / name, receipt.files[name], remedy)
            table = parse_table(self.path / name, data, schema, columns)
            ids = table.column("image_id").to_numpy()
            if len(ids) and not (shard.first <= ids.min() and ids.max() < shard.stop):
                found = f"images {ids.min()} to {ids.max()}"
                raise CorruptError(self.path / name, found, f"{shard.first} to {shard.stop - 1}", remedy)
            is_asked = np.ones(len(ids), bool) if asked is None else np.isin(ids, asked)
            yield table if is_asked.all() else table.filter(pa.array(is_asked))

    def geometry(self, image_ids: Iterable[int] | None = None) -> pa.Table:
        """The patches of all or some images, as in `GEOMETRY_SCHEMA`, in image order."""
        return pa.concat_tables([GEOMETRY_SCHEMA.empty_table(), *self._parts("geometry", GEOMETRY_SCHEMA, image_ids)])

    def results(
        self,
        lens: str | None = None,
        layer: int | None = None,
        image_ids: Iterable[int] | None = None,
        columns: Sequence[str] | None = None,
        folder: Literal["results", "text_results"] = "results",
        patches: Collection[tuple[int, int, int, int]] | None = None,
    ) -> pa.Table:
        """The results as in `result_schema`, in their order: all, or of one lens, one layer, some images, some columns.

        Of patches, or from the folder ``text_results`` of the tokens of prompt and answer. `patches` (image_id, view,
        row, col) are those of which results are returned; at no time are other results of more than a shard in memory.

        Raises:
            InputError: the run has no such lens or layer.
            CorruptError: a part is missing or changed.

        """
        for what, asked, known in (("lens", lens, self.lenses), ("layer", layer, self.layers)):
            if asked is not None and asked not in known:
                raise InputError(f"{self.path}: no {what} {asked!r}; it has {', '.join(map(str, known))}")
        schema = result_schema(self.top_k)
        wanted = list(schema.names if columns is None else columns)
        key = ["image_id"]
        if patches is not None:
            key = [name for name, _ in PATCH_KEY]
            image_ids = {image_id for image_id, *_ in patches}
            numbers = _patch_numbers(*np.array(sorted(patches), np.int64).reshape(-1, len(key)).T)
        read = [name for name in schema.names if name in {*wanted, *key, "layer", "lens"}]
        tables = [schema.empty_table().select(wanted)]
        for table in self._parts(folder, schema, image_ids, read):
            if self.lenses != self.run_lenses:
                table = table.filter(pc.is_in(table.column("lens"), pa.array(self.lenses, pa.string())))
            if lens is not None:
                table = table.filter(pc.equal(table.column("lens"), lens))
            if layer is not None:
                table = table.filter(pc.equal(table.column("layer"), layer))
            if patches is not None:
                found = _patch_numbers(*(table.column(name).to_numpy() for name in key))
                table = table.filter(pa.array(np.isin(found, numbers)))
            tables.append(table.select(wanted))
        return pa.concat_tables(tables)

    def has(self, measure: str) -> bool:
        """Whether every shard has the part of a measure (see `token_measures`), which older runs lack."""
        return all(part_name(measure, index) in receipt.files for index, receipt in self._receipts.items())

    def norms(self, image_ids: Iterable[int] | None = None) -> pa.Table:
        """Norms of the hidden states of all or some images, as in `measure_schema`; InputError if the run has none."""
        hint = "norms of the hidden states, by which norm outliers are found; leave out that filter, or"
        return self._measures("norms", image_ids, hint)

    def cosines(self, image_ids: Iterable[int] | None = None) -> pa.Table:
        """Cosines of the hidden states of all or some images, as in `measure_schema`; errors as `norms`."""
        return self._measures("cosines", image_ids, "cosines between layers; to have them,")

    def dimensions(self, image_ids: Iterable[int] | None = None) -> pa.Table:
        """What the largest dimensions make of LatentLens' cosines, as in `measure_schema`; errors as `norms`."""
        return self._measures(DIMENSIONS, image_ids, "shares of dimensions; with --rogue-dimensions")

    @property
    def distribution_lenses(self) -> tuple[str, ...]:
        """The lenses that read distributions of the next token, if the run keeps their numbers."""
        kept = self._distribution_lenses if self.has(DISTRIBUTIONS) else ()
        return tuple(lens for lens in kept if lens in self.lenses)

    @property
    def description_lenses(self) -> tuple[str, ...]:
        """The lenses that describe states in words of their own, if the run keeps these."""
        kept = self._description_lenses if self.has(DESCRIPTIONS) else ()
        return tuple(lens for lens in kept if lens in self.lenses)

    def descriptions(
        self,
        lens: str,
        image_ids: Iterable[int] | None = None,
        folder: Literal["descriptions", "text_descriptions"] = "descriptions",
    ) -> dict[tuple[int, int, int, int], list[str]]:
        """The texts, by layer, with which one of `description_lenses` describes each (image, view, row, column)."""
        schema = description_schema(len(self.layers))
        parts = [table.filter(pc.equal(table["lens"], lens)) for table in self._parts(folder, schema, image_ids)]
        table = pa.concat_tables([schema.empty_table(), *parts])
        places = zip(*(table[name].to_pylist() for name, _ in PATCH_KEY), strict=True)
        return dict(zip(places, table["texts"].to_pylist(), strict=True))

    @property
    def explained_lenses(self) -> tuple[str, ...]:
        """The lenses whose explained variance the run keeps."""
        return tuple(lens for lens in self._explained_lenses if lens in self.lenses)

    def explained(self, lens: str, image_ids: Iterable[int] | None = None) -> pa.Table:
        """Shares of variance that a lens explains, as in `explained_schema`. InputError if there are none."""
        if lens not in self.explained_lenses:
            raise InputError(
                f"{self.path}: its analysis kept no explained variance of the lens {lens!r}; analyse again into a new "
                "folder with --explained"
            )
        return self._of_lens(EXPLAINED, explained_schema(len(self.layers)), lens, image_ids)

    @property
    def has_texts(self) -> bool:
        """Whether the run describes tokens of text."""
        return self.has(TEXTS)

    def texts(self, image_ids: Iterable[int] | None = None) -> pa.Table:
        """The tokens of prompt and answer, as in `TEXT_SCHEMA`; none of a run that describes image tokens alone."""
        parts = self._parts(TEXTS, TEXT_SCHEMA, image_ids) if self.has_texts else ()
        return pa.concat_tables([TEXT_SCHEMA.empty_table(), *parts])

    def distributions(
        self,
        lens: str,
        image_ids: Iterable[int] | None = None,
        folder: Literal["distributions", "text_distributions"] = "distributions",
    ) -> pa.Table:
        """Numbers of the distributions that a lens reads, as in `distribution_schema`. InputError if there are none.

        At patches, or from the folder ``text_distributions`` at the tokens of prompt and answer.
        """
        if lens not in self.distribution_lenses:
            raise InputError(
                f"{self.path}: its analysis kept no probabilities of the lens {lens!r}; analyse again into a new "
                "folder with a lens that reads them, such as logit, and a version that keeps them"
            )
        return self._of_lens(folder, distribution_schema(len(self.layers)), lens, image_ids)

    def _of_lens(self, folder: str, schema: pa.Schema, lens: str, image_ids: Iterable[int] | None) -> pa.Table:
        table = pa.concat_tables([schema.empty_table(), *self._parts(folder, schema, image_ids)])
        return table.filter(pc.equal(table.column("lens"), lens))

    def _measures(self, measure: str, image_ids: Iterable[int] | None, hint: str) -> pa.Table:
        if not self.has(measure):
            raise InputError(
                f"{self.path}: its analysis kept no {hint} analyse again into a new folder with a version that keeps "
                "them"
            )
        schema = measure_schema(measure, len(self.layers))
        return pa.concat_tables([schema.empty_table(), *self._parts(measure, schema, image_ids)])

    def leave_out(self, *lenses: str) -> None:
        """Exclude lenses from `lenses` and `results`, as if the run had been made without them."""
        self.lenses = tuple(name for name in self.lenses if name not in lenses)

    @property
    def needs_store(self) -> bool:
        """Whether the ids of a lens are rows of the store."""
        return not set(self.store_lenses).isdisjoint(self.lenses)

    @cached_property
    def _store(self) -> EmbeddingStore | None:
        if self.store_path is None:
            return None
        try:
            searched = self.run.require_plan().facts.get("contextual_layers")  # of a download there may be no others
            store = EmbeddingStore.open(self.store_path, layers=searched or None)
        except (CorruptError, IncompleteError, MachineError):
            raise
        except InputError as error:
            raise InputError(
                f"{self.path} needs the store at {self.store_path} for the words of LatentLens ({error}); was it "
                "moved? Put it or a link to it there, or name its new folder to lens report too"
            ) from None
        expected = self.run.inputs["store"].get("run_id")
        if expected is not None and store.run.run_id != expected:
            raise InputError(
                f"{store.path}: found the store of run {store.run.run_id}, expected {expected}, "
                f"with which {self.path} was made; put that store back or repeat the analysis"
            )
        return store

    def store(self) -> EmbeddingStore | None:
        """The store that lenses searched, or None. InputError if it is missing or was replaced by another one."""
        return self._store


def _patch_numbers(image_id: np.ndarray, view: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """One number for each patch, int64: 31 bits for the image, 8 for the view, 12 each for row and col."""
    wide = image_id.astype(np.int64) << 32
    return wide | view.astype(np.int64) << 24 | row.astype(np.int64) << 12 | col.astype(np.int64)
