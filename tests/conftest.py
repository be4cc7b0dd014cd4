"""Tiny random models that every floor's tests share: a Llama and the LLaVA made from it, with the same tokenizer."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from launch import report
from launch.clusters import local
from lenscore.models.loading import Vlm, load_vlm
from tests.chromium import browser
from tests.forked_workers import start

__all__ = ["browser"]

TEXT = "a the red green blue small large dog cat house tree car ball on under beside of and is there sky grass"
WORDS = TEXT.split(" ")
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
IMAGE_SIZE, PATCH_SIZE = 32, 8
VOCABULARY_ROWS = 40  # more rows than the tokenizer has tokens, as in many real checkpoints


def pytest_configure() -> None:
    torch.set_num_threads(1)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what it runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)  # so that commands under test hear a Ctrl-C


def make_tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )


def make_llama(seed: int = 0, layers: int = 4, dim: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY_ROWS,
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config).eval()
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 2.0)  # a norm that is not the identity can be forgotten
    return model


def save_llama_with_sink(folder: Path, word: str) -> Path:
    """Save a model whose states of one word are 500 times as long as all others, from its embedding on."""
    model, tokenizer = make_llama(), make_tokenizer()
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] *= 500
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_llava(llama: LlamaForCausalLM) -> LlavaForConditionalGeneration:
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        initializer_range=0.3,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=llama.config.to_dict(),
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
    )
    model = LlavaForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.5)
    return model


def make_processor(image_processor: object = None) -> LlavaProcessor:
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return LlavaProcessor(
        image_processor=image_processor or CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False),
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Self-tests of the tests' models are kept for one session, not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LENSCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _forked_workers(_own_cache: None) -> Iterator[None]:
    """Commands that run in this process fork their local workers from one that has imported torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "subprocess", SimpleNamespace(Popen=start, PIPE=subprocess.PIPE))
        patch.setattr(local.Local, "prepare", lambda *_: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _reports_without_forks() -> Iterator[None]:
    """Reports that are written in this process do not fork it: the libraries that tests load leave threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "MOST_PROCESSES", 1)
        yield


@pytest.fixture(scope="session")
def tiny_llm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 4 blocks, width 32, saved with its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny") / "llm"
    make_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA on the same Llama: 32 pixel images, patches of 8, so 4 x 4 visual tokens."""
    folder = tmp_path_factory.mktemp("tiny") / "vlm"
    make_llava(make_llama()).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vlm(tiny_vlm_folder: Path) -> Vlm:
    """The tiny LLaVA, loaded on the CPU."""
    return load_vlm(tiny_vlm_folder, "cpu")
