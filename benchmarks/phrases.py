"""Synthetic phrases with the statistics of the published corpus, a tokenizer for them, and random models.

Nothing is downloaded. The published corpus has 2.99 M short phrases of about 7 tokens, with 26,862 distinct tokens, and
gives 306,962 rows at 20 contexts a token; `ZIPF` is the exponent that reproduces this number of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PUBLISHED_PHRASES = 2_990_000
DISTINCT_WORDS = 26_862
ZIPF = 1.43
MEAN_WORDS, LEAST_WORDS = 7, 2
PHRASES_A_BLOCK = 50_000


def make_words(count: int = DISTINCT_WORDS) -> list[str]:
    """Returns distinct words; the first ones, which `phrases` uses most often, are the shortest."""
    syllables = [a + b + c for c in ("", "n", "r", "s") for a in "bdfgklmnprstvz" for b in "aeiou"]
    rng = np.random.default_rng(0)
    words: dict[str, None] = dict.fromkeys(syllables[:70])
    while len(words) < count:
        length = 2 + int(3 * len(words) / count)
        words["".join(syllables[i] for i in rng.integers(len(syllables), size=length))] = None
    return list(words)


def phrases(count: int, seed: int = 0, words: list[str] | None = None) -> Iterator[str]:
    """Yields `count` phrases, a deterministic function of the arguments; a larger count only adds phrases."""
    vocabulary = np.array(words or make_words(), dtype=object)
    weights = np.arange(1, len(vocabulary) + 1, dtype=np.float64) ** -ZIPF
    cumulated = np.cumsum(weights) / weights.sum()
    for block in range(-(-count // PHRASES_A_BLOCK)):
        rng = np.random.default_rng([seed, block])
        lengths = LEAST_WORDS + rng.poisson(MEAN_WORDS - LEAST_WORDS, PHRASES_A_BLOCK)
        drawn = np.minimum(np.searchsorted(cumulated, rng.random(int(lengths.sum()))), len(vocabulary) - 1)
        ends = np.cumsum(lengths)
        here = min(PHRASES_A_BLOCK, count - block * PHRASES_A_BLOCK)
        for end, length in zip(ends[:here].tolist(), lengths[:here].tolist(), strict=True):
            yield " ".join(vocabulary[drawn[end - length : end]])


def write_phrases(path: Path, count: int, seed: int = 0) -> Path:
    """Write a corpus with one phrase in each line."""
    words = make_words()
    with path.open("w", encoding="utf-8") as file:
        for phrase in phrases(count, seed, words):
            file.write(phrase + "\n")
    return path


def make_tokenizer(words: list[str] | None = None) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE in which every word is one token, with a BOS token and padding on the right."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=10 * DISTINCT_WORDS,  # never reached: training ends when every word is one token
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words or make_words(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_input_names=["input_ids", "attention_mask"],
    )


def make_model(
    vocabulary: int, dim: int = 64, layers: int = 8, heads: int = 4, dtype: torch.dtype = torch.float32
) -> Any:
    """Returns a Llama with random weights in eval mode; `layers=32, dim=4096, heads=32` is the size of a 7B model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=11 * dim // 4,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        initializer_range=0.3 if dim < 1024 else 0.02,
        dtype=dtype,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def save_model(folder: Path, **size: Any) -> Path:
    """Write a model folder for `lens extract --model`; `size` as in `make_model`."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(len(tokenizer), **size).save_pretrained(folder)
    return folder


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `model_and_sentences` reads."""
    parser.add_argument("--dim", type=int, default=64, help="width of the random Llama of 8 blocks")
    parser.add_argument("--model", type=Path, help="folder of a real model, in the place of the random one")
    parser.add_argument("--corpus", type=Path, help="real text, of which the first --phrases lines are taken")


def model_and_sentences(folder: Path, arguments: argparse.Namespace, count: int) -> tuple[Path, list[str], str]:
    """Returns the folder of a model, `count` sentences, and what the model is called.

    They are `--model` and the first lines of `--corpus` where these are given, else random ones, made in `folder`.
    """
    if (arguments.model is None) != (arguments.corpus is None):
        raise SystemExit("error: --model and --corpus are given together")
    if arguments.model is None:
        name = f"random Llama, 8 blocks of width {arguments.dim}"
        return save_model(folder / "model", dim=arguments.dim), list(phrases(count)), name
    with arguments.corpus.open(encoding="utf-8") as lines:
        return arguments.model, [line.rstrip("\n") for line in islice(lines, count)], arguments.model.name
