"""The judges, by the SPEC that names them in ``--judge``. Another judge is a class and its entry in `JUDGES`.

``truth.py`` (truth, truth:ASPECT), ``truth_file.py`` (truth:FILE), ``services.py`` (openai:MODEL, openai-batch:MODEL,
http://host:port/v1#MODEL) and ``replay.py`` (replay:FILE) document their SPECs. Several SPECs, with commas between
them, are a panel.
"""

from __future__ import annotations

from lenscore.judging.judges.judge_spec import JudgeSpec
from lenscore.judging.judges.replay import ReplaySpec
from lenscore.judging.judges.services import CompatibleSpec, OpenAIBatchSpec, OpenAISpec
from lenscore.judging.judges.shapes_truth import TruthJudge
from lenscore.judging.judges.truth_file import ObjectsSpec
from storage_layouts.errors import InputError

JUDGES: tuple[type[JudgeSpec], ...] = (ObjectsSpec, TruthJudge, OpenAISpec, OpenAIBatchSpec, CompatibleSpec, ReplaySpec)
"""Every judge that `--judge` accepts."""


def read_specs(judge: str) -> tuple[JudgeSpec, ...]:
    """The judges of a run; several are a panel. Raises InputError for one that does not exist, or is named twice."""
    specs = tuple(_read(spec.strip()) for spec in judge.split(","))
    twice = [one.spec for one in specs if specs.count(one) > 1]
    if twice:
        raise InputError(f"--judge {twice[0]}: named twice; --repeats asks one judge several times")
    truths = [one.spec for one in specs if one.reads_scenes]
    if len(truths) > 1:
        raise InputError(
            f"--judge {','.join(truths)}: {len(truths)} truths; expected one, judge the others on their own"
        )
    return specs


def _read(spec: str) -> JudgeSpec:
    found = next((read for kind in JUDGES if (read := kind.read(spec)) is not None), None)
    if found is None:
        *first, last = (kind.grammar for kind in JUDGES)
        raise InputError(f"--judge {spec}: no such judge; expected {', '.join(first)}, or {last}")
    return found
