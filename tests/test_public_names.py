"""The names of `import lenscore`: these and no others, with their types, also in an installed package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import lenscore

HOUSE = Path(__file__).parents[1]
CALLER = """
import lenscore
reveal_type(lenscore.build_index)
reveal_type(lenscore.open_store)
lenscore.analyze_image(1, "model")
index = lenscore.ContextualIndex.from_store("phrases.zarr")
index.search([], top_k="5")
"""


def test_dir_shows_the_public_names_only() -> None:
    assert dir(lenscore) == sorted(lenscore.__all__)
    for name in lenscore.__all__:
        assert getattr(lenscore, name) is not None
    code = "import sys, lenscore; assert lenscore.__version__; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_type_checker_sees_the_types(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    # With the settings and the cache of `make check`, so that only the caller is read anew.
    settings = ["--config-file", "pyproject.toml", "--cache-dir", ".mypy_cache"]
    command = [sys.executable, "-m", "mypy", *settings, str(tmp_path / "caller.py")]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert "-> lenscore.index.contextual_index.ContextualIndex" in said[0], done.stdout
    assert "-> storage_layouts.embeddings.EmbeddingStore" in said[1]
    assert 'Argument 1 to "analyze_image" has incompatible type "int"' in said[2]
    assert any('Argument "top_k" to "search" of "ContextualIndex" has incompatible type "str"' in line for line in said)


def test_the_wheel_holds_what_the_code_reads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(HOUSE)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("lenscore-*.whl")
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=HOUSE, capture_output=True, text=True, check=True).stdout.split()
    packages = ("storage_layouts/", "lenscore/", "jobs/", "launch/")
    assert {name for name in tracked if name.startswith(packages) and not name.endswith(".md")} <= packed


def test_no_file_name_is_there_twice() -> None:
    floors = ("jobs", "launch", "lenscore", "storage_layouts")
    names = [path.name for floor in floors for path in (HOUSE / floor).rglob("*.py") if path.name != "__init__.py"]
    assert len(names) > 200
    assert {name for name in names if names.count(name) > 1} == set()
