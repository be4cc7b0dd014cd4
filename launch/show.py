"""`lens show --model VLM --image FILE`: the lens results of one image, as a figure and as a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jobs.base import require_positive, require_seed
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.model_flags import ModelFlags
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from lenscore.analysis.lens_folders import require_lens_folders
from storage_layouts.errors import InputError
from storage_layouts.files import require_place


@dataclass(frozen=True)
class ShowCommand:
    """Run one image through a VLM and its lenses; write a figure (PNG, PDF, SVG) and a page (HTML).

    The numbers are those of `lens analyze`. The figure has the image with its patch grid, some numbered patches and
    their words; the page has all patches and layers.
    """

    model: str
    """Folder or Hub name of a vision-language model."""
    image: Path
    """The image."""
    store: Path | None = None
    """Contextual embeddings of the model's own LLM, made by extract; without them the latent lens is left out."""
    tuned: Path | None = None
    """A Tuned Lens for the model's own LLM, made by tune, or a folder of the tuned-lens package."""
    patchscope_prompt: str | None = None
    """The prompt of patchscopes: identity (the default), description, or a text whose last token, or the one in braces,
    is replaced by each state, as in "cat->cat; hello->hello; {x}->"."""
    patchscope_tokens: int = 0
    """Also let patchscopes continue the prompt by at most so many tokens, each the likeliest, as a description."""
    out: Path = Path()
    """Folder for NAME-lens.png, .pdf, .svg and .html; earlier ones of this name are replaced, and named."""
    layers: str = "paper"
    """Visual layers: paper, all, or numbers as in 2,8,27."""
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
    """Patches in the figure: how many to sample, or places as in "3,5;0,7" (row,column, or view,row,column)."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: show(parse(ShowCommand, argv, "lens show")))


def show(command: ShowCommand) -> int:
    """Analyse the image, write the files, print a few words and the paths."""
    require_place(command.out)
    require_lens_folders(command.store, command.tuned)
    with StageProgress(Terminal(stderr=True), "show") as progress:
        progress.say("loading PyTorch")
        from transformers.utils.logging import disable_progress_bar

        from lenscore.single_image.analysis import analyze_image
        from lenscore.single_image.figure import drawn_layers
        from lenscore.single_image.terminal_table import words_table

        disable_progress_bar()  # replaced by that of StageProgress
        analyzed = analyze_image(
            command.image,
            command.model,
            command.store,
            layers=command.layers,
            lenses=command.lenses,
            top_k=command.top_k,
            contextual_layers=command.contextual_layers,
            prompt=command.prompt,
            caption=command.caption,
            tuned=command.tuned,
            patchscope_prompt=command.patchscope_prompt,
            patchscope_tokens=command.patchscope_tokens,
            max_pixels=command.max_pixels,
            self_test=command.self_test,
            progress=progress.say,
            **command.loading.options(),
        )
        reading = analyzed.reading
        if command.figure_layers:
            layers = drawn_layers(reading.layers, _numbers(command.figure_layers))
        else:
            layers = drawn_layers(reading.layers, None if command.layers in ("paper", "all") else reading.layers)
        patches = analyzed.sampled(command.patches, command.seed)
        stem = command.out / f"{command.image.stem}-lens"
        files = {ending: stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "pdf", "svg", "html")}
        progress.say("drawing the figure")
        replaced = sorted(path.name for path in files.values() if path.exists())
        for ending in ("png", "pdf", "svg"):
            analyzed.save_figure(
                files[ending],
                patches=command.patches,
                layers=layers,
                width=command.figure_width,
                sentences=command.sentences,
                seed=command.seed,
            )
        progress.say("writing the page")
        analyzed.save_html(files["html"])
    to_file_or_terminal(120).print(words_table(reading, patches, layers))
    print_out(f"figure: {shown(files['png'])} (and .pdf, .svg)")
    print_out(f"page: {shown(files['html'])}")
    if replaced:
        print_out(f"replaced, of an earlier image of this name: {', '.join(replaced)}; --out FOLDER keeps both")
    return 0


def _numbers(layers: str) -> list[int]:
    try:
        return [int(layer) for layer in layers.split(",")]
    except ValueError:
        raise InputError(f"--figure-layers {layers!r}: expected numbers as in 2,8,27") from None


if __name__ == "__main__":
    sys.exit(main())
