"""One image through several models, one after the other, and the page on which they stand side by side."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lenscore.models.loading import loadable
from lenscore.single_image.analysis import analyze_image, checked_lenses, known_of
from lenscore.single_image.analyzed_image import AnalyzedImage
from lenscore.single_image.image_source import ImageSource
from lenscore.viewer.compare_page import single_comparison
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class AskedModel:
    """A model to run: its name, the layers, and the folders that its lenses need, as in `analyze_image`."""

    model: str
    layers: str = "paper"
    store: Path | None = None
    tuned: Path | None = None


def analyze_by_models(
    image: ImageSource,
    models: Sequence[AskedModel],
    *,
    lenses: str | None,
    top_k: int,
    contextual_layers: str,
    prompt: str,
    caption: str,
    patchscope_prompt: str | None,
    patchscope_tokens: int,
    max_pixels: int,
    self_test: bool,
    progress: Callable[[str], None],
    **loading: Any,
) -> list[AnalyzedImage]:
    """Run an image through models; no more than one is in memory.

    What can be checked without weights is checked for all models before the first is loaded. Options and errors are
    those of `analyze_image`; an error names the model. Models of one label are numbered in it.
    """
    options: dict[str, Any] = {
        "lenses": lenses,
        "top_k": top_k,
        "contextual_layers": contextual_layers,
        "prompt": prompt,
    }
    options |= {"patchscope_prompt": patchscope_prompt, "patchscope_tokens": patchscope_tokens}
    _check_all(models, options, progress, loading)
    analyzed: list[AnalyzedImage] = []
    for one in models:
        with _error_names(one, models):
            found = analyze_image(
                image,
                one.model,
                one.store,
                layers=one.layers,
                tuned=one.tuned,
                caption=caption,
                max_pixels=max_pixels,
                self_test=self_test,
                progress=_told_with(_named(one, models), progress),
                **options,
                **loading,
            )
        gc.collect()  # of the cycles of its modules, before the next model needs the memory
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        analyzed.append(found)
    return [replace(one, model=label) for one, label in zip(analyzed, _told_apart(analyzed), strict=True)]


def _told_apart(images: Sequence[AnalyzedImage]) -> list[str]:
    """The labels of the models; one that several have gets a number."""
    labels = [one.model for one in images]
    return [
        f"{label} ({labels[:place].count(label) + 1})" if labels.count(label) > 1 else label
        for place, label in enumerate(labels)
    ]


def side_by_side(images: Sequence[AnalyzedImage]) -> str:
    """Returns one HTML file that needs no network: the pages of one image by several models beside each other."""
    return single_comparison(images[0].reading.name, [(one.model, one.to_html()) for one in images])


def _check_all(
    models: Sequence[AskedModel],
    options: dict[str, Any],
    progress: Callable[[str], None],
    loading: dict[str, Any],
) -> None:
    """Raises InputError for what `analyze_image` refuses before it loads a model, of any of several models."""
    if len(models) == 1:
        return  # it does so itself
    for one in models:
        progress(f"{_named(one, models)}reading its settings")
        with _error_names(one, models):
            known = known_of(loadable(one.model, **loading))
            checked_lenses(known, one.store, one.layers, tuned=one.tuned, **options)


def _named(one: AskedModel, models: Sequence[AskedModel]) -> str:
    return f"{one.model}: " if len(models) > 1 else ""


def _told_with(name: str, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda message: progress(name + message)


@contextmanager
def _error_names(one: AskedModel, models: Sequence[AskedModel]) -> Iterator[None]:
    """An error of one of several models begins with its name, unless it says it."""
    try:
        yield
    except InputError as error:
        if len(models) == 1 or one.model in str(error):
            raise
        raise InputError(f"{one.model}: {error}") from None
