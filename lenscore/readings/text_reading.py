"""The words of the lenses for every token of a text, as a page or a table shows them."""

from __future__ import annotations

from dataclasses import dataclass

from lenscore.readings.image_reading import LensReading


@dataclass(frozen=True)
class TextReading:
    """One text, its tokens, and the candidates of every lens.

    Attributes:
        name: of the text; untrusted text.
        tokens: the text of each token of the model's input, special ones too; untrusted text.
        token_ids: their ids in the vocabulary.
        prompt_tokens: how many of them were given; the others are the model's own answer.
        layers: ascending.
        depth: number of blocks; layer ``depth`` is the output of the last one.
        lenses: the lenses in their order; their arrays are [layers, tokens, ...].

    """

    name: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    prompt_tokens: int
    layers: tuple[int, ...]
    depth: int
    lenses: tuple[LensReading, ...]

    @property
    def layer_note(self) -> str:
        """Which layer is the output of the last block; "" if it is none of these."""
        return f"layer {self.depth}: the output of the last block" if self.depth in self.layers else ""
