"""The kinds of words that the lenses find: concreteness, visual attributes and parts of speech over layers.

All candidates of all analysed patches count, not only those of judged patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, lens_style
from lenscore.reports.parts.layer_plots import (
    GREY,
    draw_band,
    draw_stacks,
    label_figure,
    panels,
    panels_size,
    percent_axis,
    set_bars,
    set_layers,
    stacked_panels,
)
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.parts.word_property_sums import PropertyTable, WordSums, add_up_words
from lenscore.reports.sections import Plot, Section, Table
from lenscore.statistics.file_names import file_name
from lenscore.statistics.sources import Sources
from lenscore.statistics.summary import left_out_of_means
from lenscore.statistics.word_lists import ATTRIBUTES, PARTS_OF_SPEECH, WordLists

CONCRETENESS_COLUMNS = ["model", "lens", "layer", "words", "found", "found_share", "mean", "low", "high"]
ATTRIBUTE_COLUMNS = ["model", "lens", "layer", "attribute", "words", "count", "share", "low", "high"]
PART_COLUMNS = ["model", "lens", "layer", "part_of_speech", "words", "count", "share", "low", "high"]
NOT_IN_LIST = "not in the list"

_SHOWN_MODELS = 2
"""Up to this many models, report.md shows the figures of each; further figures are linked."""

_RATING, _RATED, _TAGGED, _FIRST_LABEL = 0, 1, 2, 3
_LABELS = (*ATTRIBUTES, *PARTS_OF_SPEECH)
_PART_COLOURS = dict(
    zip(
        (*PARTS_OF_SPEECH, NOT_IN_LIST),
        ("#0072b2", "#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#555555", "#999999", GREY),
        strict=True,
    )
)


def words_section(sources: Sources) -> Section | None:
    """The words of all analyze runs; None without any."""
    if not sources.analyses:
        return None
    lists = sources.word_lists
    table = PropertyTable(partial(_properties, lists), _FIRST_LABEL + len(_LABELS), [_RATING])
    sums = {source.label: add_up_words(source.results, table) for source in sources.analyses}
    concreteness = pd.concat([_concreteness(label, found) for label, found in sums.items()], ignore_index=True)
    attributes, parts = (
        pd.concat([_shares(label, found, names, columns) for label, found in sums.items()], ignore_index=True)
        for names, columns in ((ATTRIBUTES, ATTRIBUTE_COLUMNS), (PARTS_OF_SPEECH, PART_COLUMNS))
    )
    plots = [
        Plot(
            "concreteness",
            "Mean concreteness of the words that the list knows (1 an idea, 5 a thing), with 95 % intervals, "
            f"by {lists.concreteness.source}; above, the share that it knows, by lens.",
            panels_size(len(sums)),
            partial(_draw_concreteness, concreteness),
            concreteness,
        )
    ]
    by_model = (frame.groupby("model", sort=False) for frame in (attributes, parts))
    for (label, named), (_, tagged) in zip(*by_model, strict=True):
        plots += [
            Plot(
                f"attributes-{file_name(str(label))}",
                f"{label}: words that name a colour, a shape or a texture, by {lists.attributes.source}.",
                (COLUMN_INCHES, 3.9),
                partial(_draw_attributes, named),
                named,
            ),
            Plot(
                f"parts-of-speech-{file_name(str(label))}",
                f"{label}: parts of speech of the words, by {lists.parts_of_speech.source}.",
                (COLUMN_INCHES, 0.9 + 1.15 * tagged["lens"].nunique()),
                partial(_draw_parts, tagged),
                tagged,
            ),
        ]
    tables = (
        Table("concreteness", "Mean concreteness of the words found in the list.", concreteness),
        Table("attributes", "Shares of the words that name a colour, a shape or a texture.", attributes),
        Table("parts-of-speech", "Shares of the words by part of speech; the rest is in no list.", parts),
    )
    known = {source.label: source.results.mean_layers for source in sources.analyses}
    overview = _overview(*(_of_layers(frame, known) for frame in (concreteness, attributes, parts)))
    note = left_out_of_means(source.results for source in sources.analyses).replace("Means", "Sums")
    caption = f"Words over all layers; shares are of all words. {note}".rstrip()
    brief = Table("words", caption, overview, _overview_shown(overview))
    details = tuple(plots[1:]) if len(sums) > _SHOWN_MODELS else ()
    return Section("Words over layers", _text(lists), (brief, *tables), tuple(plots), (brief,), details=details)


def _properties(lists: WordLists, words: Sequence[str]) -> npt.NDArray[np.float64]:
    """The columns rating (or 0), has a rating (1 or 0), has a part of speech (1 or 0), then one for each label."""
    ratings, tags, attributes = lists.concreteness.values, lists.parts_of_speech.values, lists.attributes.values
    values = np.zeros((len(words), _FIRST_LABEL + len(_LABELS)))
    for line, word in zip(values, words, strict=True):
        line[:_FIRST_LABEL] = ratings.get(word, 0.0), word in ratings, word in tags
        for label in (*attributes.get(word, ()), *tags.get(word, ())):
            line[_FIRST_LABEL + _LABELS.index(label)] = 1
    return values


def _concreteness(label: str, sums: WordSums) -> pd.DataFrame:
    means = sums.means({"rating": _RATING}, _RATED).rename(columns={"counted": "found"})
    means = means.assign(model=label, found_share=means["found"] / means["words"].where(means["words"] > 0))
    return means[CONCRETENESS_COLUMNS]


def _shares(label: str, sums: WordSums, names: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """The shares of labels, in the order lens, layer, label."""
    means = sums.means({name: _FIRST_LABEL + _LABELS.index(name) for name in names}, bounds=(0, 1)).assign(model=label)
    found = means[["model", "lens", "layer", "name", "words", "sum", "mean", "low", "high"]]
    return found.set_axis(list(columns), axis="columns")


def _draw_concreteness(frame: pd.DataFrame, figure: Figure) -> None:
    grid = panels(figure, frame, "model")
    for axes, of_model in grid:
        _draw_lenses(axes, of_model, "mean")
        set_layers(figure, axes, sorted(of_model["layer"].unique().tolist()), len(grid))
        found = of_model.groupby("lens", sort=False)[["found", "words"]].sum()
        title = f"words found: {' / '.join(_percent(part / max(whole, 1)) for part, whole in found.to_numpy())}"
        axes.set_title("\n".join([axes.get_title(), title] if len(grid) > 1 else [title]), fontsize=6.5)
    label_figure(figure, "visual layer", "mean concreteness (1–5)")


def _draw_attributes(frame: pd.DataFrame, figure: Figure) -> None:
    for axes, of_name in stacked_panels(figure, frame, "attribute", share_y=False):
        _draw_lenses(axes, of_name, "share")
        set_layers(figure, axes, sorted(of_name["layer"].unique().tolist()), 1)
        axes.set_ylim(0, max(0.01, 1.08 * float(of_name["high"].fillna(of_name["share"]).max())))
        percent_axis(axes)
    label_figure(figure, "visual layer", "share of the words")


def _draw_parts(frame: pd.DataFrame, figure: Figure) -> None:
    for axes, of_lens in stacked_panels(figure, frame, "lens", title_of):
        shares = of_lens.pivot_table(index="layer", columns="part_of_speech", values="share")
        stacks = {name: shares[name].to_numpy() for name in PARTS_OF_SPEECH if _has(frame, name)}
        draw_stacks(axes, stacks | {NOT_IN_LIST: 1 - sum(stacks.values(), np.zeros(len(shares)))}, _PART_COLOURS)
        set_bars(axes, list(shares.index))
    label_figure(figure, "visual layer", "share of the words")


def _has(frame: pd.DataFrame, part: str) -> bool:
    return bool(frame.loc[frame["part_of_speech"] == part, "count"].sum())


def _draw_lenses(axes: Axes, frame: pd.DataFrame, value: str) -> None:
    lenses = list(frame["lens"].unique())
    for lens in lenses:
        colour, marker = lens_style(lens, lenses)
        lines = frame[frame["lens"] == lens].sort_values("layer")
        band = lines["layer"], lines[value], lines["low"], lines["high"]
        draw_band(axes, *band, colour, marker=marker, label=title_of(lens))


def _of_layers(frame: pd.DataFrame, known: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """The lines of some layers of each model."""
    return frame[[layer in known[model] for model, layer in zip(frame["model"], frame["layer"], strict=True)]]


def _overview(concreteness: pd.DataFrame, attributes: pd.DataFrame, parts: pd.DataFrame) -> pd.DataFrame:
    """One line per model and lens, over all layers."""
    by = ["model", "lens"]
    weighted = concreteness.assign(total=concreteness["mean"] * concreteness["found"])
    sums = weighted.groupby(by, sort=False)[["words", "found", "total"]].sum()
    words = sums["words"].clip(lower=1)
    lines = sums[["words"]].assign(concreteness=sums["total"] / sums["found"], rated=sums["found"] / words)
    for frame, column, names in ((attributes, "attribute", ATTRIBUTES), (parts, "part_of_speech", PARTS_OF_SPEECH)):
        counts = frame.groupby([*by, column])["count"].sum().unstack(column)
        lines = lines.join(counts[list(names)].div(words, axis="index"))
    return lines.assign(tagged=lines[list(PARTS_OF_SPEECH)].sum(axis="columns")).reset_index()


def _overview_shown(overview: pd.DataFrame) -> pd.DataFrame:
    ratings = [
        f"{rating:.2f} ({_percent(share)} found)" if share else "–"
        for rating, share in zip(overview["concreteness"], overview["rated"], strict=True)
    ]
    shares = {name: overview[name].map(_percent) for name in ATTRIBUTES}
    shares |= {f"{part}s": overview[part].map(_percent) for part in ("noun", "verb", "adjective", "function word")}
    return pd.DataFrame(
        {
            "model": overview["model"],
            "lens": overview["lens"].map(title_of),
            "words": overview["words"].map("{:,}".format),
            "concreteness": ratings,
            **shares,
            "not in the list": (1 - overview["tagged"]).map(_percent),
        }
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def _text(lists: WordLists) -> str:
    used = {
        "concreteness": lists.concreteness.source,
        "attributes": lists.attributes.source,
        "parts of speech": lists.parts_of_speech.source,
    }
    sources = "; ".join(f"{name}: {markdown_text(source)}" for name, source in used.items())
    text = (
        "All candidates of all analysed patches, as whole words where a sentence is known. Shares are of all words; "
        "mean concreteness is of the words found in the list, so compare it only beside the share found. Intervals are "
        f"95\u00a0%, over images. Lists: {sources}.\n"
    )
    if lists.has_own:
        text += (
            "\nOur own lists are small and coarse (English, ratings in whole numbers from 1, an idea, to 5, a thing "
            "one can touch); for a paper give published norms with `--concreteness`, `--parts-of-speech` and "
            "`--attributes`.\n"
        )
    return text
