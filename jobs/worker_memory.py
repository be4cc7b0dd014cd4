"""Host memory of a worker that holds a model on a CPU: an estimate, so that a machine is not given too many."""

from __future__ import annotations

from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of

PROCESS_BYTES = 3 * 2**28
"""Python, PyTorch, tokenizer and tables; of SmolLM2 550 MiB were measured."""

NUMBERS_IN_A_BLOCK = 16
"""Numbers that a block holds at a time for each token and dimension: attention, and the wide layers of the MLP."""


def worker_bytes(checkpoint: Checkpoint, tokens: int, states: int) -> int | None:
    """The memory of a worker: weights, process, and float32 states.

    Args:
        checkpoint: its weights count in the dtype in which they are held. Those that keep the dtype of the file are
            mapped from it, so workers may share them; they count for each all the same, because conversions of names
            and shapes at loading end that.
        tokens: of a forward pass.
        states: hidden states that are kept at a time.

    Returns:
        Bytes; None if the size of the weights is not known.

    """
    weights = checkpoint.weight_bytes
    if weights is None:
        return None
    numbers = text_config_of(checkpoint.config).hidden_size * (tokens * NUMBERS_IN_A_BLOCK + states)
    return weights + PROCESS_BYTES + 4 * numbers
