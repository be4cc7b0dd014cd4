"""The scripts of the words that the lenses find (Latin, Han, Cyrillic, ...), over layers: where words are not English.

All candidates of all analysed patches count. A script is that of Unicode; it says the language only where one language
alone is written in it. Latin words are in any language: a word of a few letters does not tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from fontTools import unicodedata as unicode_scripts
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.readings.words import FRAGMENT
from lenscore.reports.parts.drawing import lens_style
from lenscore.reports.parts.layer_plots import draw_band, label_figure, panels, panels_size, percent_axis, set_layers
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.parts.word_property_sums import PropertyTable, WordSums, add_up_words
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.sources import Sources

COLUMNS = ["model", "lens", "layer", "script", "language", "words", "count", "share", "low", "high"]
LATIN, OTHER, MIXED, NO_LETTER, PART = "Latin", "another script", "several scripts", "no letter", "part of a character"
NOT_LATIN = "not Latin"
LANGUAGES = {
    "Han": "Chinese or Japanese",
    "Hiragana": "Japanese",
    "Katakana": "Japanese",
    "Hangul": "Korean",
    "Greek": "Greek",
    "Thai": "Thai",
    "Georgian": "Georgian",
    "Armenian": "Armenian",
    "Cyrillic": "",
    "Arabic": "",
    "Hebrew": "",
    "Devanagari": "",
    "Bengali": "",
    "Tamil": "",
    "Telugu": "",
}
"""Scripts that are named, with the language of nearly all that is written in them today; "" for several languages."""
KINDS = (LATIN, *LANGUAGES, OTHER, MIXED, NO_LETTER, PART)
_FOREIGN = KINDS.index(LATIN) + 1, KINDS.index(MIXED) + 1  # from the first named script to words of several
_WORTH_SAYING = 0.01


def script_of(word: str) -> str:
    """Returns one of `KINDS`: the script of the letters of a word.

    Han together with kana is the script of the kana. A part of a character's bytes is `PART`, whatever is beside it.
    """
    if FRAGMENT in word:
        return PART
    scripts = {script for script in map(_script, word) if script}
    if len(scripts) > 1:
        scripts.discard("Han" if scripts & {"Hiragana", "Katakana"} else "")
    if not scripts:
        return NO_LETTER
    (script,) = scripts if len(scripts) == 1 else (MIXED,)
    return script if script in KINDS else OTHER


@cache
def _script(character: str) -> str:
    """The script of a character; "" for what all scripts share, such as digits and punctuation."""
    code = unicode_scripts.script(character)
    return "" if code in ("Zyyy", "Zinh", "Zzzz") else str(unicode_scripts.script_name(code))


def scripts_section(sources: Sources) -> Section | None:
    """The scripts of the words of all analyze runs; None without any."""
    if not sources.analyses:
        return None
    properties = PropertyTable(_properties, len(KINDS) + 1, [])
    sums = [(source.label, add_up_words(source.results, properties)) for source in sources.analyses]
    shares = pd.concat([_shares(label, found) for label, found in sums], ignore_index=True)
    foreign = shares[shares["script"] == NOT_LATIN]
    there = shares.groupby("script")["count"].transform("sum") > 0
    table = Table("scripts", "Shares of the words by script; 95 % intervals over images.", shares[there])
    if not foreign["count"].any():
        return Section("Scripts of the words", f"{_TEXT}\nAll words with letters are Latin.\n", (table,))
    plot = Plot(
        "scripts",
        "Share of the words that are written in another script than Latin, with 95 % intervals.",
        panels_size(len(sums)),
        partial(_draw, foreign),
        foreign,
    )
    brief = Table("scripts-by-layer", "Words in other scripts than Latin.", foreign, _shown(foreign, shares))
    findings = _findings(foreign, shares)
    return Section("Scripts of the words", _TEXT, (brief, table), (plot,), (brief,), findings=findings)


_TEXT = (
    "Which script the words are written in: all candidates of all analysed patches, as whole words where a sentence is "
    "known; shares are of all words, 95\u00a0% intervals over images. Script is that of Unicode. It tells the language "
    "where nearly all that is written in it is of one (kana, Hangul, Greek, Thai, Georgian, Armenian); the language of "
    "words in Latin, Cyrillic, Arabic and other shared scripts is not told, because a word of a few letters does not "
    "tell it. A word without letters (digits, punctuation) has no script, and neither has a token that is a part of a "
    "character's bytes.\n"
)


def _properties(words: Sequence[str]) -> npt.NDArray[np.float64]:
    """A 1 for the kind of the word, and in the last column for a script that is not Latin."""
    values = np.zeros((len(words), len(KINDS) + 1))
    for line, word in zip(values, words, strict=True):
        kind = KINDS.index(script_of(word))
        line[kind] = 1
        line[-1] = _FOREIGN[0] <= kind < _FOREIGN[1]
    return values


def _shares(label: str, sums: WordSums) -> pd.DataFrame:
    """The shares in the order lens, layer, script."""
    names = {name: column for column, name in enumerate((*KINDS, NOT_LATIN))}
    means = sums.means(names, bounds=(0, 1))
    means = means.assign(model=label, language=means["name"].map(LANGUAGES).fillna(""))
    return means[["model", "lens", "layer", "name", "language", "words", "sum", "mean", "low", "high"]].set_axis(
        COLUMNS, axis="columns"
    )


def _most(shares: pd.DataFrame, line: pd.Series) -> str:
    """The most frequent other script of a model, lens and layer, with its share; "" if there is none."""
    of = shares[(shares["model"] == line["model"]) & (shares["lens"] == line["lens"])]
    of = of[(of["layer"] == line["layer"]) & of["script"].isin(KINDS[slice(*_FOREIGN)])]
    for _, first in of[of["count"] > 0].nlargest(1, "count").iterrows():
        language = f", {first['language']}" if first["language"] else ""
        return f"{first['script']}{language} ({_percent(first['share'])})"
    return ""


def _shown(foreign: pd.DataFrame, shares: pd.DataFrame) -> pd.DataFrame:
    parts = shares[shares["script"].isin([NO_LETTER, PART])].groupby(["model", "lens", "layer"], sort=False)["share"]
    return pd.DataFrame(
        {
            "model": foreign["model"],
            "lens": foreign["lens"].map(title_of),
            "layer": foreign["layer"].astype(str),
            "words": foreign["words"].map("{:,}".format),
            NOT_LATIN: [_interval(line) for _, line in foreign.iterrows()],
            "most of them": [_most(shares, line) or "–" for _, line in foreign.iterrows()],
            "without a script": [_percent(share) for share in parts.sum()],
        }
    )


def _findings(foreign: pd.DataFrame, shares: pd.DataFrame) -> tuple[str, ...]:
    """Where words of other scripts are most frequent, of each model in which they are worth saying."""
    said = []
    for label, of_model in foreign.groupby("model", sort=False):
        known = of_model.dropna(subset=["share"])
        if known.empty or known["share"].max() < _WORTH_SAYING:
            continue
        for _, most in known.nlargest(1, "share").iterrows():
            said.append(
                f"{markdown_text(str(label))}: words in other scripts than Latin are most frequent with "
                f"{markdown_text(title_of(most['lens']))} at layer {most['layer']}: {_interval(most)} of its words, "
                f"most of them {_most(shares, most)}."
            )
    return tuple(said) if len(said) <= FINDINGS else ()


def _draw(frame: pd.DataFrame, figure: Figure) -> None:
    grid = panels(figure, frame, "model")
    for axes, of_model in grid:
        lenses = list(of_model["lens"].unique())
        for lens in lenses:
            colour, marker = lens_style(lens, lenses)
            lines = of_model[of_model["lens"] == lens].sort_values("layer")
            band = lines["layer"], lines["share"], lines["low"], lines["high"]
            draw_band(axes, *band, colour, marker=marker, label=title_of(lens))
        set_layers(figure, axes, sorted(of_model["layer"].unique().tolist()), len(grid))
        axes.set_ylim(bottom=0)
        percent_axis(axes)
    label_figure(figure, "visual layer", "share of the words")


def _interval(line: pd.Series) -> str:
    return f"{_percent(line['share'])} ({_percent(line['low'])}–{_percent(line['high'])})"


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"
