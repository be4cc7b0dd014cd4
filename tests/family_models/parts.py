"""What the tiny models of all families have in common: words, sizes, the language model, the vision encoder."""

from __future__ import annotations

from typing import Any

import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.conftest import WORDS

DEPTH, DIM, HEADS = 4, 32, 4


SIDE, PATCH = 32, 8


INIT = 0.3


Built = tuple[Any, Any]
"""A model and its processor."""


def tokenizer(**special: str) -> hf.PreTrainedTokenizerFast:
    """Words, and the family's special tokens by the names that its processor asks the tokenizer for."""
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*named.values(), *WORDS, *special.values()]))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        **named,
        extra_special_tokens=special,
        model_input_names=["input_ids", "attention_mask"],
    )


QWEN_VISION = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": PATCH}
"""Of the tiny vision encoder in the families of Qwen-VL and GLM-V, which have names of their own for sizes."""


def text_config(kind: type, rows: int, **more: Any) -> Any:
    """The tiny language model of a family; `rows` of the embedding matrix."""
    shape = {
        "vocab_size": rows,
        "hidden_size": DIM,
        "intermediate_size": 2 * DIM,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": INIT,
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return kind(**{**shape, **more})


def vision_config(kind: type, **more: Any) -> Any:
    """The tiny vision encoder of a family."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return kind(**{**shape, "patch_size": PATCH, "initializer_range": INIT, **more})


def rows_for(words: Any) -> int:
    """More rows than the tokenizer has tokens, as in many real checkpoints."""
    return (len(words) // 16 + 1) * 16
