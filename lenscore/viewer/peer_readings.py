"""Result files of the latentlens paper's scripts as the viewer shows them.

The files hold neither images nor boxes. Files written by `lens convert` have both in tables beside them; for all other
files cells of equal size over the whole image are assumed, and the page says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lenscore.images.image_files import ImageFile, find_images
from lenscore.readings.image_reading import ImageReading, LensReading
from lenscore.readings.lens_titles import LATENT
from lenscore.readings.text_reading import TextReading
from lenscore.user_files.finding import path_from_stored
from lenscore.viewer.browser_pictures import picture_size, shown_picture
from lenscore.viewer.lens_lines import indices_of, place_codes
from lenscore.viewer.peer_files import PeerModel, read_peer_files
from lenscore.viewer.readings import names_of_images, places_and_boxes
from lenscore.viewer.scene_truth import truth_of
from lenscore.viewer.shown_models import ViewerModel
from storage_layouts.errors import InputError
from storage_layouts.files import digest_file
from storage_layouts.latentlens_results import LENSES, TUNED, result_files
from storage_layouts.other_files import DESCRIPTIONS
from storage_layouts.results_conversion import ABOUT, images_beside
from storage_layouts.single_image import IMAGE_COPY

_CELL = 14  # pixels of a cell, for images of unknown size


@dataclass(frozen=True)
class _Image:
    """An image: its file, size and patches, as far as they are known; ``views`` (number, name) by chunk."""

    name: str
    caption: str
    path: Path | None
    sha256: str
    size: tuple[int, int] | None = None
    views: tuple[tuple[int, str], ...] | None = None
    places: npt.NDArray[np.int32] | None = None
    boxes: npt.NDArray[np.float32] | None = None


class PeerReadings:
    """The readings of one model's files; attributes as in `shown_models.Readings`."""

    def __init__(self, model: PeerModel, images: Mapping[int, _Image]) -> None:
        self._model, self._images = model, images
        self.layers = tuple(sorted({layer for _, layer in model.layers}))
        self.lenses = tuple(lens for lens in LENSES if lens in model.words)
        self.top_k = max((layer.which.shape[1] for layer in model.layers.values()), default=0)
        self.image_ids = model.image_ids
        self.names: Mapping[int, str] = {image_id: images[image_id].name for image_id in self.image_ids}
        self.errors: Mapping[int, str] = {}

    has_texts = False

    def texts(self, image_ids: Iterable[int]) -> Iterator[tuple[int, TextReading]]:
        """Yields nothing: the files of other tools have image tokens alone."""
        return iter(())

    def readings(self, image_ids: Iterable[int]) -> Iterator[tuple[int, ImageReading]]:
        """Yields the readings of some images, ascending.

        Raises InputError if a patch is missing in the tables beside the files.
        """
        for image_id in sorted(image_ids):
            yield image_id, self._reading(image_id, self._images[image_id])

    def _reading(self, image_id: int, image: _Image) -> ImageReading:
        lines = {key: np.flatnonzero(layer.patches[:, 0] == image_id) for key, layer in self._model.layers.items()}
        found = [layer.patches[lines[key], 1:] for key, layer in self._model.layers.items()]
        places = image.places if image.places is not None else np.unique(np.concatenate(found), axis=0)
        boxes = image.boxes if image.boxes is not None else _cells(places)
        views = dict(image.views or ((view, self._chunk(view)) for view in np.unique(places[:, 0]).tolist()))
        picture = shown_picture(image.path, image.sha256) if image.path else None
        width, height = image.size or (picture and picture_size(picture)) or _size_of_grid(places)
        return ImageReading(
            name=image.name,
            caption=image.caption,
            width=width,
            height=height,
            picture=picture,
            views=views,
            places=places,
            boxes=boxes,
            layers=self.layers,
            lenses=tuple(self._lens(lens, lines, places, image) for lens in self.lenses),
            truth=truth_of(image.path, boxes) if image.path and picture else None,
        )

    def _chunk(self, chunk: int) -> str:
        return self._model.chunks.get(chunk) or f"Chunk {chunk}"

    def _lens(
        self, lens: str, lines: Mapping[tuple[str, int], Any], places: npt.NDArray[np.int32], image: _Image
    ) -> LensReading:
        shape = len(self.layers), len(places), self.top_k
        which = np.full(shape, -1, np.int32)
        scores = np.full(shape, np.nan, np.float32)
        contexts = np.full(shape, -1, np.int16) if lens == LATENT else None
        codes = place_codes(*places.T)
        for number, layer in enumerate(self.layers):
            found = self._model.layers.get((lens, layer))
            if found is None:
                continue
            rows = lines[lens, layer]
            wanted = place_codes(*_in_views(found.patches[rows, 1:], image.views).T)
            at = indices_of(wanted, codes)
            if not np.array_equal(codes[at], wanted):
                file = next(iter(self._model.files[lens, layer].values()))
                raise InputError(
                    f"{file}: {image.name}: has patches that are not in the tables beside it ({ABOUT}); convert again"
                )
            k = found.which.shape[1]
            which[number, at, :k], scores[number, at, :k] = found.which[rows], found.scores[rows]
            if contexts is not None and found.contextual_layers is not None:
                contexts[number, at, :k] = found.contextual_layers[rows]
        return LensReading(lens, self._model.words[lens], which, scores, contexts)


def peer_models(folders: Sequence[Path], pictures: Path | None) -> list[ViewerModel]:
    """Returns the models of folders of result files, or of single files.

    ``pictures`` has their images in the order of the data set. Raises InputError for files that cannot be used, and if
    there are too few pictures.
    """
    found = find_images(pictures, flag="--peer-images") if pictures else []
    return [model for folder in folders for model in _models_of(folder, found)]


def is_peer_folder(folder: Path) -> bool:
    """Returns whether this is a folder of result files or one such file, and not a run."""
    return not (folder / "run.json").exists() and bool(result_files(folder))


def _models_of(folder: Path, pictures: Sequence[ImageFile]) -> Iterator[ViewerModel]:
    models = read_peer_files(result_files(folder))
    for model in models:
        if (folder / ABOUT).exists() and len(models) == 1:
            images = _images_beside(folder)
            notes: tuple[str, ...] = ("Read from files that lens convert wrote, with the patches' places.",)
        else:
            images, notes = _images_assumed(model, pictures)
        missing = sorted(set(model.image_ids) - set(images))
        if missing:
            raise InputError(f"{folder}: its files refer to image {missing[0]}, which is not in {ABOUT}; convert again")
        about = (("files of latentlens", folder.resolve().name), ("checkpoint", model.checkpoint or "unknown"))
        label = folder.resolve().name + (f" {model.checkpoint}" if len(models) > 1 else "")
        notes += (*_read_as(model), *_not_shown(folder))
        yield ViewerModel(label, _identity(model, folder), PeerReadings(model, images), notes=notes, about=about)


def _read_as(model: PeerModel) -> Iterator[str]:
    """Conclusions about the files, for the reader of the page."""
    if TUNED in model.words:
        yield "Tuned Lens: the files have the logit lens's format; the folder's name identifies them as Tuned Lens."
    merged = sorted({layer for parts in model.files.values() if len(parts) > 1 for layer in parts if layer is not None})
    if merged:
        layers = ", ".join(map(str, merged))
        yield f"Files of one contextual layer each ({layers}) were merged by similarity, visual layer by visual layer."


def _not_shown(folder: Path) -> Iterator[str]:
    """Published files of the folder that hold nothing to show."""
    if descriptions := sorted(folder.rglob(DESCRIPTIONS)):
        yield (
            f"Not shown: Patchscopes descriptions, generated text without candidates ({len(descriptions)} files, e.g. "
            f"{descriptions[0].name})."
        )


def _picture_beside(model: PeerModel) -> list[ImageFile]:
    """The image of a file of one image: the copy beside the file, or the path in the file."""
    if model.image_path:
        for path in (model.paths[0].parent / IMAGE_COPY, Path(model.image_path)):
            if path.is_file():
                data = path.read_bytes()
                return [ImageFile(path.absolute(), hashlib.sha256(data).hexdigest(), len(data), None)]
    return []


def _images_beside(folder: Path) -> dict[int, _Image]:
    """From the tables that `lens convert` wrote beside the files."""
    images, geometry = (table.to_pylist() for table in images_beside(folder))
    files = {image["image_id"]: image for image in images}
    names = names_of_images({image_id: image["path"] for image_id, image in files.items()})
    known = {}
    for line in geometry:
        if line["error"] is not None:
            continue
        file = files[line["image_id"]]
        places, boxes = places_and_boxes(line["patches"])
        known[line["image_id"]] = _Image(
            name=names[line["image_id"]],
            caption=file["caption"] or "",
            path=path_from_stored(file["path"]),
            sha256=file["sha256"],
            size=(line["width"], line["height"]),
            views=tuple((view["view"], view["name"]) for view in line["views"]),
            places=places,
            boxes=boxes,
        )
    return known


def _images_assumed(model: PeerModel, pictures: Sequence[ImageFile]) -> tuple[dict[int, _Image], tuple[str, ...]]:
    """Returns pictures in the order of the data set, if there are any, and the assumptions as sentences."""
    numbers = model.image_ids
    last = max(numbers, default=-1)
    if pictures and last >= len(pictures):
        raise InputError(
            f"--peer-images: {len(pictures)} images, but {model.paths[0]} refers to image {last} "
            "(the first is 0); give the images of the whole data set, in its order (a list in a .txt keeps an order)"
        )
    notes = ["Cells of equal size over the whole image are assumed: the files hold rows and columns, but no boxes."]
    if len(model.chunks) > 1:
        notes.append(
            "The positions of the crops are not stored; each is drawn over the whole image, as a separate view."
        )
    beside = [] if pictures else _picture_beside(model)
    found = pictures or beside
    names = names_of_images(dict(enumerate(str(picture.path) for picture in found)))
    if beside:
        notes.append(f"The image is {beside[0].path}: beside the file, or at the path in the file.")
    elif not pictures:
        notes.append("The files hold no images; --peer-images gives them.")
        return {n: _Image(f"image {n}", model.captions.get(n, ""), None, "") for n in numbers}, tuple(notes)
    else:
        rest = f", and {len(pictures) - 1 - last} files behind it are not used" if last + 1 < len(pictures) else ""
        notes.append(
            f"The pictures are assumed to be in the order of the data set: image 0 is {names[0]}, image {last} is "
            f"{names[last]}{rest}."
        )
    return {
        n: _Image(names[n], model.captions.get(n) or found[n].caption or "", found[n].path, found[n].sha256)
        for n in numbers
    }, tuple(notes)


def _identity(model: PeerModel, folder: Path) -> str:
    """Hex digits of a hash of the checkpoint and the files."""
    base = folder if folder.is_dir() else folder.parent
    digests = sorted(f"{file.relative_to(base).as_posix()} {digest_file(file)}" for file in set(model.paths))
    return hashlib.sha256("\n".join([model.checkpoint, *digests]).encode()).hexdigest()[:16]


def _in_views(patches: npt.NDArray[np.int32], views: tuple[tuple[int, str], ...] | None) -> npt.NDArray[np.int32]:
    """(chunk, row, column) as (view, row, column); a chunk that is not in the tables becomes view -1."""
    if views is None:
        return patches
    numbers = np.array([view for view, _ in views] + [-1], np.int32)
    return np.column_stack([numbers[np.minimum(patches[:, 0], len(views))], patches[:, 1:]])


def _cells(places: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Boxes of equal cells over the whole image, view by view."""
    boxes = np.zeros((len(places), 4), np.float32)
    for view in np.unique(places[:, 0]):
        in_view = places[:, 0] == view
        row, col = places[in_view, 1], places[in_view, 2]
        rows, cols = row.max() + 1, col.max() + 1
        boxes[in_view] = np.column_stack([col / cols, row / rows, (col + 1) / cols, (row + 1) / rows])
    return boxes


def _size_of_grid(places: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Width and height of an image of unknown size: the shape of its first view's grid."""
    first = places[places[:, 0] == places[:, 0].min()]
    return _CELL * int(first[:, 2].max() + 1), _CELL * int(first[:, 1].max() + 1)
