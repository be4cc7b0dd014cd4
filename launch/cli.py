"""`lens VERB ...`: one entry for all commands; `lens extract` and `python launch/extract.py` are the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

VERBS = {
    "demo": "the whole pipeline on the embedded shapes world; no network, no GPU",
    "show": "one image: a figure for a paper, and a page to explore",
    "extract": "a corpus through an LLM: the contextual embeddings, in a store",
    "analyze": "images through a VLM: every lens, every layer, every visual token",
    "judge": "which words fit their patch",
    "annotate": "a page on which people answer what a judge is asked",
    "agreement": "does a judge say what people say",
    "train": "a connector between a frozen language model and a frozen vision encoder",
    "pipeline": "all of these for a list of models and corpora, from one file",
    "report": "tables, figures and the viewer",
    "models": "the supported model families, and what was verified of them",
    "status": "how far a run is",
    "verify": "check every byte of a run or store",
    "convert": "files of the latentlens library into ours, and ours into theirs",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb named first and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in VERBS:
        return importlib.import_module(f"launch.{arguments[0]}").main(arguments[1:])
    asked_for_help = bool(arguments) and arguments[0] in ("-h", "--help", "help")
    stream = sys.stdout if asked_for_help else sys.stderr
    if arguments and not asked_for_help:
        print(f"error: no verb {arguments[0]!r}\n", file=stream)
    print("usage: lens VERB [flags]      lens VERB --help shows its flags\n", file=stream)
    for verb, meaning in VERBS.items():
        print(f"  {verb:9} {meaning}", file=stream)
    return 0 if asked_for_help else 2


if __name__ == "__main__":
    sys.exit(main())
