"""The tokenizer of the shapes world: byte-pair encoding of its texts with a few hundred tokens."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lenscore.shapes.chance import generator
from lenscore.shapes.documents import document
from lenscore.shapes.scenes import sample_scene
from lenscore.shapes.vocabulary import ADJECTIVES, NOUNS

_VOCABULARY_SIZE = 480
UNK, BOS, EOS, PAD, IMAGE = "<unk>", "<s>", "</s>", "<pad>", "<image>"

_ALPHABET = string.ascii_lowercase + string.digits + ".,:;?!'-"


def train_tokenizer(seed: int, documents: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on documents about training scenes.

    Texts of lower- or upper-case letters, digits and common punctuation never give ``<unk>``.
    """
    texts = []
    for index in range(documents):
        scene = sample_scene("train", index, seed)
        segments = document(scene, generator("tokenizer", seed, index))
        texts.append(" ".join(segment.text for segment in segments))
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    # Punctuation is separate, so that a word has the same tokens before a comma and before a space.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        special_tokens=[UNK, BOS, EOS, PAD, IMAGE],
        initial_alphabet=list(_ALPHABET),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[IMAGE],
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def scene_word_ids(tokenizer: Any) -> list[int]:
    """Returns the ids of nouns, colours, textures and sizes that are one token."""
    words = set().union(*(noun.words for noun in NOUNS.values()), *ADJECTIVES.values())
    pieces = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in sorted(words)}
    return sorted(ids[0] for ids in pieces.values() if len(ids) == 1)
