"""Every stage that takes a seed takes the same ones: whole numbers of 64 bits with a sign, from 0 on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.extract_job import ExtractJob
from jobs.judge_settings import JudgeSettings
from jobs.train_job import TrainJob
from launch.annotate import AnnotateCommand
from launch.show import ShowCommand
from storage_layouts.errors import InputError

HERE = Path()
TAKERS: dict[str, Callable[[int], Any]] = {
    "extract": lambda seed: ExtractJob("m", (HERE,), HERE, seed=seed),
    "judge": lambda seed: JudgeSettings(HERE, HERE, judge="truth", seed=seed),
    "train": lambda seed: TrainJob("m", "v", "d", HERE, seed=seed),
    "show": lambda seed: ShowCommand("m", HERE, seed=seed),
    "annotate": lambda seed: AnnotateCommand(HERE, HERE, seed=seed),
}


@pytest.mark.parametrize("stage", sorted(TAKERS))
def test_a_seed_is_refused_in_one_line(stage: str) -> None:
    take = TAKERS[stage]
    for seed in (0, 2**63 - 1):
        take(seed)
    for seed in (-1, 2**63, 10**26):
        with pytest.raises(InputError, match=rf"--seed: found {seed}, expected 0 to 9223372036854775807"):
            take(seed)
