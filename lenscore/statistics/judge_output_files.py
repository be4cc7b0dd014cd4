"""Rates in the files of the latentlens authors' judges, recounted from the replies where the files have these.

evaluation_results.json   [{layer, method, patches: [{judgment, interpretable, ...}], interpretable_count,
total_count, interpretable_fraction}]
results_validation.json   {llm, vision_encoder, api_model, input_json, results: [{gpt_response, interpretable, ...}]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage_layouts.errors import InputError, first_line
from storage_layouts.latentlens_results import EMBEDDING, LATENT, LOGIT, TUNED, text_of, whole_number

EVALUATION = "evaluation_results.json"
NAMES = (EVALUATION, "results_validation.json", "results_train.json")
_LENSES = ((r"contextual|latent", LATENT), (r"logit", LOGIT), (r"embedding|nearest|(\b|_)nn(\b|_)", EMBEDDING))
_NOT_PARSED = "Could not parse response"
"""The mark of unreadable replies in the published evaluation; their lists are empty."""
WORD_LISTS = ("concrete_words", "abstract_words", "global_words")


@dataclass(frozen=True)
class JudgeOutput:
    """One rate of a file.

    Attributes:
        model: from the file, or the name of its folder.
        judge: the judge's model, "" if unknown.
        lens: the name of a lens, or the name in the file.
        layer: the visual layer, None if unknown.
        yes: number of interpretable patches.
        n: number of patches with a yes or no.
        unparsable: number of unreadable replies; the file itself counts them as no.
        file: the source.

    """

    model: str
    judge: str
    lens: str
    layer: int | None
    yes: int
    n: int
    unparsable: int
    file: Path


def judge_output_files(path: Path) -> list[Path]:
    """The judge outputs in a folder tree, or the file itself; files of single layers only if no file gathers them."""
    if path.is_file():
        return [path] if path.name in NAMES else []
    found = sorted(file for name in NAMES for file in path.rglob(name))
    gathered = {file.parent for file in found if file.name == EVALUATION}
    return [file for file in found if not (file.parent.name.startswith("layer_") and file.parent.parent in gathered)]


def is_judge_output(path: Path) -> bool:
    """Whether a path is a judge output or a folder of judge outputs, and not a run."""
    return not (path / "run.json").exists() and bool(judge_output_files(path))


def read_judge_outputs(paths: Sequence[Path]) -> tuple[JudgeOutput, ...]:
    """All rates of judge outputs. Raises InputError, with file and field, if the content is wrong."""
    return tuple(output for path in paths for file in judge_output_files(path) for output in _read(file))


def _read(file: Path) -> list[JudgeOutput]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: no JSON file that can be read ({first_line(error)})") from None
    if file.name == EVALUATION:
        if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
            raise InputError(f"{file}: expected [{{layer, interpretable_fraction, ...}}, ...], an entry for each layer")
        return [_of_layer(entry, file) for entry in content]
    return [_of_lens_and_layer(content, file)]


def _of_lens_and_layer(content: Any, file: Path) -> JudgeOutput:
    """The rate in an output of the paper's three judges; those of vocabulary lenses store replies by image."""
    where = str(file)
    by_image = content.get("responses") if isinstance(content, dict) else None
    if isinstance(by_image, dict) and all(isinstance(of_image, list) for of_image in by_image.values()):
        replies = [reply for of_image in by_image.values() for reply in of_image]
    elif isinstance(content, dict) and isinstance(content.get("results"), list):
        replies = content["results"]
    else:
        raise InputError(f"{file}: expected replies: results, a list, or responses, a list for each image")
    source = text_of(content, "input_json", where)
    said = content.get("layer")
    layer = (
        re.search(r"(?:visual|layer)_?(\d+)", Path(source).name)
        or re.fullmatch(r"(?:layer)?(\d+)", str(said))
        or re.search(r"_(?:contextual|layer)_?(\d+)", file.parent.name)
    )
    parts = [text_of(content, name, where) for name in ("llm", "vision_encoder")]
    model = " + ".join(filter(None, parts)) or text_of(content, "model", where) or file.parent.name
    lens = _lens(Path(source).name, source, file.parent.name, file.resolve().parent.parent.name)
    counts = _counted(replies, "gpt_response", f"{file}: replies")
    return JudgeOutput(
        model, text_of(content, "api_model", where), lens, int(layer[1]) if layer else None, *counts, file
    )


def _of_layer(entry: dict[str, Any], file: Path) -> JudgeOutput:
    where = f"{file}: layer {entry.get('layer')!r:.20}"
    layer = whole_number(entry, "layer", where)
    replies = entry.get("patches", entry.get("results"))
    if replies:
        if not isinstance(replies, list):
            raise InputError(f"{where}: patches: found {replies!r:.40}, expected a list of replies")
        counts = _counted(replies, "judgment", where)
    else:
        counts = _stated(entry, where)
    folder = file.parent.parent if file.parent.name.startswith("layer_") else file.parent
    lens = _lens(text_of(entry, "method", where), folder.resolve().name, folder.resolve().parent.name)
    return JudgeOutput(folder.resolve().name, "", lens, layer, *counts, file)


def _counted(replies: list[Any], name: str, where: str) -> tuple[int, int, int]:
    """The numbers of yes, of yes and no together, and of unparsable replies."""
    outcomes = []
    for number, reply in enumerate(replies):
        if not isinstance(reply, dict):
            raise InputError(f"{where}[{number}]: found {reply!r:.40}, expected an object with {name}")
        outcomes.append(outcome_of(reply.get(name, reply)))
    yes, no = outcomes.count("yes"), outcomes.count("no")
    return yes, yes + no, len(outcomes) - yes - no


def _stated(entry: dict[str, Any], where: str) -> tuple[int, int, int]:
    """The counts of a layer without replies. Raises InputError if they are inconsistent."""
    n = whole_number(entry, "total_count" if "total_count" in entry else "num_patches", where, 2**31)
    share = entry.get("interpretable_fraction")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise InputError(f"{where}: interpretable_fraction: found {share!r:.40}, expected a share, 0 to 1")
    if abs(round(share * n) - share * n) > 0.01 * n:
        raise InputError(f"{where}: interpretable_fraction: {share} is no share of {n} patches")
    return round(share * n), n, 0


def _lens(*texts: str) -> str:
    """The lens in the first text that names one, or else the first text; "tuned" in any text takes precedence."""
    if any(re.search("tuned", text, re.IGNORECASE) for text in texts):
        return TUNED
    for text in texts:
        for pattern, lens in _LENSES:
            if re.search(pattern, text, re.IGNORECASE):
                return lens
    return next(filter(None, texts), "not said")


def outcome_of(response: Any) -> str:
    """The outcome of a reply: yes if any word list is not empty; without lists, the field ``interpretable`` counts."""
    if not isinstance(response, dict) or str(response.get("reasoning", "")).startswith(_NOT_PARSED):
        return "unparsable"
    lists = [response[name] for name in WORD_LISTS if response.get(name) is not None]
    if not all(isinstance(words, list) for words in lists):
        return "unparsable"
    if lists:
        return "yes" if any(lists) else "no"
    said = response.get("interpretable")
    return ("yes" if said else "no") if isinstance(said, bool) else "unparsable"
