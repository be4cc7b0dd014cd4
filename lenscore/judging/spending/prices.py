"""The cost of a question to a paid judge: prices from a data file, tokens of text and images, worst cases.

Costs are in nanodollars (1e-9 dollars): a price of 1.25 dollars per million tokens is 1250 nanodollars per token.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml

from lenscore.judging.questions import Question
from storage_layouts.errors import InputError, first_line

BUILT_IN = Path(__file__).with_name("prices.yaml")
BYTES_PER_TOKEN = 4
"""Of English text, for estimates."""
Tier = Literal["", "flex", "batch"]
TYPICAL_REPLY_TOKENS = 300
"""For estimates; models that reason at length write more."""
OVERHEAD_TOKENS = 600
"""Tokens of a request beside its text and images: the schema of the reply and the marks around messages."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Patches(_Strict):
    """Images that are counted in patches of 32 x 32 pixels."""

    patches: float = pydantic.Field(gt=0)
    most: int = pydantic.Field(gt=0)

    def tokens(self, width: int, height: int) -> int:
        """Tokens of an image of this size in pixels."""
        return math.ceil(min(math.ceil(width / 32) * math.ceil(height / 32), self.most) * self.patches)


class Tiles(_Strict):
    """Images that are counted in tiles of 512 x 512 pixels."""

    base: int = pydantic.Field(ge=0)
    tile: int = pydantic.Field(ge=0)

    def tokens(self, width: int, height: int) -> int:
        """Tokens of an image of this size in pixels."""
        shrink = min(1.0, 2048 / max(width, height))
        scale = shrink * 768 / (min(width, height) * shrink)
        return self.base + self.tile * math.ceil(width * scale / 512) * math.ceil(height * scale / 512)


class Price(_Strict):
    """The price of one model, in dollars per million tokens."""

    input: float = pydantic.Field(ge=0)
    output: float = pydantic.Field(ge=0)
    cached: float | None = pydantic.Field(None, ge=0)
    images: Patches | Tiles = Patches(patches=2.46, most=2500)


class PriceTable(_Strict):
    """A file of prices."""

    source: str
    date: Any
    tiers: dict[Literal["flex", "batch"], float] = {}
    models: dict[str, Price]


@dataclass(frozen=True)
class Tariff:
    """The price of one judge's calls: its model's price, times the factor of its tier."""

    price: Price
    factor: float = 1.0
    source: str = ""

    def cost(self, usage: dict[str, Any], discounted: bool = True) -> int:
        """Nanodollars of a reply with these ``input_tokens``, ``cached_tokens`` and ``output_tokens``."""
        cached = min(usage.get("cached_tokens", 0), usage["input_tokens"])
        cached_price = self.price.input if self.price.cached is None else self.price.cached
        dollars = (usage["input_tokens"] - cached) * self.price.input + cached * cached_price
        dollars += usage["output_tokens"] * self.price.output
        return math.ceil(round(dollars * 1000 * (self.factor if discounted else 1.0), 6))

    def worst(self, question: Question, most_output_tokens: int, discounted: bool = False) -> int:
        """Upper bound of a call in nanodollars: a token of text has one byte or more, the reply is cut off."""
        tokens = len(question.text.encode()) + OVERHEAD_TOKENS + self.image_tokens(question)
        return self.cost({"input_tokens": tokens, "output_tokens": most_output_tokens}, discounted)

    def typical_tokens(self, question: Question) -> dict[str, int]:
        """An estimate of the ``usage`` of a call."""
        text = math.ceil(len(question.text.encode()) / BYTES_PER_TOKEN) + OVERHEAD_TOKENS // 2
        return {"input_tokens": text + self.image_tokens(question), "output_tokens": TYPICAL_REPLY_TOKENS}

    def image_tokens(self, question: Question) -> int:
        """Tokens of the question's images."""
        return sum(self.price.images.tokens(*image.size) for image in question.images)


FREE = Tariff(Price(input=0, output=0, cached=0), source="taken as free: no price was given")


def tariff(model: str, tier: Tier, prices: Path | None, free: bool = False) -> Tariff:
    """The tariff of a model, from the user's price file or else the built-in one.

    A name with a date at its end, as in ``gpt-5-2025-08-07``, has the price of the name without it, unless the file
    lists it.

    Args:
        model: the model.
        tier: its tier, or "".
        prices: the user's price file.
        free: whether the model costs nothing unless the user's file has a price for it.

    Raises:
        InputError: the model has no price, or the file is not a price table.

    """
    undated = re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model)
    for path in filter(None, (prices, None if free else BUILT_IN)):
        table = _read(path)
        for name in (model, undated):
            if name in table.models:
                source = f"{path}, {table.date}: {' '.join(table.source.split())}"
                return Tariff(table.models[name], table.tiers.get(tier, 1.0) if tier else 1.0, source)
    if free:
        return FREE
    known = ", ".join(sorted(_read(BUILT_IN).models))
    raise InputError(
        f"--judge: no price is known for the model {model!r}; expected one of {known}, or a price for it in --prices "
        f"FILE (in the form of {BUILT_IN})"
    )


@lru_cache(maxsize=8)
def _read(path: Path) -> PriceTable:
    try:
        return PriceTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--prices {path}: cannot be read ({first_line(error)})") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"--prices {path}: {where}: {first['msg']}; expected the form of {BUILT_IN}") from None
