"""Every command in README and docs is read by the parser of its verb; links lead somewhere; the README stays short."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch import cli, flags

HOUSE = Path(__file__).parents[1]
PAGES = [HOUSE / "README.md", HOUSE / "CONTRIBUTING.md", *sorted((HOUSE / "docs").glob("*.md"))]
PLACEHOLDER = "FILLED-IN"


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of the code blocks, fenced or indented."""
    text = page.read_text()
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^    .*\n|^(?=\n    ))+", plain, re.MULTILINE)
    return [*fenced, *(("", re.sub(r"^    ", "", block, flags=re.MULTILINE)) for block in indented)]


def commands() -> list[str]:
    """The lines of code blocks that begin one of our programs, without comments; each once."""
    found = []
    for page in PAGES:
        for language, text in blocks(page):
            if language in ("", "sh", "bash"):
                lines = (re.sub(r"\s+#.*", "", line).strip() for line in text.splitlines())
                found += [line for line in lines if re.match(r"(lens|ray job|accelerate|python|make)\b", line)]
    return list(dict.fromkeys(found))


class Parsed(BaseException):
    """The command line was read; nothing is run."""


@pytest.mark.parametrize("line", [line for line in commands() if re.search(r"\blens \w|launch\.\w", line)])
def test_commands_are_understood(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)
    start = next(i for i, word in enumerate(words) if word == "lens" or word.startswith("launch."))
    verb, rest = (words[start + 1], words[start + 2 :])
    if words[start] != "lens":
        verb, rest = words[start].removeprefix("launch."), words[start + 1 :]
    module = importlib.import_module(f"launch.{verb}")
    assert verb in cli.VERBS
    open_ended = "..." in rest

    def parse(command: type, argv: list[str] | None, prog: str, *completed: object) -> object:
        given = [word for word in argv or [] if word != "..."]
        if open_ended or "--add" in given:  # a store that is not there has these settings
            given += [f"{flag}={PLACEHOLDER}" for flag in flags._missing(command, given)]
        flags.parse(command, given, prog)
        raise Parsed

    for name, found in list(sys.modules.items()):
        if name.startswith("launch.") and getattr(found, "parse", None) is flags.parse and name != "launch.flags":
            monkeypatch.setattr(found, "parse", parse)
    with pytest.raises(Parsed):
        assert module.main(rest) == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", [line for line in commands() if "benchmarks" in line])
def test_benchmarks_exist_with_their_flags(line: str) -> None:
    words = shlex.split(line)
    place = words[2] if words[1] == "-m" else words[1].removesuffix(".py").replace("/", ".")
    spec = importlib.util.find_spec(place)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text()
    for word in words:
        if word.strip("[]").startswith("--"):
            assert f'"{word.strip("[]")}"' in source


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_make_has_the_target(line: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    subprocess.run(["make", "--dry-run", line.split()[1]], cwd=HOUSE, check=True, capture_output=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_and_yaml_are_whole_and_links_lead_somewhere(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            compile(text, str(page), "exec")
        elif language == "yaml":
            assert isinstance(yaml.safe_load(text), dict)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_readme_takes_three_minutes() -> None:
    assert len((HOUSE / "README.md").read_text().split()) <= 700


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((HOUSE / "mkdocs.yml").read_text())["nav"]
    assert sorted(menu) == sorted(page.name for page in (HOUSE / "docs").glob("*.md"))


def test_every_public_name_is_in_the_reference() -> None:
    import lenscore

    reference = re.findall(r"^::: ([\w.]+)$", (HOUSE / "docs" / "api.md").read_text(), re.MULTILINE)
    for dotted in reference:
        module, _, name = dotted.rpartition(".")
        assert hasattr(importlib.import_module(module), name), dotted
    names = {dotted.rpartition(".")[2] for dotted in reference}
    assert set(lenscore.__all__) - {"__version__", "open_store"} <= names
