"""What a lens is: score a hidden state against references, keep the k best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.models.loading import Vlm


class Lens(Protocol):
    """A lens as the engine, the jobs and the reports see it; put a class like this into `LENSES` to add one.

    `name` is what results are filed under. `needs_store` says whether it wants contextual embeddings; only then is
    a store opened and its layers put on the device. `ids` says what its candidates are: rows of that store, or tokens
    of the vocabulary. Two more class attributes are optional: `title`, for people, and `unit`, the meaning of its words
    and scores, as in "nearest input embedding · cosine".
    """

    name: ClassVar[str]
    needs_store: ClassVar[bool]
    ids: ClassVar[Literal["rows", "tokens"]]

    @classmethod
    def from_model(cls, vlm: Vlm, index: ContextualIndex | None) -> Lens:
        """Build the lens for one model; `index` is given where `needs_store` is true."""
        ...

    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k best candidates of every state, as a TopK of [len(layers), n, k].

        `states` [len(layers), n, dim] in the model's dtype: the same n tokens at each visual layer, layers[i] being
        the layer of states[i]. Scores must be float32 and computed in float32.
        """
        ...
