"""The terms of a judge run: budget, retries and concurrency. None of them changes a reply, so a run may change them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from storage_layouts.budget import NANODOLLARS
from storage_layouts.errors import InputError


@dataclass(frozen=True)
class RequestPolicy:
    """The terms on which a paid judge is used. Raises InputError that names the flag of a wrong value."""

    max_cost: float | None = None
    """Dollars that this run may spend on paid judges in all; repeat the command with more to go on."""
    no_limit: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Spend whatever it takes."""
    ledger: Path | None = None
    """Folder of requests and replies, which several runs may share; by default RUN/ledger."""
    prices: Path | None = None
    """Your own prices, before the built-in ones (lenscore/judging/spending/prices.yaml)."""
    service_tier: Literal["default", "flex"] = "default"
    """flex is slower and costs half (openai:MODEL only)."""
    concurrency: int = 16
    """Requests under way at the same time, of one worker."""
    request_timeout: float = 600.0
    """Seconds until a request without a reply is given up."""
    retries: int = 6
    """How often a request is repeated after an error that may pass, with growing pauses."""
    resend_unknown: bool = False
    """Send the requests again that were under way when a worker died; they may be paid twice."""
    ask_failed_again: bool = False
    """Ask again what got no reply after all retries; it is a verdict 'failed' until then."""
    poll_seconds: float = 30.0
    """Seconds between two looks at a batch (openai-batch:MODEL only)."""

    def __post_init__(self) -> None:
        if self.max_cost is not None and not 0 < self.max_cost < 1e7:
            raise InputError(f"--max-cost: found {self.max_cost}, expected dollars above 0")
        if self.max_cost is not None and self.no_limit:
            raise InputError("--max-cost and --no-limit: found both, expected one of them")
        for name in ("concurrency", "request_timeout", "poll_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected above 0")
        if self.retries < 0:
            raise InputError(f"--retries: found {self.retries}, expected 0 or more")

    @property
    def limit(self) -> int | None:
        """The limit in nanodollars, rounded down; None for none."""
        return None if self.max_cost is None else int(self.max_cost * NANODOLLARS)
