"""Scripts of the words over layers: every number is what pandas makes of the Parquet files."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from lenscore.reports import word_scripts
from lenscore.reports.parts.drawing import save_plot
from lenscore.reports.word_scripts import KINDS, NO_LETTER, NOT_LATIN, script_of, scripts_section
from lenscore.statistics.sources import read_sources
from tests.lenscore.reports.recomputed import wilson_over_images
from tests.lenscore.reports.test_words import every_word

WORDS = {
    "café's": "Latin",
    "cafe\u0301": "Latin",
    "犬": "Han",
    "食べる": "Hiragana",
    "コーヒー": "Katakana",
    "한국어": "Hangul",
    "собака": "Cyrillic",
    "λόγος": "Greek",
    "ꦗꦮ": "another script",
    "βeta": "several scripts",
    "3.5": "no letter",
    "😀": "no letter",
    "": "no letter",
    "\ufffd": "part of a character",
    "dog\ufffd": "part of a character",
}


def test_the_script_of_a_word() -> None:
    assert {word: script_of(word) for word in WORDS} == WORDS
    assert set(WORDS.values()) <= set(KINDS)


def test_shares_equal_a_recomputation(judged) -> None:
    section = scripts_section(read_sources([judged[0].path]))
    assert "All words with letters are Latin." in section.text
    assert not section.plots
    words = every_word(judged[0])
    is_latin = words["word"].map(lambda word: any(unicodedata.name(one, "").startswith("LATIN") for one in word))
    (table,) = section.tables
    shares = table.frame.set_index(["script", "lens", "layer"])
    assert set(table.frame["script"]) == {"Latin"} | ({NO_LETTER} if not is_latin.all() else set())
    for (lens, layer), of in is_latin.groupby([words["lens"], words["layer"]]):
        line = shares.loc[("Latin", lens, layer)]
        assert (line["words"], line["count"], line["share"]) == (len(of), of.sum(), pytest.approx(of.mean()))
    of = words[(words["lens"] == "logit") & (words["layer"] == 2)].set_index("image_id")
    values = is_latin[(words["lens"] == "logit") & (words["layer"] == 2)].astype(float).set_axis(of.index)
    line = shares.loc[("Latin", "logit", 2)]
    assert (line["low"], line["high"]) == pytest.approx(wilson_over_images(values, len(values)), abs=1e-6)


def test_other_scripts_are_shown_by_layer_and_said(judged, monkeypatch, tmp_path: Path) -> None:
    scripts = {"star": "Han", "ring": "Cyrillic", "moon": "several scripts"}
    monkeypatch.setattr(word_scripts, "script_of", lambda word: scripts.get(word, "Latin"))
    section = scripts_section(read_sources([judged[0].path]))
    brief, every = section.tables
    words = every_word(judged[0])
    foreign = words["word"].isin(scripts).groupby([words["lens"], words["layer"]]).mean()
    found = brief.frame.set_index(["lens", "layer"])["share"]
    assert found.to_dict() == pytest.approx(foreign.to_dict())
    assert set(every.frame["script"]) == {"Latin", *scripts.values(), NOT_LATIN}
    assert set(every.frame.loc[every.frame["script"] == "Han", "language"]) == {"Chinese or Japanese"}
    (finding,) = section.findings
    assert foreign.max() > 0.1
    assert f"at layer {foreign.idxmax()[1]}: {100 * foreign.max():.0f} % (" in finding
    assert brief.shown["most of them"].str.contains(r"^(?:Han, Chinese or Japanese|Cyrillic|several scripts) \(").all()
    (plot,) = section.plots
    assert all(path.stat().st_size > 500 for path in save_plot(plot, tmp_path))
