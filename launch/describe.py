"""`lens describe --model VLM --image FILE`: patches in the words of a natural language autoencoder, with a number."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.base import require_positive, require_seed
from launch.exit_codes import exit_code
from launch.flags import parse
from launch.model_flags import ModelFlags
from launch.progress import StageProgress
from launch.terminal import Terminal, print_out, shown, to_file_or_terminal
from lenscore.models.source import require_source
from storage_layouts.errors import InputError
from storage_layouts.files import require_place, write_atomic
from storage_layouts.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from lenscore.single_image.described_patches import DescribedPatches


@dataclass(frozen=True)
class DescribeCommand:
    """Describe patches of an image by a natural language autoencoder, and say how much of their states comes back.

    An autoencoder is a pair of folders, each with nla_meta.yaml: a verbaliser, which describes a state, and a
    reconstructor, which makes the state of the description. Prints the descriptions and writes a table (CSV).
    """

    model: str
    """Folder or Hub name of a vision-language model, whose LLM is that of the autoencoder."""
    image: Path
    """The image."""
    verbaliser: Path
    """Folder of the activation verbaliser (av)."""
    reconstructor: Path
    """Folder of the activation reconstructor (ar)."""
    out: Path = Path()
    """Folder for NAME-described.csv; an earlier one is replaced, and named."""
    layer: int | None = None
    """Visual layer; by default that whose states the reconstructor makes, the outputs of its last block."""
    patches: str = "4"
    """How many patches to sample, or places as in "3,5;0,7" (row,column, or view,row,column)."""
    seed: int = 0
    """Decides which patches are sampled, together with the image."""
    max_new_tokens: int = 200
    """Tokens of a description at most, each the likeliest one."""
    prompt: str = "Describe this image."
    """The text behind the image (causal models do not see it at the visual tokens)."""
    max_pixels: int = 178_956_970
    """An image with more pixels is refused, since a small file may be made to fill the memory."""
    self_test: bool = True
    """First see whether patches, layers and logits of the model are what lenscore takes them for; once a model."""
    loading: ModelFlags = field(default_factory=ModelFlags)

    def __post_init__(self) -> None:
        """Raises InputError for values that are too small."""
        require_positive(self, "max_new_tokens", "max_pixels")
        require_seed(self.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return exit_code(lambda: describe(parse(DescribeCommand, argv, "lens describe")))


def describe(command: DescribeCommand) -> int:
    """Describe the patches, print them, write the table."""
    require_place(command.out)
    for flag in ("verbaliser", "reconstructor"):
        if not getattr(command, flag).is_dir():
            raise InputError(f"--{flag} {getattr(command, flag)}: no such folder")
    require_source(command.model, command.loading.revision or None)
    with StageProgress(Terminal(stderr=True), "describe") as progress:
        progress.say("loading PyTorch")
        from transformers.utils.logging import disable_progress_bar

        from lenscore.models.checkpoint import Checkpoint
        from lenscore.reports.parts.table_formats import csv_bytes
        from lenscore.single_image.described_patches import describe_patches
        from lenscore.single_image.image_source import open_image_source

        disable_progress_bar()  # replaced by that of StageProgress
        options = command.loading.options()
        device = options["device"]
        code = options["trust_remote_code"]
        described = describe_patches(
            open_image_source(command.image, command.max_pixels),
            Checkpoint(command.model, options["revision"], code, options["dtype"], options["quantization"]),
            Checkpoint(command.verbaliser, None, code, flag="--verbaliser"),
            Checkpoint(command.reconstructor, None, code, flag="--reconstructor"),
            layer=command.layer,
            patches=command.patches,
            seed=command.seed,
            max_new_tokens=command.max_new_tokens,
            prompt=command.prompt,
            self_test=command.self_test,
            progress=progress.say,
            device=device,
        )
        file = command.out / f"{command.image.stem}-described.csv"
        replaced = file.exists()
        write_atomic(file, csv_bytes(described.to_pandas()))
    to_file_or_terminal(140).print(_table(described))
    print_out(f"table: {shown(file)}")
    if cut := sum(not description.complete for description in described.descriptions):
        print_out(f"without the end of an explanation: {cut} of {len(described.patches)}; see --max-new-tokens")
    if replaced:
        print_out(f"replaced, of an earlier image of this name: {file.name}; --out FOLDER keeps both")
    return 0


def _table(described: DescribedPatches) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"layer {described.layer}", title_style="bold", show_lines=True)
    for name in ("patch", "description", "cosine", "explained", "other patch"):
        table.add_column(name, justify="left" if name in ("patch", "description") else "right")
    frame = described.to_pandas()
    for line in frame.to_dict("records"):
        where = ",".join(str(line[name]) for name in ("view", "row", "col"))
        shares = ("–" if line[name] != line[name] else f"{100 * line[name]:.0f} %" for name in ("explained", "other"))
        table.add_row(where, Text(printable(line["description"])), f"{line['cosine']:.2f}", *shares)
    return table


if __name__ == "__main__":
    sys.exit(main())
