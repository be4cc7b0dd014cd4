"""`lens read --model LLM --text "..."`: the lenses on every token of a text, as a table and as a page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.base import require_positive
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.model_flags import ModelFlags
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from lenscore.analysis.lens_folders import require_lens_folders
from lenscore.models.source import require_source
from lenscore.single_text.tokens import texts_of_messages
from storage_layouts.errors import InputError
from storage_layouts.files import require_place

_LONGEST_NAME = 255
"""Bytes of a file name, on Linux."""


@dataclass(frozen=True)
class ReadCommand:
    """Run a text through a language model and its lenses: what stands at every token, at every layer.

    Prints a table for each lens, and writes a page (HTML) with all candidates, and a table (CSV).
    """

    model: str
    """Folder or Hub name of a causal language model, or of a vision-language model, whose LLM reads the text."""
    text: str | None = None
    """The text."""
    file: Path | None = None
    """In place of --text: a text file (UTF-8), or a .json file with the messages of a chat."""
    store: Path | None = None
    """Contextual embeddings of the model's own LLM, made by extract, or hf:REPO, those on the Hub; without
    them the latent lens is left out."""
    tuned: Path | None = None
    """A Tuned Lens for the model's own LLM, made by tune, or a folder of the tuned-lens package."""
    patchscope_prompt: str | None = None
    """The prompt of patchscopes: identity (the default), description, or a text whose last token, or the one in braces,
    is replaced by each state, as in "cat->cat; hello->hello; {x}->"."""
    patchscope_tokens: int = 0
    """Also let patchscopes continue the prompt by at most so many tokens, each the likeliest, as a description."""
    out: Path = Path()
    """Folder for NAME-lens.html and NAME-lens.csv (NAME of the file, or text); earlier ones are replaced, and named."""
    layers: str = "all,final"
    """Layers: paper, all, numbers as in 2,8,27, and final, the output of the last block, whose number is that of the
    blocks; joined by commas."""
    lenses: str | None = None
    """Which lenses, in the order to show; by default latent (with a store), logit, embedding, tuned (with
    --tuned), patchscopes (with --patchscope-prompt)."""
    contextual_layers: str = "all"
    """Layers of the store to search: all of it, or numbers as in 1,2,-1."""
    top_k: int = 5
    """Candidates that each lens keeps."""
    max_new_tokens: int = 0
    """First let the model continue by at most so many tokens, each the likeliest, and read these too."""
    loading: ModelFlags = field(default_factory=ModelFlags)

    def __post_init__(self) -> None:
        """Raises InputError unless there is one text, and for numbers that are too small."""
        require_positive(self, "top_k")
        if (self.text is None) == (self.file is None):
            raise InputError("lens read: expected --text TEXT or --file FILE, and not both")
        if self.text is not None and not self.text.strip():
            raise InputError("--text: an empty text; expected words to read")
        if self.max_new_tokens < 0:
            raise InputError(f"--max-new-tokens: found {self.max_new_tokens}, expected 0 or more")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: read(parse(ReadCommand, argv, "lens read")))


def read(command: ReadCommand) -> int:
    """Analyse the text, print a table for each lens, write page and table."""
    require_place(command.out)
    name = "text" if command.file is None else command.file.stem
    text = command.text or "" if command.file is None else _text_of(command.file)
    require_lens_folders(command.store, command.tuned)
    require_source(command.model, command.loading.revision or None)
    page, table = (command.out / f"{name}-lens.{ending}" for ending in ("html", "csv"))
    if len(os.fsencode(page.name)) > _LONGEST_NAME:
        raise InputError(
            f"--file {command.file}: {page.name} is longer than the {_LONGEST_NAME} bytes of a file name; rename the "
            "file"
        )
    with StageProgress(Terminal(stderr=True), "read") as progress:
        progress.say("loading PyTorch")
        from transformers.utils.logging import disable_progress_bar

        from lenscore.single_text.text_analysis import analyze_text
        from lenscore.single_text.tokens_table import tokens_table

        disable_progress_bar()  # replaced by that of StageProgress
        analyzed = analyze_text(
            text,
            command.model,
            command.store,
            layers=command.layers,
            lenses=command.lenses,
            top_k=command.top_k,
            contextual_layers=command.contextual_layers,
            max_new_tokens=command.max_new_tokens,
            tuned=command.tuned,
            patchscope_prompt=command.patchscope_prompt,
            patchscope_tokens=command.patchscope_tokens,
            name=name,
            progress=progress.say,
            **command.loading.options(),
        )
        replaced = sorted(path.name for path in (page, table) if path.exists())
        progress.say("writing the page")
        analyzed.save_html(page)
        analyzed.save_csv(table)
    console = to_file_or_terminal(160)
    for lens in analyzed.reading.lenses:
        console.print(tokens_table(analyzed.reading, lens, console.width, console.is_terminal))
    print_out(f"page: {shown(page)}")
    print_out(f"table: {shown(table)}")
    if replaced:
        print_out(f"replaced, of an earlier text of this name: {', '.join(replaced)}; --out FOLDER keeps both")
    return 0


def _text_of(file: Path) -> str | list[dict[str, Any]]:
    """The text, or the messages of a chat. Raises InputError for a file that cannot be read as one of them."""
    try:
        # Without the mark that some editors write first, and with the line ends of the file.
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"--file {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--file {file}: byte {error.start} is not UTF-8; expected a text file") from None
    if file.suffix.lower() != ".json":
        if not text.strip():
            raise InputError(f"--file {file}: an empty text; expected words to read")
        return text
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--file {file}: not JSON ({error}); expected the messages of a chat") from None
    if not isinstance(messages, list):
        raise InputError(f'--file {file}: expected a list of messages as in [{{"role": "user", "content": "..."}}]')
    texts_of_messages(messages, f"--file {file}")
    return messages


if __name__ == "__main__":
    sys.exit(main())
