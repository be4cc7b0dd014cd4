"""Host memory of a worker that holds a model on a CPU: an estimate, so that a machine is not given too many."""

from __future__ import annotations

from typing import Any

from lenscore.images.preprocessing import prompt_with_image
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.decoder import text_config_of
from storage_layouts.tables import ROW_GROUP

PROCESS_BYTES = 3 * 2**28
"""Python, PyTorch, tokenizer and tables; of SmolLM2 550 MiB were measured."""

NUMBERS_IN_A_BLOCK = 16
"""Numbers that a block holds at a time for each token and dimension: attention, and the wide layers of the MLP."""


TOKENS_OF_AN_IMAGE = 1024
"""For models whose configuration does not say it."""

COPIES_OF_A_TABLE = 3
"""Of lines that wait for their row group: as they came, together, and as Parquet encodes them."""


def worker_bytes(checkpoint: Checkpoint, tokens: int, states: int, more: int = 0) -> int | None:
    """The memory of a worker: weights, process, and float32 states.

    Args:
        checkpoint: its weights count in the dtype in which they are held. Those that keep the dtype of the file are
            mapped from it, so workers may share them; they count for each all the same, because conversions of names
            and shapes at loading end that.
        tokens: of a forward pass.
        states: hidden states that are kept at a time.
        more: further bytes.

    Returns:
        Bytes; None if the size of the weights is not known.

    """
    weights = checkpoint.weight_bytes
    if weights is None:
        return None
    numbers = text_config_of(checkpoint.config).hidden_size * (tokens * NUMBERS_IN_A_BLOCK + states)
    return weights + PROCESS_BYTES + 4 * numbers + more


def tokens_of_input(checkpoint: Checkpoint, prompt: str) -> tuple[int, int]:
    """Tokens of an image, and of the prompt behind it."""
    ids = checkpoint.tokenizer(prompt_with_image(checkpoint.processor, prompt))["input_ids"]
    return getattr(checkpoint.config, "image_seq_length", None) or TOKENS_OF_AN_IMAGE, len(ids)


def cache_bytes(text_config: Any, tokens: int) -> int:
    """Keys and values of all blocks for a sequence that is generated, as float32."""
    heads = getattr(text_config, "num_attention_heads", None) or 1
    width = getattr(text_config, "head_dim", None) or text_config.hidden_size // heads
    kept = getattr(text_config, "num_key_value_heads", None) or heads
    return 4 * 2 * text_config.num_hidden_layers * tokens * kept * width


def table_bytes(lines: int, k: int) -> int:
    """Lines of results with k candidates that wait to be written, see `storage_layouts.results.result_schema`."""
    return COPIES_OF_A_TABLE * min(lines, ROW_GROUP) * (24 + 10 * k)
