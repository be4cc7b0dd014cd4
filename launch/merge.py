"""`lens merge STORE STORE... --out STORE`: stores of one model as one store, with the rows of one extract.

It is `lens extract --add STORE STORE... --out STORE`, which loads no model, as there is nothing to compute.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.extract_settings import ExtractSettings
from launch.exit_codes import exit_code
from launch.flags import flags_of, parse
from launch.settings_of_stores import with_first_store
from launch.stages import Launch, command_of, job_of, run_stage
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class MergeCommand:
    """Join stores of one model and equal settings: a new store of the rows that one extract keeps of all corpora.

    The stores are not changed, and the embeddings are copied from them.
    """

    stores: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Two stores or more, on the Hub as hf:REPO. Where two hold the same context, the sentence is that of the first."""
    out: Path
    """The store to write, usually NAME.zarr."""
    model: str = ""
    """Where the model is, whose tokenizer is needed; by default where it was when the first store was made."""
    rows_per_shard: int | None = None
    """Rows per shard, the unit of work; by default as in the first store."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    launch: Launch = field(default_factory=Launch)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def run() -> int:
        command = parse(MergeCommand, argv, "lens merge")
        if len(command.stores) < 2:
            raise InputError("lens merge: expected two stores or more; lens merge --help shows what to give")
        settings = {
            "add": list(map(str, command.stores)),
            "out": str(command.out),
            "model": command.model or None,
            "rows_per_shard": command.rows_per_shard,
            "trust_remote_code": command.trust_remote_code,
        }
        words = flags_of(settings, ExtractSettings, "lens merge")
        extract = parse(ExtractSettings, words, "lens merge", with_first_store)
        job = job_of(command_of(ExtractSettings)(extract, command.launch))
        return run_stage(job, command.launch, title="merge")

    return exit_code(run, goes_on=True)


if __name__ == "__main__":
    sys.exit(main())
