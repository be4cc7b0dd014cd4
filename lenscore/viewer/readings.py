"""From the runs on disk to one `ImageReading` per image.

Everything that grows with the number of patches is done on whole columns; each word is decoded once per run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lenscore.readings.image_reading import ImageReading, LensReading, PatchVerdict
from lenscore.readings.text_reading import TextReading
from lenscore.readings.words import texts_in_sequence
from lenscore.statistics.sources import JudgeSource
from lenscore.user_files.finding import path_from_stored
from lenscore.viewer.browser_pictures import shown_picture
from lenscore.viewer.effect_maps import EffectMaps
from lenscore.viewer.lens_lines import LensLines
from lenscore.viewer.scene_truth import truth_of
from lenscore.viewer.words_of_ids import SharedWords, WordsOfIds
from storage_layouts.results import LensResults
from storage_layouts.runs import RunFolder
from storage_layouts.token_measures import ANSWER

_VERDICT_COLUMNS = ["image_id", "view", "row", "col", "layer", "lens", "outcome", "fitting", "candidates", "reply"]


class RunReadings:
    """The readings of the images of an analyze run, with the verdicts of judge runs and the effects of interventions.

    Attributes:
        layers, lenses, top_k: those of the run.
        names: by image id: the shortest end of the path that no other image has.
        errors: why images could not be read, by image id; these have no reading.
        image_ids: of the images that could be read, ascending.

    """

    def __init__(
        self,
        results: LensResults,
        judges: Sequence[JudgeSource] = (),
        interventions: Sequence[RunFolder] = (),
        shared: SharedWords | None = None,
    ) -> None:
        self._results = results
        self._images = {image["image_id"]: image for image in results.images().to_pylist()}
        self._words = WordsOfIds(results, shared=shared)
        self._verdicts = [(judge.summary.judge, _verdicts_by_image(judge.verdicts)) for judge in judges]
        self._maps = EffectMaps(interventions, results.layers)
        self.layers, self.lenses, self.top_k = results.layers, results.lenses, results.top_k
        self.names: Mapping[int, str] = names_of_images(
            {image_id: image["path"] for image_id, image in self._images.items()}
        )
        read = results.geometry().select(["image_id", "error"]).to_pylist()
        self.errors: Mapping[int, str] = {line["image_id"]: line["error"] for line in read if line["error"] is not None}
        self.image_ids = sorted(line["image_id"] for line in read if line["error"] is None)

    def readings(self, image_ids: Iterable[int]) -> Iterator[tuple[int, ImageReading]]:
        """Yields the readings of some images that could be read, ascending; each shard's results are read once.

        Raises:
            CorruptError: a part of the run is damaged.
            ValueError: a lens does not name every patch of an image once at each layer.

        """
        for some in self._by_shard(image_ids):
            lines = LensLines(self._results, self._words, some)
            for geometry in self._results.geometry(image_ids=some).to_pylist():
                yield geometry["image_id"], self._reading(geometry, lines)
            del lines
            pa.default_memory_pool().release_unused()  # Arrow keeps the memory of the tables, beside that of all else

    @property
    def has_texts(self) -> bool:
        """Whether the run describes the tokens of prompts and answers."""
        return self._results.has_texts

    def texts(self, image_ids: Iterable[int]) -> Iterator[tuple[int, TextReading]]:
        """Yields the readings of prompt and answer of some images that could be read, as `readings` does."""
        words = list(zip(self._results.token_words(), self._results.token_bytes(), strict=True))
        candidates = WordsOfIds(self._results, in_text=True)
        for some in self._by_shard(image_ids):
            lines = LensLines(self._results, candidates, some, text=True)
            tokens = self._results.texts(some)
            for image_id in some:
                yield (
                    image_id,
                    self._text(image_id, tokens.filter(pc.equal(tokens["image_id"], image_id)), lines, words),
                )

    def _by_shard(self, image_ids: Iterable[int]) -> Iterator[list[int]]:
        """The images, ascending, of one shard after the other."""
        wanted = set(image_ids)
        for shard in self._results.run.require_plan().shards():
            if some := sorted(wanted.intersection(range(shard.first, shard.stop))):
                yield some

    def _text(
        self, image_id: int, tokens: pa.Table, lines: LensLines, words: Sequence[tuple[str, bytes | None]]
    ) -> TextReading:
        places = np.stack([tokens[name].to_numpy() for name in ("view", "row", "col")], axis=1).astype(np.int32)
        token_ids, depth = tuple(tokens["token_id"].to_pylist()), self._results.depth
        assert depth is not None  # runs with texts record it
        return TextReading(
            name=self.names[image_id],
            tokens=texts_in_sequence((token, *words[token]) for token in token_ids),
            token_ids=token_ids,
            prompt_tokens=int((places[:, 0] != ANSWER).sum()),
            layers=self.layers,
            depth=depth,
            lenses=lines.readings(image_id, places),
        )

    def _reading(self, geometry: dict[str, Any], lines: LensLines) -> ImageReading:
        image = self._images[geometry["image_id"]]
        places, boxes = places_and_boxes(geometry["patches"])
        lenses = lines.readings(image["image_id"], places)
        picture = shown_picture(path_from_stored(image["path"]), image["sha256"])
        return ImageReading(
            name=self.names[image["image_id"]],
            caption=image["caption"] or "",
            width=geometry["width"],
            height=geometry["height"],
            picture=picture,
            views={view["view"]: view["name"] for view in geometry["views"]},
            places=places,
            boxes=boxes,
            layers=self._results.layers,
            lenses=lenses,
            verdicts=tuple(self._verdicts_of(image["image_id"], places, lenses)),
            truth=truth_of(path_from_stored(image["path"]), boxes) if picture else None,
            maps=self._maps.of_image(image["image_id"], len(places)),
        )

    def _verdicts_of(
        self, image_id: int, places: npt.NDArray[np.int32], lenses: Sequence[LensReading]
    ) -> Iterator[PatchVerdict]:
        patch_of = {tuple(place): patch for patch, place in enumerate(places.tolist())}
        by_name = {lens.lens: lens for lens in lenses}
        for judge, by_image in self._verdicts:
            for line in by_image.get(image_id, ()):
                if line.lens not in by_name:  # its store is gone, and with it the judged words
                    continue
                patch = patch_of[line.view, line.row, line.col]
                yield _verdict(judge, line, by_name[line.lens], self.layers.index(line.layer), patch)


def _verdict(judge: str, line: Any, lens: LensReading, layer: int, patch: int) -> PatchVerdict:
    """A verdict on one patch in the words of the reading: the marked word instead of a phrase.

    ``line`` is a row of the verdicts; ``layer`` and ``patch`` are places in the reading.
    """
    word_of: dict[str, str] = {}
    if lens.contextual_layers is not None:
        texts = [lens.words[word].text for word in lens.which[layer, patch].tolist() if word >= 0]
        # The candidates of a verdict are the words that are not blank, in the order of the lens.
        word_of = dict(zip(line.candidates, (text for text in texts if text.strip()), strict=False))

    def words(candidates: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word_of.get(one, one) for one in candidates))

    kinds: dict[str, tuple[str, ...]] = {}
    if line.outcome == "yes" and line.reply:
        from lenscore.judging.replies import read_reply  # as in `reports.verdict_types`

        reply = read_reply(line.reply, line.candidates)
        found = {"concrete": reply.concrete, "abstract": reply.abstract, "global": reply.global_}
        kinds = {kind: words(fitting) for kind, fitting in found.items() if fitting}  # empty for the truth judge
    return PatchVerdict(judge, patch, line.layer, line.lens, line.outcome, words(line.fitting), kinds)


def names_of_images(paths: dict[int, str]) -> dict[int, str]:
    """Returns for each image the shortest end of its path that no other image has, with at most three folders."""
    parts = {image_id: Path(path).parts for image_id, path in paths.items()}
    names: dict[int, str] = {}
    for length in (1, 2, 3, 4):
        names = {image_id: "/".join(all_[-length:]) for image_id, all_ in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


def places_and_boxes(patches: Sequence[Mapping[str, Any]]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Returns places int32 ``[n, 3]`` and boxes float32 ``[n, 4]`` of the patches of a geometry table."""
    places = np.array([[patch[name] for name in ("view", "row", "col")] for patch in patches], np.int32)
    boxes = np.array([[patch[name] for name in ("left", "top", "right", "bottom")] for patch in patches], np.float32)
    return places.reshape(-1, 3), boxes.reshape(-1, 4)


def _verdicts_by_image(verdicts: pd.DataFrame) -> dict[int, list[Any]]:
    """The verdicts on the lenses' words, without those on control words, by image."""
    by_image: dict[int, list[Any]] = {}
    own = verdicts.loc[verdicts["control"] == "", _VERDICT_COLUMNS]
    for image_id, line in zip(own["image_id"].tolist(), own.itertuples(index=False), strict=True):
        by_image.setdefault(image_id, []).append(line)
    return by_image
