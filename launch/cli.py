"""`lens VERB ...`: one entry for all commands; `lens extract` and `python launch/extract.py` are the same."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata

from launch.exit_codes import exit_code
from launch.terminal import print_err
from storage_layouts.errors import nearest
from storage_layouts.run_identity import source_commit

VERBS = {
    "demo": "the whole pipeline on a world whose truth is known; no GPU",
    "show": "one image: a figure for a paper, and a page to explore",
    "read": "a text through a language model: every lens at every token and layer",
    "find": "words of your choice: where they are in images, by every lens at every layer",
    "unseen": "nouns of answers that no patch says: hallucinations, and how well they are found",
    "sharpen": "words found at patches, in new sentences that are searched again, beside controls",
    "describe": "patches of an image in the words of a natural language autoencoder",
    "extract": "a corpus through an LLM: the contextual embeddings, in a store",
    "analyze": "images through a VLM: every lens, every layer, every visual token",
    "judge": "which words fit their patch",
    "intervene": "what the model does if the states of visual tokens are what a lens says",
    "annotate": "a page on which people answer the questions of a judge",
    "agreement": "agreement between a judge and human annotators",
    "train": "a connector between a frozen language model and a frozen vision encoder",
    "tune": "a Tuned Lens for a language model: translators of its layers, trained on text",
    "pipeline": "all of these for a list of models and corpora, from one file",
    "report": "tables, figures and the viewer",
    "export": "the results of the lenses as one table, for other programs",
    "models": "the supported model families, and the checks that they have passed",
    "status": "the progress of runs",
    "verify": "check every byte of a run or store",
    "merge": "stores of one model as one, with the rows of one extract over all corpora",
    "convert": "between files of the latentlens library and those of lenscore",
}
LIGHT = ("annotate", "status", "verify")
"""Verbs that load no large library."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in VERBS:
        gc.set_threshold(50_000)  # what imports make stays; to go through it every 700 objects takes 15 % of their time
        _print_start(*arguments)
        return exit_code(lambda: importlib.import_module(f"launch.{arguments[0]}").main(arguments[1:]))
    asked = arguments[0] if arguments else ""
    if asked in ("-V", "--version", "version"):
        commit = source_commit()
        print(f"lenscore {metadata.version('lenscore')}" + (f" (commit {commit})" if commit else ""))
        return 0
    if asked == "help" and arguments[1:2] and arguments[1] in VERBS:
        return main([arguments[1], "--help"])
    if asked in ("-h", "--help", "help"):
        print(_USAGE)
        return 0
    if asked:
        known = nearest(asked, VERBS) or f"; expected one of {', '.join(VERBS)}"
        print_err(f"error: no verb {asked!r}{known}", style="red")
    else:
        print_err(_USAGE)
    return 2


def _print_start(verb: str, *flags: str) -> None:
    """Print a first line before PyTorch and other libraries are loaded, which takes seconds."""
    if verb in LIGHT or f"launch.{verb}" in sys.modules or {"-h", "--help", "--print-config"} & set(flags):
        return
    print_err(f"{verb}: starting")


_USAGE = "\n".join(
    [
        "usage: lens VERB [flags]      lens VERB --help shows its flags      lens --version",
        "",
        *(f"  {verb:9} {meaning}" for verb, meaning in VERBS.items()),
        "",
        "Settings can stand in a file: lens VERB --print-config > my.yaml, then lens VERB --config my.yaml.",
        "Exit codes: 0 complete, 1 incomplete or failed, 2 wrong usage or refused input, 130 stopped by Ctrl-C,",
        "143 by SIGTERM.",
        "Environment variables:",
        "  OPENAI_API_KEY, OPENAI_BASE_URL   key and, if it is not OpenAI's, address for --judge openai:MODEL",
        "  JUDGE_API_KEY                     key for --judge URL#MODEL, if the server asks for one",
        "  RAY_ADDRESS                       the Ray cluster for --cluster ray",
        "  LENSCORE_CACHE                    records of self-tests and completed runs; ~/.cache/lenscore",
        "  HF_HOME, HF_TOKEN, HF_HUB_OFFLINE=1, HF_ENDPOINT   the Hugging Face Hub, as huggingface_hub reads them",
    ]
)


if __name__ == "__main__":
    sys.exit(main())
