"""Who is ahead is said by one rule: report and viewer never contradict each other."""

from __future__ import annotations

import pandas as pd
import pytest

from lenscore.reports.parts.rate_differences import lead_sentence
from lenscore.statistics.summary import Summary, lens_ahead, summarise
from lenscore.viewer.summary_sentence import joint_summary_sentence, leading_lens, summary_sentence
from storage_layouts.verdicts import COLUMNS


def summary(images: int, right: dict[str, float], layers: tuple[int, ...] = (0, 8)) -> Summary:
    """A judge run with a patch an image, of which a share is right: evenly spread, other images for every lens."""
    lines = []
    for layer in layers:
        for number, (lens, share) in enumerate(right.items()):
            for image in range(images):
                yes = ((image * 7 + 3 * number) % images) < share * images
                row = dict.fromkeys(COLUMNS, "") | {"image_id": image, "view": 0, "row": 0, "col": 0, "repeat": 0}
                row |= {"layer": layer, "lens": lens, "judge": "truth", "outcome": "yes" if yes else "no"}
                lines.append(row | {"candidates": ("a",), "fitting": ("a",) if yes else ()})
    verdicts = pd.DataFrame(lines, columns=list(COLUMNS))
    return summarise(verdicts, "model", "truth", 5, list(right), {image: f"hash {image}" for image in range(images)})


@pytest.mark.parametrize(
    ("images", "right", "leads"),
    [
        (60, {"latent": 0.1, "logit": 0.8, "embedding": 0.05}, "LogitLens"),
        (60, {"latent": 0.8, "logit": 0.1}, "LatentLens"),
        (20, {"latent": 0.5, "logit": 0.4}, ""),
        (20, {"logit": 0.4, "latent": 0.4}, ""),
        (60, {"second": 0.9, "latent": 0.2}, "second"),
    ],
)
def test_report_and_viewer_name_the_same_lens(images: int, right: dict[str, float], leads: str) -> None:
    found = summary(images, right)
    report, card, page = lead_sentence(found), leading_lens(found), summary_sentence(found)
    if leads:
        assert report.startswith(f"model: {leads} leads ")
        assert card.startswith(f"{leads} leads by ")
        assert page.startswith(f"{leads} leads by ")
        assert "the difference is significant at 2 of 2 layers" in report
    else:
        assert "no lens leads clearly" in report
        assert card == "No lens leads clearly"
        assert page.startswith(card)
    difference = found.leader.difference
    assert (difference.low > 0) == bool(leads)
    assert difference.low <= difference.value <= difference.high


def test_one_lens_leads_nothing() -> None:
    alone = summary(20, {"latent": 0.5})
    assert alone.leader is None
    assert lead_sentence(alone) == leading_lens(alone) == ""


def test_several_models_are_counted_by_the_same_rule() -> None:
    models = [summary(60, {"latent": 0.1, "logit": 0.8}), summary(20, {"latent": 0.5, "logit": 0.4})]
    rates, best, leads = lens_ahead(models)
    assert [lens for lens, _ in rates] == ["logit", "latent"]
    assert (best, leads) == (1, 1)
    assert joint_summary_sentence(models).startswith("LogitLens is ahead in 1 of 2 models, clearly in 1;")
