"""`lens show --model VLM --image FILE`: the lens results of one image, of one or several models, as figure and page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jobs.base import require_positive, require_seed
from launch.exit_codes import exit_code
from launch.flag_values import flag_of
from launch.flags import parse
from launch.model_flags import ModelFlags
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from lenscore.analysis.lens_folders import require_lens_folders
from storage_layouts.counts import counted
from storage_layouts.errors import InputError
from storage_layouts.files import require_place

if TYPE_CHECKING:
    from lenscore.single_image.analyzed_image import AnalyzedImage


@dataclass(frozen=True)
class ShowCommand:
    """Run one image through a VLM and its lenses; write a figure (PNG, PDF, SVG) and a page (HTML).

    The numbers are those of `lens analyze`. The figure has the image with its patch grid, some numbered patches and
    their words; the page has all patches and layers. With --models the image goes through several VLMs, one after the
    other: a figure of each, and one page with the models side by side.
    """

    image: Path
    """The image."""
    model: str = ""
    """Folder or Hub name of a vision-language model; this or --models must be given."""
    models: str = ""
    """Several, in place of --model, as in A,B,C."""
    stores: str = ""
    """With --models, the store of each, as in X,Y,Z; a model without one has nothing between the commas, as in X,,Z."""
    tuned_lenses: str = ""
    """With --models, the Tuned Lens of each, in the same way."""
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
    """Folder for NAME-lens.png, .pdf, .svg and .html (with --models the figures are NAME-lens-MODEL.png and so on);
    earlier ones of this name are replaced, and named."""
    layers: str = "paper"
    """Visual layers: paper, all, or numbers as in 2,8,27; with --models those of each may be given, as in
    "2,8,27;1,4"."""
    lenses: str | None = None
    """Which lenses, in the order to show; by default latent (with a store), logit, embedding, tuned (with
    --tuned), patchscopes (with --patchscope-prompt)."""
    contextual_layers: str = "all"
    """Layers of the store to search: all of it, or numbers as in 1,2,-1."""
    top_k: int = 5
    """Candidates that each lens keeps."""
    prompt: str = "Describe this image."
    """The text behind the image (causal models do not see it at the visual tokens)."""
    caption: str = ""
    """Text below the image on the page."""
    patches: str = "4"
    """Patches in the figure: how many to sample, or places as in "3,5;0,7" (row,column, or view,row,column); with
    --models those of the first, and in the others the patches at the same places of the image."""
    seed: int = 0
    """Decides which patches are sampled, together with the image."""
    figure_layers: str = ""
    """Layers in the figure; by default those that --layers numbers, of paper and all the first, middle and last."""
    figure_width: Literal["page", "column"] = "page"
    """How wide the figure is: a page of text (6.8 inches), or one of its two columns (3.3)."""
    sentences: int = 2
    """Lines that each lens has at a layer of the figure."""
    max_pixels: int = 178_956_970
    """An image with more pixels is refused, since a small file may be made to fill the memory."""
    self_test: bool = True
    """First see whether patches, layers and logits of the model are what lenscore takes them for; once a model."""
    loading: ModelFlags = field(default_factory=ModelFlags)

    def __post_init__(self) -> None:
        """Raises InputError for values that no figure can use."""
        require_positive(self, "top_k", "sentences", "max_pixels")
        require_seed(self.seed)
        if bool(self.model) == bool(self.models):
            found = "both" if self.model else "neither"
            raise InputError(f"lens show: found {found} of --model and --models; give one of them")
        for own, of_several in (("store", "stores"), ("tuned", "tuned_lenses")):
            wrong = own if self.models else of_several
            if getattr(self, wrong):
                given, other = ("--models", of_several) if self.models else ("--model", own)
                raise InputError(f"{flag_of(wrong)} does not go with {given}; give {flag_of(other)}")
        if self.models and self.loading.revision:
            raise InputError("--revision is that of one model, and does not go with --models")

    def asked_models(self) -> list[tuple[str, str, Path | None, Path | None]]:
        """Returns model, layers, store and Tuned Lens of each model. Raises InputError for lists of other lengths."""
        if not self.models:
            return [(self.model, self.layers, self.store, self.tuned)]
        names = [name.strip() for name in self.models.split(",")]
        if "" in names:
            raise InputError(f"--models {self.models!r}: expected names as in A,B,C")
        layers = self.layers.split(";")
        layers = layers * len(names) if len(layers) == 1 else layers
        stores, tuned = ((text or "," * (len(names) - 1)).split(",") for text in (self.stores, self.tuned_lenses))
        for flag, found in (("--layers", layers), ("--stores", stores), ("--tuned-lenses", tuned)):
            if len(found) != len(names):
                raise InputError(f"{flag}: found {len(found)} for {len(names)} models; give one for each of --models")
        folders = ([Path(name.strip()) if name.strip() else None for name in found] for found in (stores, tuned))
        return list(zip(names, layers, *folders, strict=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: show(parse(ShowCommand, argv, "lens show")))


def show(command: ShowCommand) -> int:
    """Analyse the image, write the files, print a few words and the paths."""
    require_place(command.out)
    asked = command.asked_models()
    for _, _, store, tuned in asked:
        require_lens_folders(store, tuned)
    with StageProgress(Terminal(stderr=True), "show") as progress:
        progress.say("loading PyTorch")
        from transformers.utils.logging import disable_progress_bar

        from lenscore.single_image.analyzed_image import written
        from lenscore.single_image.several_models import AskedModel, analyze_by_models, side_by_side
        from lenscore.single_image.terminal_table import words_table
        from lenscore.statistics.file_names import file_name

        disable_progress_bar()  # replaced by that of StageProgress
        images = analyze_by_models(
            command.image,
            [AskedModel(*one) for one in asked],
            lenses=command.lenses,
            top_k=command.top_k,
            contextual_layers=command.contextual_layers,
            prompt=command.prompt,
            caption=command.caption,
            patchscope_prompt=command.patchscope_prompt,
            patchscope_tokens=command.patchscope_tokens,
            max_pixels=command.max_pixels,
            self_test=command.self_test,
            progress=progress.say,
            **command.loading.options(),
        )
        layers = [
            _figure_layers(command, one, of_model) for one, (_, of_model, _, _) in zip(images, asked, strict=True)
        ]
        patches = _places(command, images)
        progress.say("drawing the figure")
        stem = f"{command.image.stem}-lens"
        stems = [stem] if len(images) == 1 else [f"{stem}-{file_name(one.model)}" for one in images]
        files = {name: [command.out / f"{name}.{ending}" for ending in ("png", "pdf", "svg")] for name in stems}
        page = command.out / f"{stem}.html"
        replaced = sorted(path.name for path in (*chain(*files.values()), page) if path.exists())
        for one, of_model, drawn, paths in zip(images, patches, layers, files.values(), strict=True):
            places = [tuple(place) for place in one.reading.places[list(of_model)].tolist()]
            for path in paths:
                one.save_figure(
                    path,
                    patches=places,
                    layers=drawn,
                    width=command.figure_width,
                    sentences=command.sentences,
                    seed=command.seed,
                )
        progress.say("writing the page")
        written(page, (images[0].to_html() if len(images) == 1 else side_by_side(images)).encode())
    for one, of_model, drawn in zip(images, patches, layers, strict=True):
        title = one.reading.name if len(images) == 1 else f"{one.reading.name} · {one.model}"
        to_file_or_terminal(120).print(words_table(one.reading, of_model, drawn, title))
    for png, *_ in files.values():
        print_out(f"figure: {shown(png)} (and .pdf, .svg)")
    print_out(f"page: {shown(page)}")
    if replaced:
        print_out(f"replaced, of an earlier image of this name: {', '.join(replaced)}; --out FOLDER keeps both")
    return 0


def _figure_layers(command: ShowCommand, image: AnalyzedImage, asked: str) -> Sequence[int]:
    """The layers of one model in figure and table. Raises InputError for one that was not analysed."""
    from lenscore.single_image.figure import drawn_layers

    layers = image.reading.layers
    if command.figure_layers:
        return drawn_layers(layers, _numbers(command.figure_layers))
    return drawn_layers(layers, None if asked in ("paper", "all") else layers)


def _places(command: ShowCommand, images: Sequence[AnalyzedImage]) -> list[tuple[int, ...]]:
    """The patches of each model in figure and table: those of the first, and in the others those at the same places."""
    from lenscore.single_image.patch_choice import places_in_all

    first = images[0].sampled(command.patches, command.seed)
    found = places_in_all([one.reading for one in images], first)
    if len(found[0]) < len(first):
        left_out = counted(len(first) - len(found[0]), "patch")
        print_out(f"{left_out} of {images[0].model} not shown, because not all models see these places")
    return found


def _numbers(layers: str) -> list[int]:
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise InputError(f"--figure-layers {layers!r}: expected numbers as in 2,8,27") from None


if __name__ == "__main__":
    sys.exit(main())
