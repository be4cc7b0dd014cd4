"""A tiny language model for chat, loaded."""

from __future__ import annotations

import pytest

from lenscore.models.loading import LanguageModel
from tests.conftest import make_llama, make_tokenizer

CHAT = "<s>{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}is{% endif %}"


@pytest.fixture(scope="session")
def llm() -> LanguageModel:
    tokenizer = make_tokenizer(["the", "red", "green", "blue", "dog", "cat", "is", "on", "user", "assistant"])
    tokenizer.chat_template = CHAT
    return LanguageModel("tiny", make_llama(), tokenizer)
