"""The texts about images whose nouns are looked for: the model's answers, a file of answers, or captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lenscore.images.table_cells import PATH_COLUMNS
from lenscore.judging.patches import ImagePatches
from lenscore.judging.truth_files.known_objects import AnalysedImages
from lenscore.models.text_only import no_text_ids
from lenscore.user_files.rows import CAPTION_COLUMNS, TABLES, Column, format_of, place, read_rows, texts_of
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.results import LensResults
from storage_layouts.tables import matrix_of_lists
from storage_layouts.token_measures import ANSWER, TEXT_ROW

_LAST_WORD = re.compile(r"[\w'’-]+$")


@dataclass(frozen=True)
class Answer:
    """A text about an image.

    Attributes:
        image_id: of the analyze run.
        text: the text.
        ends: int64 ``[tokens]``, where in the text each token of the model ends; empty for texts of others.
        chances: float64 ``[tokens]``, the probability that the model gave to each token; NaN if that was not kept.

    """

    image_id: int
    text: str
    ends: npt.NDArray[np.int64]
    chances: npt.NDArray[np.float64]

    def probability(self, start: int, end: int) -> float:
        """The probability that the model gave to the characters start..end: the product over their tokens, or NaN."""
        begins = np.concatenate([[0], self.ends[:-1]])[: len(self.ends)]
        of_word = (begins < end) & (self.ends > start)
        return float(self.chances[of_word].prod()) if of_word.any() else np.nan


def model_answers(results: LensResults, tokenizer: Any) -> list[Answer]:
    """The answers that the run keeps (`lens analyze --tokens generated`), without special tokens.

    An answer that no special or added token ends was cut at --max-new-tokens, and its last word may be half of one:
    that is left out.

    A token's probability is read from LogitLens behind the last block at the token before, whose first candidate it is,
    if the run has that layer (``--layers paper,final``) and that token; that of the first token of an answer needs the
    prompt (``--tokens all``).
    """
    special, ends = set(tokenizer.all_special_ids), no_text_ids(tokenizer)
    texts = results.texts()
    columns = [texts[name].to_numpy().astype(np.int64) for name in ("image_id", "row", "col", "view", "token_id")]
    image_ids, position, views, ids = columns[0], columns[1] * TEXT_ROW + columns[2], columns[3], columns[4]
    kept = _next_token_probabilities(results)
    answers = []
    for image_id in np.unique(image_ids[views == ANSWER]).tolist():
        places = np.flatnonzero((image_ids == image_id) & (views == ANSWER))
        ordered = places[np.argsort(position[places])].tolist()
        mine = [line for line in ordered if ids[line] not in special]
        token_ids = ids[mine].tolist()
        said = [
            tokenizer.decode(token_ids[:count], clean_up_tokenization_spaces=False)
            for count in range(1, len(token_ids) + 1)
        ]
        before = [kept.get((image_id, int(position[line]) - 1), (-1, np.nan)) for line in mine]
        chances = [chance if best == ids[line] else np.nan for line, (best, chance) in zip(mine, before, strict=True)]
        text = said[-1] if said else ""
        if ids[ordered[-1]] not in ends:
            text = _LAST_WORD.sub("", text)
        answers.append(Answer(image_id, text, np.array(list(map(len, said)), np.int64), np.array(chances, np.float64)))
    return answers


def _next_token_probabilities(results: LensResults) -> dict[tuple[int, int], tuple[int, float]]:
    """By image and position the likeliest next token and its probability, from the model's own distribution."""
    if "logit" not in results.distribution_lenses or results.depth not in results.layers:
        return {}
    columns = ["image_id", "row", "col", "ids", "scores"]
    lines = results.results("logit", results.depth, columns=columns, folder="text_results")
    kept = results.distributions("logit", folder="text_distributions")
    at = list(results.layers).index(results.depth)
    normalizers = dict(zip(_positions(kept), matrix_of_lists(kept["log_normalizers"])[:, at].tolist(), strict=True))
    found = zip(_positions(lines), matrix_of_lists(lines["ids"]), matrix_of_lists(lines["scores"]), strict=True)
    return {key: (int(ids[0]), float(np.exp(float(scores[0]) - normalizers[key]))) for key, ids, scores in found}


def _positions(table: pa.Table) -> list[tuple[int, int]]:
    position = pc.add(pc.multiply(table["row"].cast(pa.int64()), TEXT_ROW), table["col"].cast(pa.int64()))
    return list(zip(table["image_id"].to_pylist(), position.to_pylist(), strict=True))


def captions(results: LensResults) -> list[Answer]:
    """The captions of the images."""
    images = results.images().select(["image_id", "caption"]).to_pylist()
    return [_of_others(image["image_id"], image["caption"]) for image in images if image["caption"]]


def answers_of_file(path: Path, images: Sequence[ImagePatches]) -> tuple[list[Answer], int]:
    """The answers of a table (path and text, in columns of the usual names), and how many are of other images.

    Several answers of an image are kept apart. Raises InputError for a file that cannot be read, or without an answer
    about one of the images.
    """
    if not path.is_file():
        raise InputError(f"--answers {path}: no such file; expected auto, generated, captions, or a table")
    if format_of(path.name) not in TABLES:
        raise InputError(
            f"--answers {path}: names no image of its texts; expected a table with the columns image and text, as "
            f"{', '.join(TABLES)}"
        )
    columns = (Column("--answers", usual=PATH_COLUMNS), Column("--answers", usual=CAPTION_COLUMNS))
    analysed, answers, others = AnalysedImages(images), list[Answer](), 0
    for number, (name, cell) in read_rows(path, columns):
        where = place(path, number)
        named = [image for one in texts_of(name, where) for image in analysed.named(one, where)]
        texts = texts_of(cell, where)
        others += not named
        answers += [_of_others(image.image_id, text) for image in named for text in texts]
    if not answers:
        raise InputError(
            f"--answers {path}: has no answer about one of the {counted(len(images), 'image')}, such as "
            f"{images[0].path if images else '(none)'}; expected paths that these end in"
        )
    return answers, others


def _of_others(image_id: int, text: str) -> Answer:
    return Answer(image_id, text, np.empty(0, np.int64), np.empty(0))
