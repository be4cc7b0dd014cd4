from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lenscore.judging.question_pictures import Picture
from lenscore.judging.questions import Question
from lenscore.judging.spending.prices import BUILT_IN, Patches, Price, Tariff, Tiles, tariff
from storage_layouts.errors import InputError


def picture(width: int, height: int) -> Picture:
    return Picture(Image.new("RGB", (width, height)))


@pytest.mark.parametrize(
    ("rule", "size", "tokens"),
    [
        # Worked examples of OpenAI's guide to images and vision.
        (Tiles(base=85, tile=170), (1024, 1024), 765),
        (Tiles(base=85, tile=170), (2048, 4096), 1105),
        (Patches(patches=1.0, most=1536), (1024, 1024), 1024),
        (Patches(patches=1.62, most=1536), (4000, 1474), 2489),
        (Patches(patches=1.2, most=2500), (33, 32), 3),
    ],
)
def test_images_are_counted_as_documented(rule, size: tuple[int, int], tokens: int) -> None:
    assert rule.tokens(*size) == tokens


def test_a_reply_costs_what_arithmetic_says() -> None:
    price = Price(input=1.25, cached=0.125, output=10.0)
    usage = {"input_tokens": 1000, "cached_tokens": 400, "output_tokens": 50}
    nano = 600 * 1250 + 400 * 125 + 50 * 10_000
    assert Tariff(price).cost(usage) == nano
    assert Tariff(price, 0.5).cost(usage) == nano / 2
    assert Tariff(price, 0.5).cost(usage, discounted=False) == nano


def test_the_worst_case_covers_every_tokenizer() -> None:
    price = Price(input=1.0, output=2.0, images=Tiles(base=85, tile=170))
    question = Question("ab ü" * 100, (picture(512, 512), picture(256, 256)), ("ab",), "p")
    worst = Tariff(price, 0.5).worst(question, 500)
    # A byte a token, four tiles a picture, the whole reply, and no discount.
    assert worst >= 1000 * (5 * 100 + 2 * (85 + 4 * 170)) + 2000 * 500


def test_prices_are_found_by_name_and_the_users_come_first(tmp_path: Path) -> None:
    assert tariff("gpt-5-2025-08-07", "", None).price == tariff("gpt-5", "", None).price
    assert tariff("gpt-5", "batch", None).factor == 0.5
    mine = tmp_path / "mine.yaml"
    mine.write_text("source: me\ndate: 2026-01-02\nmodels:\n  gpt-5: {input: 7, output: 8}\n")
    assert tariff("gpt-5", "", mine).price.input == 7
    assert "mine.yaml, 2026-01-02: me" in tariff("gpt-5", "", mine).source
    assert tariff("gpt-4o", "", mine).price == tariff("gpt-4o", "", None).price
    assert tariff("llama", "", None, free=True).price.input == 0
    with pytest.raises(InputError, match=r"no price is known for the model 'gpt-9'; expected one of gpt-4\.1, "):
        tariff("gpt-9", "", None)
    for text in ("source: x\n", "models: [", "source: me\ndate: 1\nmodels: {a: {input: -1, output: 1}}\n"):
        wrong = mine.with_name(f"wrong{len(text)}.yaml")
        wrong.write_text(text)
        with pytest.raises(InputError, match=r"--prices .*wrong") as refused:
            tariff("gpt-5", "", wrong)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="cannot be read"):
        tariff("gpt-5", "", tmp_path / "nothing.yaml")


def test_the_built_in_prices_say_where_they_are_from() -> None:
    text = BUILT_IN.read_text()
    assert "developers.openai.com" in text
    assert "date: 2026-" in text
