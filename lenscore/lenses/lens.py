"""The protocol of a lens: score a hidden state against references, keep the k best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from lenscore.index.contextual_index import ContextualIndex
from lenscore.index.topk import TopK
from lenscore.models.loading import LanguageModel


class Lens(Protocol):
    """A lens as the engine, the jobs and the reports use it; add such a class to `LENSES`.

    Attributes:
        name: key of its results.
        needs_store: whether it needs contextual embeddings; only then a store is opened and put on the device.
        ids: whether its candidates are rows of that store, or tokens of the vocabulary.
        title, unit: optional, shown to people: its title, and the meaning of its words and scores, as in "nearest input
            embedding · cosine".

    """

    name: ClassVar[str]
    needs_store: ClassVar[bool]
    ids: ClassVar[Literal["rows", "tokens"]]

    @classmethod
    def from_model(cls, llm: LanguageModel, index: ContextualIndex | None) -> Lens:
        """Build the lens for one model; `index` is given if `needs_store` is true."""
        ...

    def top(self, states: Tensor, layers: Sequence[int], k: int) -> TopK:
        """The k best candidates of every state, as a TopK of [len(layers), n, k].

        `states` [len(layers), n, dim] in the model's dtype: the same n tokens at each visual layer, states[i] at
        layers[i]. Scores are float32 and computed in float32.
        """
        ...
