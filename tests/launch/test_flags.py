"""Flags, settings files and templates of every command, and what a typing error is told."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
import yaml

from launch import cli, flags
from launch.cli import VERBS


def run(capsys, *words) -> tuple[int, str, str]:
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_names_the_settings_file_and_no_jargon(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert "--config PATH" in out
    assert "--print-config" in out
    for jargon in ("{None}", "[PATH [PATH", "[STR [STR", "no-print-config"):
        assert jargon not in out


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "pipeline"])
def test_a_template_needs_no_flags_and_is_refused_as_it_is(verb, capsys, tmp_path):
    code, out, err = run(capsys, verb, "--print-config")
    assert (code, err) == (0, "")
    template = yaml.safe_load(out)
    (tmp_path / "t.yaml").write_text(out)
    if flags.REQUIRED not in template.values():
        return
    left = next(name for name, value in template.items() if value == flags.REQUIRED)
    code, out, err = run(capsys, verb, "--config", tmp_path / "t.yaml")
    assert code == 2
    assert (
        err == f"error: --config {tmp_path}/t.yaml: {left}: still says REQUIRED; put a value there, or give --{left}\n"
    )


def test_a_template_keeps_what_is_given_already(capsys, tmp_path):
    (tmp_path / "half.yaml").write_text("model: m\nper-token: 3\n")
    _, out, _ = run(capsys, "extract", "--config", tmp_path / "half.yaml", "--limit", 9, "--print-config")
    made = yaml.safe_load(out)
    assert {name: made[name] for name in ("model", "per_token", "limit", "corpus", "out", "workers")} == {
        "model": "m",
        "per_token": 3,
        "limit": 9,
        "corpus": ["REQUIRED"],
        "out": "REQUIRED",
        "workers": None,
    }
    (tmp_path / "made.yaml").write_text(out)
    flags_ = ["--corpus", "c.txt", "--out", "s.zarr"]
    _, out, _ = run(capsys, "extract", "--config", tmp_path / "made.yaml", *flags_, "--print-config")
    assert yaml.safe_load(out) == made | {"corpus": ["c.txt"], "out": "s.zarr"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("top_k: many", "top_k: found 'many', expected a valid integer, unable to parse string as an integer"),
        ("top_k: [1, 2]", "top_k: found [1, 2], expected a valid integer"),
        ("top_k: true", "top_k: found True, expected another value (as text it stands in quotes)"),
        ("caption: yes", "caption: found True, expected another value (as text it stands in quotes)"),
        ("top-kk: 3", "no field 'top-kk'; did you mean top_k?"),
        ("entirely: 3", "no field 'entirely'; expected some of caption, contextual_layers"),
        ("dtype: float8", "dtype: found 'float8', expected 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("self_test: maybe", "self_test: found 'maybe', expected true or false"),
        ("image: [a.png, b.png]", "image: found ['a.png', 'b.png'], expected one value of another type"),
        ("layers: {a: 1}", "layers: found {'a': 1}, expected "),
        ("image: [a.png", "line 2: no YAML (expected ',' or ']', but got '<stream end>')"),
    ],
)
def test_a_wrong_setting_names_file_and_field(line, message, capsys, tmp_path):
    (tmp_path / "s.yaml").write_text(f"{line}\n")
    code, _, err = run(capsys, "show", "--model", "m", "--config", tmp_path / "s.yaml")
    assert code == 2
    (told,) = [line for line in err.splitlines() if line != "show: starting"]
    assert told.startswith(f"error: --config {tmp_path}/s.yaml: {message}")


def test_values_that_yaml_types_otherwise_are_taken(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("layers: [0, -1]\nseed: '7'\nfigure_layers: 3\nself_test: no\nprompt: -x\n")
    _, out, _ = run(capsys, "show", "--model", 1, "--image", 2, "--config", tmp_path / "s.yaml", "--print-config")
    made = yaml.safe_load(out)
    assert [made[name] for name in ("layers", "seed", "figure_layers", "self_test", "prompt", "model", "image")] == [
        "0,-1",
        7,
        "3",
        False,
        "-x",
        "1",
        "2",
    ]


def test_version_help_and_the_nearest_verb(capsys):
    for word in ("--version", "-V", "version"):
        code, out, _ = run(capsys, word)
        assert code == 0
        assert out.startswith(f"lenscore {metadata.version('lenscore')}")
    assert run(capsys, "analyse")[::2] == (2, "error: no verb 'analyse'; did you mean analyze?\n")
    assert run(capsys, "frobnicate")[2].startswith("error: no verb 'frobnicate'; expected one of demo, show")
    code, out, _ = run(capsys, "help")
    assert code == 0
    for told in (*VERBS, "JUDGE_API_KEY", "OPENAI_BASE_URL", "130"):
        assert told in out
    assert "--image PATH" in run(capsys, "help", "show")[1]
    assert run(capsys)[0] == 2


def test_a_reader_that_leaves_is_no_error():
    lens = [sys.executable, "-m", "launch.cli", "status", "--help"]
    with subprocess.Popen(lens, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        command.stdout.close()
        told = command.stderr.read()
    assert told == ""
