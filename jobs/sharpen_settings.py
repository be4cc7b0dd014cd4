"""The settings of a sharpen run, as in its flags and in run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from jobs.base import begun_run, recorded_settings, require_cover, require_positive, require_seed
from lenscore.contexts.corpus import require_corpora
from lenscore.contexts.named_corpora import absolute_corpus, read_paths
from lenscore.models.source import hub_repository
from lenscore.sharpening.search_names import CONTROLS, OF_CORPUS, SOURCES
from storage_layouts.errors import InputError
from storage_layouts.runs import RunFolder


@dataclass(frozen=True)
class SharpenSettings:
    """Put words that LatentLens found at patches into new sentences, and search these too, for some rounds.

    Beside controls: as many sentences with words of other patches, with random words, and of a corpus at random. With
    --truth it measures whether the words become right more often, and the sentences more specific.
    """

    results: Path
    """An analyze run with LatentLens, whose model, images, prompt and layers are used."""
    out: Path
    """The run folder to write, with rounds.csv, differences.csv, patches.csv, sentences.csv, summary.txt, and for each
    source found-SOURCE.jsonl, a corpus of its sentences for lens extract."""
    store: Path | None = None
    """The store to begin with, its folder or hf:REPO; by default that of the run."""
    corpus: tuple[str, ...] = ()
    """Files, folders or names, as for lens extract: for the source corpus, random-sentences and random-rows."""
    column: str | None = None
    """Text column of tables of the corpus; by default text, sentence, caption or phrase."""
    sources: str = ""
    """Where new sentences come from: some of templates, corpus, generated (the model goes on from a template), joined
    by commas; by default all, without corpus where none is given."""
    controls: str = ""
    """What is compared: some of other-patch, random-words, random-sentences, random-rows, joined by commas, or none; by
    default all, without the two of a corpus where none is given."""
    rounds: int = 3
    """How often new sentences are added and searched."""
    sentences: int = 4
    """New sentences for each patch and round, at most; equal ones count once."""
    patches: int = 300
    """Patches at most: those that lens judge would judge with as many and this seed."""
    truth: str = ""
    """What the patches show: a file as --judge truth:FILE takes it, or shapes, for images of the shapes world. Then
    only patches of known objects are taken."""
    cover: float = 0.5
    """The part of a patch (above 0, at most 1) that an object of a truth file has to cover."""
    templates: Path | None = None
    """A file with a template in each line, such as "a {0} {1}": {1} is a found word, {0} another one of its patch."""
    max_new_tokens: int = 12
    """Tokens that the model adds to a template at most."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    seed: int = 0
    """Of the sample of patches, and of everything that is chosen at random."""

    stage: ClassVar[str] = "sharpen"
    needs_device: ClassVar[bool] = True
    plans_on: ClassVar[Literal["planned", "complete"]] = "complete"
    shard_size: ClassVar[str] = "patches"

    def __post_init__(self) -> None:
        """Raises InputError for invalid values."""
        require_positive(self, "rounds", "sentences", "patches", "max_new_tokens")
        require_seed(self.seed)
        require_cover(self.cover)
        _ = self.asked

    @property
    def asked(self) -> tuple[list[str], list[str]]:
        """Sources and controls. Raises InputError for unknown ones, and for those that need a corpus without one."""
        controls = [] if self.controls == "none" else self._some("controls", CONTROLS)
        return self._some("sources", SOURCES), controls

    @property
    def needs_corpus(self) -> bool:
        """Whether sentences of a corpus are asked for."""
        sources, controls = self.asked
        return not OF_CORPUS.isdisjoint([*sources, *controls])

    def _some(self, flag: str, known: Sequence[str]) -> list[str]:
        names = [name for name in getattr(self, flag).replace(" ", "").split(",") if name]
        for name in names:
            if name not in known:
                raise InputError(f"--{flag}: no {name!r}; expected some of {', '.join(known)}")
            if name in OF_CORPUS and not self.corpus:
                raise InputError(f"--{flag} {name}: expected --corpus with it")
        usual = [name for name in known if self.corpus or name not in OF_CORPUS]
        return [name for name in known if name in names] if names else usual

    @property
    def searches_store(self) -> bool:
        """See `jobs.base.SearchingSettings`."""
        return True

    def with_local_store(self) -> SharpenSettings:
        """These settings with the folder of a store that is named hf:REPO; a run that has begun stays at its commit."""
        if self.store is None or hub_repository(self.store) is None:
            return self
        from lenscore.index.hub import store_folder

        run = begun_run(self.out, self.stage)
        return replace(self, store=store_folder(self.store, None, run and run.config.get("store")))

    def recorded(self) -> dict[str, Any]:
        """The configuration, as in run.json."""
        sources, controls = map(",".join, self.asked)
        corpus = tuple(map(absolute_corpus, self.corpus))
        return recorded_settings(self, {}, corpus=corpus, sources=sources, controls=controls or "none")

    def input_paths(self) -> Sequence[Path] | None:
        """The corpus, the files of templates and truth, and the identity of the results and the store."""
        runs = [self.results, *([self.store] if self.store else [])]
        files = [self.templates] if self.templates else []
        truth = [] if self.truth in ("", "shapes") else [Path(self.truth)]
        return [
            *(run / name for run in runs for name in ("run.json", "plan.json")),
            *read_paths(self.corpus),
            *files,
            *truth,
        ]

    def require_files(self) -> None:
        """Raises InputError if the results, the corpus, the truth or the templates are not there."""
        RunFolder.open(self.results, "analyze")
        if self.corpus:
            require_corpora(self.corpus)
        if self.templates is not None and not self.templates.is_file():
            raise InputError(f"--templates {self.templates}: no such file; expected a template in each line")
        if self.truth not in ("", "shapes") and not Path(self.truth).is_file():
            raise InputError(f"--truth {self.truth}: no such file; expected a truth file, or shapes")
