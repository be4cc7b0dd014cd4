"""Descriptions of a file or folder that a user gave in place of a run or result files, with what to do."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

_LOOKED_AT = 200
"""Number of files of a folder that are read."""
_LARGEST_JSON = 256 * 2**20
DESCRIPTIONS = "descriptive_layer*.json"
"""Files of Patchscopes with a prompt that asks for a description."""


def instead_of_run(path: Path) -> str:
    """Why a path without run.json is not a run folder."""
    return "no run.json in it" if path.is_dir() else "a file" if path.exists() else "no such folder"


def what_it_is(path: Path) -> str:
    """What a path without run.json is, and what to do with it, in one line."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())[:_LOOKED_AT]
        known = [(file, what) for file in files if (what := _known(file))]
        if not known:
            return "no run.json in it, and no file that is known here"
        file, what = known[0]
        return f"no run.json in it; {file.relative_to(path)} is {what}"
    if not path.exists():
        return "no such file or folder"
    return _known(path) or "a file that is not known here; expected a run folder, or result files of latentlens"


def _known(file: Path) -> str:
    """What a file is; "" if it is unknown."""
    if file.suffix.lower() == ".json":
        return _of_json(file)
    if file.suffix.lower() in (".html", ".htm"):
        return _of_page(file)
    if zipfile.is_zipfile(file):
        return "a zip archive; unzip it first" if file.suffix.lower() == ".zip" else ""
    if re.search(r"\.(tar|tgz|tar\.\w+)$", file.name.lower()) and tarfile.is_tarfile(file):
        return "an archive; unpack it first"
    return ""


def _of_page(file: Path) -> str:
    text = file.read_bytes()[: 64 * 2**20]
    found = re.search(rb"(logit|tuned|latent|embedding)[-_ ]?lens|patchscopes", text, re.IGNORECASE)
    what = f" of a {found[0].decode().lower()}" if found else ""
    return f"a saved page (HTML){what}: it holds drawings, no results; name the files that it was made from"


def _of_json(file: Path) -> str:
    if file.stat().st_size > _LARGEST_JSON:
        return ""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return "a .json file that cannot be read as JSON"
    if isinstance(content, list):
        return _of_list(content, file)
    if not isinstance(content, dict):
        return ""
    if str(content.get("method", "")).startswith("patchscopes_descriptive"):
        return "Patchscopes descriptions: generated text without candidates, which no lens of the viewer can show"
    if "userId" in content and "results" in content:
        return "a session of a human study; `lens agreement --human` takes the folder with its data.json"
    results = content.get("results")
    first = results[0] if isinstance(results, list) and results and isinstance(results[0], dict) else {}
    if "instance_id" in first:
        return "a judge's replies to a human study; `lens agreement --human DIR --judge FILE` takes it"
    if "gpt_response" in first or {"responses", "accuracy"} <= content.keys():
        return "replies of the latentlens judge; `lens report` takes it under its name results_validation.json"
    if {"nn", "logitlens", "contextual"} <= content.keys():
        return "what the LatentLens paper's figures are drawn from; `lens report --compare paper` has its rates"
    if _is_table(content):
        return "a table of rates by lens, model and layer; --compare takes such rates in a file with their sources"
    return ""


def _of_list(content: list[Any], file: Path) -> str:
    first = content[0] if content and isinstance(content[0], dict) else {}
    if "candidates" in first and "id" in first:
        return f"the {file.name} of a human study; `lens agreement --human` takes its folder"
    if "layer" in first and first.keys() & {"interpretable_fraction", "interpretable_count"}:
        return "the output of the latentlens judge; `lens report` takes it under its name evaluation_results.json"
    return ""


def _is_table(content: dict[str, Any]) -> bool:
    """Whether the content is {lens: {model: {layer: percent}}}."""
    models = [model for lens in content.values() if isinstance(lens, dict) for model in lens.values()]
    rates = [rate for model in models if isinstance(model, dict) for rate in model.values()]
    return bool(rates) and all(isinstance(rate, (int, float)) for rate in rates)
