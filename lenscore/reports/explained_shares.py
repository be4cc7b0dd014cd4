"""How much of the variance of the states the words of each lens explain, and how that goes with the verdicts of judges.

The numbers are those of `lenscore.lenses.explained_variance`, which runs have with `--explained`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure

from lenscore.readings.lens_titles import title_of
from lenscore.reports.parts.drawing import COLUMN_INCHES, label_text, lens_style
from lenscore.reports.parts.layer_plots import (
    draw_band,
    draw_rates,
    label_figure,
    panels,
    panels_size,
    percent_axis,
    set_layers,
    stacked_panels,
)
from lenscore.reports.parts.table_formats import markdown_text
from lenscore.reports.sections import FINDINGS, Plot, Section, Table
from lenscore.statistics.intervals import clustered_correlation, clustered_mean, share_text
from lenscore.statistics.patch_answers import PATCH
from lenscore.statistics.sources import AnalyzeSource, JudgeSource, Sources
from storage_layouts.tables import matrix_of_lists
from storage_layouts.token_measures import EXPLAINED_NUMBERS

_BOUNDS = ["low", "high"]
EXPLAINED_COLUMNS = ["model", "lens", "layer", "references", "tokens", "share", *_BOUNDS]
EXPLAINED_COLUMNS += ["random", "random_low", "random_high"]
VERDICT_COLUMNS = ["judge", "lens", "layer", "references", "patches", "images", "yes", "share_at_yes", "share_at_no"]
VERDICT_COLUMNS += ["correlation", *_BOUNDS]
LAYER_COLUMNS = ["judge", "lens", "references", "means", "correlation"]
ALL_LENSES = "all lenses"
REFERENCES = (1, 5)
FEWEST = 10
"""Patches with yes, and with no, from which a correlation is computed; the interval of fewer is too narrow."""

_Floats = npt.NDArray[np.float64]


def explained_section(sources: Sources) -> Section | None:
    """The explained variance of all analyze runs that kept it; None without such a run."""
    known = [source for source in sources.analyses if source.results.explained_lenses]
    if not known:
        return None
    shares = pd.concat([measure_shares(source) for source in known], ignore_index=True)
    caption = "Share of the variance of the visual tokens' states that the best candidates explain"
    tables = [Table("explained-variance", f"{caption}, and random ones; 95 % intervals over images.", shares)]
    plots = [
        Plot(
            "explained-variance",
            f"{caption} (five), with 95 % intervals; dotted, random ones.",
            panels_size(len(known)),
            partial(_draw_shares, shares),
            shares,
        )
    ]
    judged = [(source, judge) for source in known for judge in source.judges]
    if judged:
        verdicts = pd.concat([compare_verdicts(*pair) for pair in judged], ignore_index=True)
        correlation = (
            "Correlation of the share of a patch that its candidates explain with the verdict on them (1 or 0)"
        )
        tables += [
            Table("explained-verdicts", f"{correlation}; 95 % intervals over images.", verdicts),
            Table(
                "explained-layers",
                "Correlation of the mean share with the rate of yes, over layers, and over layers and lenses.",
                correlate_layers(verdicts),
            ),
        ]
        plots.append(
            Plot(
                "explained-verdicts",
                f"{correlation}, five candidates, with 95 % intervals.",
                (COLUMN_INCHES, 0.9 + 1.3 * verdicts["judge"].nunique()),
                partial(_draw_correlations, verdicts),
                verdicts,
            )
        )
    text = (
        "A measure without a judge: what sets a token's state apart from the mean over its image, and the share of its "
        "square that the nearest sum of the candidates' vectors, with weights of at least 0, explains. LogitLens and "
        "Tuned Lens compare behind the final norm, the others before it: compare each with its random candidates.\n"
    )
    findings = [_sentence(str(label), found) for label, found in shares.groupby("model", sort=False)]
    return Section("Explained variance", text, tuple(tables), tuple(plots), findings=tuple(findings[:FINDINGS]))


def measure_shares(source: AnalyzeSource) -> pd.DataFrame:
    """Explained variance by lens, layer and number of references; columns `EXPLAINED_COLUMNS`.

    The share of all tokens is that of the sum of their variances.
    """
    results, lines = source.results, []
    for lens in results.explained_lenses:
        table = results.explained(lens)
        _, image = np.unique(table["image_id"].to_numpy(), return_inverse=True)
        numbers = {name: matrix_of_lists(table[name]).astype(np.float64) for name in EXPLAINED_NUMBERS}
        for place in np.argsort(results.layers):
            variances = numbers["variances"][:, place]
            total = np.bincount(image, variances, minlength=1)[:, None]
            for count in REFERENCES:
                line = [source.label, lens, results.layers[place], count, int((variances > 0).sum())]
                for what in ("explained", "random"):
                    explained = variances * np.nan_to_num(numbers[f"{what}_{count}"][:, place])
                    sums = np.bincount(image, explained, minlength=1)[:, None]
                    line += [float(bound[0]) for bound in clustered_mean(sums, total)]
                lines.append(line)
    return pd.DataFrame(lines, columns=EXPLAINED_COLUMNS)


def compare_verdicts(source: AnalyzeSource, judge: JudgeSource) -> pd.DataFrame:
    """Shares of judged patches by verdict, and their correlation with it; columns `VERDICT_COLUMNS`.

    Only verdicts yes or no count, on patches whose variance is not 0. A correlation is NaN with less than `FEWEST` of
    either.
    """
    results, lines = source.results, []
    verdicts = judge.verdicts[(judge.verdicts["control"] == "") & judge.verdicts["outcome"].isin(["yes", "no"])]
    for lens in results.explained_lenses:
        table = results.explained(lens)
        place_of = pd.MultiIndex.from_arrays([table[name].to_numpy() for name in PATCH])
        for place in np.argsort(results.layers):
            layer = results.layers[place]
            found = verdicts[(verdicts["lens"] == lens) & (verdicts["layer"] == layer)]
            if found.empty:
                continue
            at = place_of.get_indexer(pd.MultiIndex.from_frame(found[PATCH]))
            for count in REFERENCES:
                shares = matrix_of_lists(table[f"explained_{count}"])[at, place].astype(np.float64)
                kept = ~np.isnan(shares)
                said, images = (found["outcome"] == "yes").to_numpy()[kept], found["image_id"].to_numpy()[kept]
                shares = shares[kept]
                line = [judge.summary.model, lens, layer, count, len(said), len(np.unique(images)), _mean(said)]
                line += [_mean(shares[said]), _mean(shares[~said])]
                if min(said.sum(), (~said).sum()) < FEWEST:
                    lines.append([*line, *[float("nan")] * 3])
                else:
                    lines.append([*line, *clustered_correlation(shares, said.astype(float), images)])
    return pd.DataFrame(lines, columns=VERDICT_COLUMNS)


def correlate_layers(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Correlations of mean shares with rates of yes, from `compare_verdicts`; columns `LAYER_COLUMNS`.

    Over the layers of each lens, and over all pairs of a layer and a lens (`ALL_LENSES`), whose number is ``means``.
    """
    lines = []
    yes, at_yes, at_no = (verdicts[name] for name in ("yes", "share_at_yes", "share_at_no"))
    frame = verdicts.assign(mean=yes * at_yes.fillna(0) + (1 - yes) * at_no.fillna(0))
    for (judge, count), found in frame.groupby(["judge", "references"], sort=False):
        for lens, some in [*found.groupby("lens", sort=False), (ALL_LENSES, found)]:
            correlation, _, _ = clustered_correlation(some["mean"].to_numpy(), some["yes"].to_numpy(), some["layer"])
            lines.append([judge, lens, count, len(some), correlation])
    return pd.DataFrame(lines, columns=LAYER_COLUMNS)


def _mean(values: _Floats | npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _sentence(label: str, shares: pd.DataFrame) -> str:
    """The most that the five best candidates of each lens explain at a layer."""
    five = shares[shares["references"] == max(REFERENCES)]
    said = []
    for _, line in five.loc[five.groupby("lens", sort=False)["share"].idxmax()].iterrows():
        share = share_text(line["share"], line["low"], line["high"])
        said.append(
            f"{markdown_text(title_of(line['lens']))} {share} at layer {line['layer']} (random words "
            f"{100 * line['random']:.0f} %)"
        )
    return (
        f"{markdown_text(label)}: of the variance of visual tokens' states the five best words explain at most: "
        f"{'; '.join(said)}."
    )


def _draw_shares(frame: pd.DataFrame, figure: Figure) -> None:
    five = frame[frame["references"] == max(REFERENCES)]
    grid = panels(figure, five, "model")
    for axes, of_model in grid:
        lenses = of_model["lens"].unique().tolist()
        for lens, lines in of_model.groupby("lens", sort=False):
            colour, marker = lens_style(str(lens), lenses)
            style = {"marker": marker, "label": label_text(title_of(str(lens)))}
            draw_band(axes, lines["layer"], lines["share"], lines["low"], lines["high"], colour, **style)
            axes.plot(lines["layer"], lines["random"], color=colour, linewidth=0.8, linestyle=(0, (1, 1.2)))
        set_layers(figure, axes, sorted(of_model["layer"].unique().tolist()), len(grid))
        percent_axis(axes)
    label_figure(figure, "visual layer", "explained variance")


def _draw_correlations(frame: pd.DataFrame, figure: Figure) -> None:
    five = frame[frame["references"] == max(REFERENCES)]
    for axes, of_judge in stacked_panels(figure, five, "judge"):
        lenses = of_judge["lens"].unique().tolist()
        for lens, lines in of_judge.groupby("lens", sort=False):
            colour, marker = lens_style(str(lens), lenses)
            draw_rates(axes, lines["layer"], lines[["correlation", *_BOUNDS]].to_numpy().tolist(), colour, marker)
            axes.plot([], [], color=colour, marker=marker, label=label_text(title_of(str(lens))))
        axes.axhline(0, color="#555555", linewidth=0.6)
        set_layers(figure, axes, sorted(of_judge["layer"].unique().tolist()), 1)
    label_figure(figure, "visual layer", "correlation")
