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
    for jargon in ("{None}", "[PATH [PATH", "[STR [STR", "no-print-config", "no-no-"):
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
        ("top_k: many", "top_k: found 'many', expected INT"),
        ("top_k: [1, 2]", "top_k: found [1, 2], expected one value"),
        ("top_k: true", "top_k: found True, expected another value (as text it stands in quotes)"),
        ("caption: yes", "caption: found True, expected another value (as text it stands in quotes)"),
        ("top-kk: 3", "no field 'top-kk'; did you mean top_k?"),
        ("entirely: 3", "no field 'entirely'; expected some of caption, contextual_layers"),
        ("dtype: float8", "dtype: found 'float8', expected one of auto, float32, bfloat16, float16"),
        ("self_test: maybe", "self_test: found 'maybe', expected true or false"),
        ("image: [a.png, b.png]", "image: found ['a.png', 'b.png'], expected one value"),
        ("layers: {a: 1}", "layers: found {'a': 1}, expected one value"),
        ("image: [a.png", "line 2: no YAML (expected ',' or ']', but got '<stream end>')"),
    ],
)
def test_a_wrong_setting_names_file_and_field(line, message, capsys, tmp_path):
    (tmp_path / "s.yaml").write_text(f"{line}\n")
    code, _, err = run(capsys, "show", "--model", "m", "--config", tmp_path / "s.yaml")
    assert code == 2
    (told,) = [line for line in err.splitlines() if line != "show: starting"]
    assert told.startswith(f"error: --config {tmp_path}/s.yaml: {message}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "show --dtype fl\x1b[31moat",
            "--dtype: found 'fl\\x1b[31moat', expected one of auto, float32, bfloat16, float16",
        ),
        ("show --quantization=2bit", "--quantization: found '2bit', expected one of none, 8bit, 4bit"),
        ("show --top-k many", "--top-k: found 'many', expected INT"),
        ("judge --max-cost cheap", "--max-cost: found 'cheap', expected FLOAT"),
        ("show --image --model m", "--image: found no value, expected PATH"),
        ("show --no-self-test=3", "--no-self-test: found '3', expected no value"),
        ("show stray\x1b[31m", "found 'stray\\x1b[31m', which belongs to no flag; lens show --help shows all"),
        ("convert a b c", "found 'c', which belongs to no flag; lens convert --help shows all"),
        ("convert a", "DESTINATION is missing; lens convert --help shows what to give"),
        ("status -x", "no flag -x; lens status --help shows all"),
        ("show --config", "--config: expected one argument"),
        ("show --print-config=3", "--print-config: ignored explicit argument '3'"),
    ],
)
def test_wrong_words_are_told_in_one_line_without_control_characters(words, message, capsys):
    verb, *rest = words.split(" ")
    code, _, err = run(capsys, verb, *rest)
    assert code == 2
    assert [line for line in err.splitlines() if line != f"{verb}: starting"] == [f"error: lens {verb}: {message}"]


def test_words_without_a_flag_stand_anywhere_and_numbers_below_0_are_values(capsys):
    _, out, _ = run(capsys, "extract", "--corpus", "a", "b", "--seed", "-3", "--fraction", "-inf", "--print-config")
    made = yaml.safe_load(out)
    assert (made["corpus"], made["seed"], made["fraction"]) == (["a", "b"], -3, float("-inf"))
    code, out, err = run(capsys, "status", "/no-run", "--json", "/none")
    assert (code, out, err) == (2, "", "error: /no-run: not a run folder (no such folder)\n")


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


def test_a_closed_output_is_no_error(tmp_path):
    command = f'exec "$0" -m launch.cli status {tmp_path} >&-'
    done = subprocess.run(["sh", "-c", command, sys.executable], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: not a run folder (no run.json in it)\n"
