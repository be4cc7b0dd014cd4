"""Tables in CSV, Markdown and LaTeX: columns, escaping, long tables; compiled where there is a LaTeX."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import markdown_it
import pandas as pd
import pytest

from lenscore.reports.parts.table_formats import LONG, csv_bytes, csv_text, latex, markdown, write_table
from lenscore.reports.sections import Table
from lenscore.statistics.sources import model_label

HOSTILE = [
    "<script>alert(1)</script>",
    "quo\"te's `code` |pipe|",
    "$x^2$ 100% & _under_ #1 {brace} \\input{/etc/passwd} ~ ^",
    "[link](javascript:alert(1)) ![image](http://example.org/x.png) **bold** ~~gone~~",
    "\u202eevil\u202c 😀 日本 \x00nul\x07 line\nbreak",
    "word" * 2500,
    "- dash -- three --- ?` !` << >> ,, ''",
    "",
]


def hostile_table(lines: int = len(HOSTILE)) -> Table:
    names = [HOSTILE[i % len(HOSTILE)] for i in range(lines)]
    rate = [i / lines for i in range(lines)]
    shown = pd.DataFrame(
        {"Mod|el $": names, "Rate": [f"{100 * one:.0f} % (0–12)" for one in rate], "n": [str(lines)] * lines}
    )
    return Table("hostile", "A <caption> with 5 % & $", pd.DataFrame({"model": names, "rate": rate}), shown)


def test_markdown_is_one_table_without_markup_from_outside() -> None:
    text = markdown(hostile_table())
    html = markdown_it.MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)
    assert html.count("<tr>") == len(HOSTILE) + 1
    assert html.count("<td") == 3 * len(HOSTILE)
    tags = set(re.findall(r"</?(\w+)", html))
    assert tags == {"table", "thead", "tbody", "tr", "th", "td"}  # no link, picture, emphasis, code, script
    cells = [unescape(cell) for cell in re.findall(r'<td(?: style="text-align:(?:right|left)")?>(.*?)</td>', html)]
    assert cells[1] == "0 % (0–12)"
    assert cells[9].startswith("[link](javascript:alert(1)) ![image]")
    assert len(cells[15]) == 60  # cut; the CSV has all of it
    assert 'style="text-align:right">0 % (0–12)' in html
    assert 'style="text-align:left">‹script›' in html or "<td>‹script›" in html


def test_csv_has_every_digit_and_sign() -> None:
    table = hostile_table()
    told = pd.read_csv(pd.io.common.BytesIO(csv_bytes(table.frame)), keep_default_na=False)
    assert told["model"].tolist()[:4] == HOSTILE[:4]
    assert told["model"].tolist()[5] == HOSTILE[5]
    assert told["rate"].tolist() == pytest.approx(table.frame["rate"].tolist(), abs=1e-6)


@pytest.mark.parametrize(
    "text", ["=1+1", "+49", "-x", "@SUM(A1)", "  =1", "\u200b=1", "|cmd", "%0A", "\uff1d1", "=\x1b[31m"]
)
def test_no_cell_or_heading_of_a_csv_begins_like_a_formula(text: str) -> None:
    lines = csv_bytes(pd.DataFrame({text: [text], "n": [-0.5], "word": ["a=b"]})).decode().split("\n")
    assert lines[0].startswith(("'", "\"'"))
    assert lines[1].startswith(("'", "\"'"))
    assert lines[1].endswith(",-0.500000,a=b")  # numbers stay numbers


def test_control_characters_and_bytes_that_are_no_text_are_visible_in_every_format() -> None:
    name = "a\x1b]0;title\x07b\u202ec\nd.png"
    frame = pd.DataFrame({"image": [name, "e\u0301 \u200d 日本\u00a0x"]})
    lines = csv_bytes(frame).decode().splitlines()
    assert lines[1] == r"a\x1b]0;title\x07b\u202ec\nd.png"
    assert lines[2] == "e\u0301 \u200d 日本\u00a0x"
    for text in (markdown(Table("t", "c", frame)), latex(Table("t", "c", frame))):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\ud800-\udfff]", text)
    assert csv_text("bild \udcff.png") == r"bild \udcff.png"  # a byte of a file name that is no UTF-8
    assert model_label("/models/\udcff") == r"\udcff"


def rows_of(source: str) -> list[list[str]]:
    """The cells of the lines between the rules, read strictly: what LaTeX would take for markup may not be there."""
    body = source[source.index("\\toprule") : source.index("\\bottomrule")]
    body = re.sub(r"\\(toprule|midrule|endfirsthead|endhead|endfoot|endlastfoot|caption.*|multicolumn\{.*)", "", body)
    lines = [line for line in re.split(r"\\\\\s*\n", body) if line.strip()]
    allowed = {
        *("textbackslash", "textasciitilde", "textasciicircum", "textquotedbl", "textquotesingle", "textbar", "ldots"),
        *("guilsinglleft", "guilsinglright"),
    }
    for line in lines:
        assert set(re.findall(r"\\([A-Za-z]+)", line)) <= allowed
        rest = re.sub(r"\\[A-Za-z]+\{\}|\\[&%$#_{}]|\{[\[\]-]\}|\$\\(times|pm)\$", "", line)
        assert not re.search(r"[\\%$#_{}~^]", rest), rest
        assert all(ord(sign) < 256 for sign in rest)
    return [[cell.strip() for cell in re.split(r"(?<!\\)&", line)] for line in lines]


def test_latex_is_booktabs_with_numbers_to_the_right() -> None:
    source = latex(hostile_table())
    assert source.startswith("\\begin{table}")
    assert "\\begin{tabular}{lrr}\n\\toprule\n" in source
    assert "\\label{tab:hostile}" in source
    assert all(len(row) == 3 for row in rows_of(source))
    assert len(rows_of(source)) == len(HOSTILE) + 1
    assert rows_of(source)[1][1] == "0 \\% (0--12)"


def test_long_tables_are_broken_over_pages() -> None:
    source = latex(hostile_table(LONG + 5))
    assert source.startswith("\\begin{longtable}{lrr}")
    assert "\\endhead" in source
    assert "\\end{longtable}" in source


def test_every_table_of_a_report_compiles(report, tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        message = "needs pdflatex (apt-get install texlive-latex-recommended)"
        pytest.fail(message) if os.environ.get("CLUSTER_TESTS") == "require" else pytest.skip(message)
    for table in (hostile_table(), hostile_table(LONG + 5)):
        write_table(
            Table(f"{table.name}{len(table.frame)}", table.caption, table.frame, table.shown), tmp_path / "tables"
        )
    shutil.copytree(report.folder / "tables", tmp_path / "tables", dirs_exist_ok=True)
    names = sorted(path.stem for path in (tmp_path / "tables").glob("*.tex"))
    packages = "\\usepackage[T1]{fontenc}\\usepackage{textcomp,booktabs,longtable}"
    inputs = "\n".join(f"\\input{{tables/{name}}}\\clearpage" for name in names)
    document = f"\\documentclass{{article}}{packages}\\begin{{document}}\n{inputs}\n\\end{{document}}\n"
    (tmp_path / "all.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, errors="replace")
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(names) >= 8
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
