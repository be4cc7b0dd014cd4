"""Conversion both ways, against the original files and against states computed anew."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import lenscore
from launch import analyze, convert, verify
from storage_layouts import cache_conversion
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults
from tests.causal_families import causal_lm
from tests.conftest import WORDS, make_llama, make_tokenizer
from tests.forked_workers import run
from tests.run_bytes import bytes_of
from tests.synthetic_run import GRID, LAYERS, LENSES, make_results

HOUSE = Path(__file__).parents[2]
SENTENCES = [f"{a} {b} {a} {c}" for a in WORDS[:5] for b in WORDS[5:9] for c in WORDS[9:12]]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of the tiny Llama, three layers, float32."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    index = lenscore.build_index(
        "tiny", SENTENCES, [1, 2, 3], model=make_llama(), tokenizer=make_tokenizer(), show_progress=False
    )
    index.save(folder, torch.float32)
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    found = convert.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert found == code, err
    assert "Traceback" not in err
    return err if code else out


@pytest.mark.parametrize("encoding", ["float8_e4m3fn", "int8", "float16", "float32"])
def test_a_cache_becomes_a_store_and_a_cache_again(cache, tmp_path, capsys, encoding) -> None:
    store, back = tmp_path / "store.zarr", tmp_path / "back"
    said = told(capsys, cache, store, "--encoding", encoding)
    assert "layers 1, 2, 3" in said
    assert verify.main([str(store)]) == 0
    told(capsys, store, back, "--dtype", "float32")
    for layer in (1, 2, 3):
        before, after = (torch.load(f / f"layer_{layer}/embeddings_cache.pt", weights_only=True) for f in (cache, back))
        assert after["metadata"] == before["metadata"]
        tolerance = {"float8_e4m3fn": 0.05, "int8": 0.01, "float16": 1e-3, "float32": 1e-7}[encoding]
        assert (after["embeddings"] - before["embeddings"]).abs().max() <= tolerance
    before, after = (lenscore.ContextualIndex.from_directory(folder) for folder in (cache, store))
    queries = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    if encoding == "float32":
        assert after.search(queries) == before.search(queries)


def test_only_some_layers_and_some_rows(cache, tmp_path, capsys) -> None:
    """A layer that lacks rows, as published caches do, takes them out of the store, and it is said."""
    ragged = tmp_path / "ragged"
    for layer in (1, 2):
        content = torch.load(cache / f"layer_{layer}/embeddings_cache.pt", weights_only=True)
        kept = [row for row in range(len(content["metadata"])) if layer == 1 or row % 5]
        (ragged / f"layer_{layer}").mkdir(parents=True)
        torch.save(
            {"embeddings": content["embeddings"][kept].half(), "metadata": [content["metadata"][row] for row in kept]},
            ragged / f"layer_{layer}/embeddings_cache.pt",
        )
    said = told(capsys, ragged, tmp_path / "store.zarr", "--encoding", "float32")
    rows = len(torch.load(cache / "layer_1/embeddings_cache.pt", weights_only=True)["metadata"])
    left_out = len(range(0, rows, 5))
    assert f"left out {left_out} rows of layer 1" in said
    whole, store = (
        lenscore.ContextualIndex.from_directory(folder, layers=[1]) for folder in (cache, tmp_path / "store.zarr")
    )
    assert len(store) == len(whole) - left_out
    probe = next(whole.blocks(1))[1:2]
    assert store.search(probe, 1)[0][0].caption == whole.search(probe, 1)[0][0].caption
    assert "layers 3" in told(capsys, cache, tmp_path / "third.zarr", "--layers", "3")
    assert EmbeddingStore.open(tmp_path / "third.zarr").layers == (3,)


def test_with_its_model_a_converted_store_can_be_analysed(
    cache, tiny_llm_folder, tiny_vlm_folder, tmp_path, capsys
) -> None:
    from lenscore.shapes import write_images

    store = tmp_path / "store.zarr"
    told(capsys, cache, store, "--model", tiny_llm_folder)
    table = EmbeddingStore.open(store).row_table().to_pylist()
    texts = EmbeddingStore.open(store).sentences()["text"].to_pylist()
    tokenizer = make_tokenizer()
    for row in table:  # the third word is the first one again, so a search for its text would find the wrong place
        text = texts[row["sentence_id"]]
        assert (row["char_start"], row["char_end"]) == tuple(
            tokenizer(text, return_offsets_mapping=True)["offset_mapping"][row["position"]]
        )
    write_images(tmp_path / "images", "test", 2)
    flags = ["--model", tiny_vlm_folder, "--images", tmp_path / "images", "--lenses", "latent"]
    command = [*flags, "--store", store, "--out", tmp_path / "run"]
    assert analyze.main([str(flag) for flag in command]) == 0
    nameless = tmp_path / "nameless.zarr"
    told(capsys, cache, nameless)
    command = [*flags, "--store", nameless, "--out", tmp_path / "other"]
    assert analyze.main([str(flag) for flag in command]) == 2
    assert "convert again with `lens convert --model`" in capsys.readouterr().err


def test_a_cache_whose_layers_are_outputs_of_blocks_is_refused_as_such(tmp_path, capsys) -> None:
    """As latentlens makes them of Mamba: its layer 1 is layer 2 here."""
    model = causal_lm("mamba")
    model.save_pretrained(tmp_path / "mamba")
    make_tokenizer().save_pretrained(tmp_path / "mamba")
    index = lenscore.build_index("any", SENTENCES, [1, 2], model=model, tokenizer=make_tokenizer(), show_progress=False)
    index.save(tmp_path / "ours", torch.float32)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours" / "layer_2").rename(tmp_path / "theirs" / "layer_1")
    told(capsys, tmp_path / "ours", tmp_path / "ours.zarr", "--model", tmp_path / "mamba", "--layers", "1")
    said = told(capsys, tmp_path / "theirs", tmp_path / "theirs.zarr", "--model", tmp_path / "mamba", code=2)
    assert "the cache's layer 1 holds outputs of block 1, which are layer 2 here (latentlens counts so in Mamba" in said


def test_an_interrupted_conversion_goes_on_and_ends_with_the_same_bytes(cache, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(cache_conversion, "ROWS_PER_SHARD", 16)
    told(capsys, cache, tmp_path / "whole.zarr")
    write_shard, calls = EmbeddingStore.write_shard, []

    def killed(self, shard, layers):
        def until_killed():
            for layer, encoded in layers:
                calls.append((layer, shard.index))
                if len(calls) == 5:  # the second shard's second layer
                    raise KeyboardInterrupt
                yield layer, encoded

        return write_shard(self, shard, until_killed())

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddingStore, "write_shard", killed)
        told(capsys, cache, tmp_path / "cut.zarr", code=130)
    assert len(EmbeddingStore.open(tmp_path / "cut.zarr", allow_incomplete=True).run.done()) == 1
    told(capsys, cache, tmp_path / "cut.zarr")
    assert bytes_of(tmp_path / "whole.zarr") == bytes_of(tmp_path / "cut.zarr")
    assert "smallest cosine" in told(capsys, cache, tmp_path / "cut.zarr")  # complete: only compared again


def test_another_model_is_refused(cache, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    make_llama(seed=9).save_pretrained(other)
    make_tokenizer().save_pretrained(other)
    assert "give the model that the cache was made with" in told(
        capsys, cache, tmp_path / "s.zarr", "--model", other, code=2
    )


def test_what_cannot_be_converted_is_one_line(cache, tmp_path, capsys) -> None:
    class Thief:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/stolen",)

    for name, content in (
        ("thief", {"embeddings": torch.ones(1, 2), "metadata": Thief()}),
        ("zero", {"embeddings": torch.zeros(1, 2), "metadata": [{}]}),
        ("nan", {"embeddings": torch.full((1, 2), np.nan), "metadata": [{}]}),
        ("short", {"embeddings": torch.ones(3, 2), "metadata": [{}]}),
    ):
        (tmp_path / name / "layer_1").mkdir(parents=True)
        torch.save(content, tmp_path / name / "layer_1/embeddings_cache.pt")
    for source, message in (
        ("thief", "refused, because reading it would run posix.system"),
        ("zero", "is zero"),
        ("nan", "not finite"),
        ("short", "found {embeddings: Tensor [3, 2], metadata: list 1}"),
        ("nowhere", "no such file or folder"),
        (".", "no run.json in it, and no file that is known here; expected a store"),
    ):
        said = told(capsys, tmp_path / source, tmp_path / "out" / source, code=2)
        assert message in said, said
        assert len([line for line in said.splitlines() if not line.startswith("convert: ")]) == 1
    assert not (tmp_path / "stolen").exists()
    assert "layer 7: no such layer" in told(capsys, cache, tmp_path / "out", "--layers", "7", code=2)
    with pytest.raises(lenscore.InputError, match="would run"):
        lenscore.ContextualIndex.from_directory(tmp_path / "thief")


def test_results_become_json_and_results_again(tmp_path, capsys) -> None:
    results = make_results(tmp_path)
    told(capsys, results.path, tmp_path / "json")
    told(capsys, results.path, tmp_path / "again")
    names = sorted(path.relative_to(tmp_path / "json") for path in (tmp_path / "json").rglob("*.json"))
    assert len(names) == len(LENSES) * len(LAYERS) + 1
    for name in names:
        assert (tmp_path / "json" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    told(capsys, tmp_path / "json", tmp_path / "back")
    assert verify.main([str(tmp_path / "back")]) == 0
    back = LensResults.open(tmp_path / "back")
    assert back.results().equals(results.results())
    assert back.geometry().equals(results.geometry())
    assert back.images().equals(results.images())
    assert (back.token_words(), back.model, back.top_k) == (results.token_words(), results.model, results.top_k)
    assert back.store().path == results.store().path


def test_the_json_says_what_the_results_say(tmp_path, capsys) -> None:
    """Read as the scripts of the paper write it (PRIOR_ART, section 5), and looked up in the tables by hand."""
    results = make_results(tmp_path)
    told(capsys, results.path, tmp_path / "json")
    store, words = results.store(), results.token_words()
    rows, captions = store.row_table().to_pylist(), results.images()["caption"].to_pylist()
    files = {
        "latent": ("contextual_neighbors_visual2_allLayers.json", "nearest_contextual_neighbors"),
        "logit": ("logit_lens_layer2_topk3_multi-gpu.json", "top_predictions"),
        "embedding": ("nearest_neighbors_analysis_lenscore_multi-gpu_layer2.json", "nearest_neighbors"),
    }
    for lens, (name, key) in files.items():
        content = json.loads((tmp_path / "json" / name).read_text(encoding="utf-8"))
        images = content["splits"]["validation"]["images"] if lens == "embedding" else content["results"]
        assert [image["image_idx"] for image in images] == list(range(12))  # the broken one has no patches
        lines = {(line["image_id"], line["row"], line["col"]): line for line in results.results(lens, 2).to_pylist()}
        seen = 0
        for image in images:
            assert image["ground_truth_caption"] == (captions[image["image_idx"]] or "")
            (chunk,) = image["chunks"]
            assert (chunk["chunk_name"], image["feature_shape"][:3]) == ("Full Image", [1, 1, GRID * GRID])
            for number, patch in enumerate(chunk["patches"]):
                assert (patch["patch_idx"], patch["patch_row"], patch["patch_col"]) == (number, *divmod(number, GRID))
                line = lines[image["image_idx"], patch["patch_row"], patch["patch_col"]]
                for i, candidate in enumerate(patch[key]):
                    number_found, score = line["ids"][i], line["scores"][i]
                    if lens == "latent":
                        row = rows[number_found]
                        expected = {
                            "token_str": row["token"],
                            "token_id": row["token_id"],
                            "caption": store.sentence_texts([row["sentence_id"]])[0],
                            "position": row["position"],
                            "similarity": score,
                            "contextual_layer": line["contextual_layers"][i],
                            "row": number_found,
                        }
                    else:
                        expected = {"token": words[number_found], "token_id": number_found}
                        expected["logit" if lens == "logit" else "similarity"] = score
                    assert candidate == expected
                    seen += 1
        assert seen == 12 * GRID * GRID * 3


def test_json_that_is_incomplete_or_changed_is_refused(tmp_path, capsys) -> None:
    told(capsys, make_results(tmp_path).path, tmp_path / "json")
    file = tmp_path / "json" / "logit_lens_layer2_topk3_multi-gpu.json"
    whole = file.read_text(encoding="utf-8")
    for text, message in (
        (whole.replace('"token_id"', '"id"', 1), "image 0, patch 0: a candidate has no number 'token_id'"),
        (whole[:-20], "not a readable JSON file"),
        (whole.replace('"patch_idx": 63', '"patch_idx": 64'), "expected 3, at a patch of lenscore/geometry.parquet"),
        (None, "the file of the lens 'logit', layer 2, is missing"),
    ):
        file.unlink() if text is None else file.write_text(text, encoding="utf-8")
        assert message in told(capsys, tmp_path / "json", tmp_path / "back", code=2)
    file.write_text(whole, encoding="utf-8")
    about = tmp_path / "json" / "lenscore" / "about.json"
    said = json.loads(about.read_text())
    for name, value in (("top_k", "3"), ("images_per_shard", 0), ("layers", [2, "5"]), ("lenses", None), ("store", 1)):
        about.write_text(json.dumps(said | {name: value}))
        assert f"about.json: found {name} = " in told(capsys, tmp_path / "json", tmp_path / "back", code=2)
    about.write_text(json.dumps(said))
    (tmp_path / "json" / "lenscore" / "tokens.parquet").rename(tmp_path / "aside")
    assert "tokens.parquet: cannot be read (No such file or directory)" in told(
        capsys, tmp_path / "json", tmp_path / "back", code=2
    )
    about.unlink()
    assert "only a folder that `lens convert` wrote can be converted back" in told(
        capsys, tmp_path / "json", tmp_path / "back", code=2
    )


def test_a_folder_with_other_things_is_refused_and_paths_are_resolved(cache, tmp_path, capsys) -> None:
    store = tmp_path / "store.zarr"
    told(capsys, cache, store)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    assert f"{tmp_path}/thesis: not empty (it holds 'thesis.tex')" in told(capsys, store, tmp_path / "thesis", code=2)
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]
    (tmp_path / "cut" / "layer_1").mkdir(parents=True)  # an interrupted conversion
    assert told(capsys, store, tmp_path / "thesis" / ".." / "cut").startswith(f"{tmp_path}/cut: a cache of ")
    results = make_results(tmp_path / "run")
    message = told(capsys, results.path, tmp_path / "thesis", code=2)
    assert f"{tmp_path}/thesis: not empty (it holds 'thesis.tex')" in message


MEASURED = """
import sys, threading, time
from launch import convert
peak, done = 0, threading.Event()
def own():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1])
base = own()
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, own() - base)
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
code = convert.main(sys.argv[1:])
done.set()
watcher.join()
print(peak // 1024)
sys.exit(code)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path) -> None:
    """Of 10 times the rows the embeddings pass through; only their words are held."""
    peaks: dict[tuple[str, int], int] = {}
    for rows in (10_000, 100_000):
        source = tmp_path / f"cache{rows}" / "layer_1"
        source.mkdir(parents=True)
        metadata = [{"token_str": "t", "token_id": 1, "caption": "c", "position": 2}] * rows
        torch.save({"embeddings": torch.randn(rows, 1024), "metadata": metadata}, source / "embeddings_cache.pt")
        for way, arguments in (
            ("in", [source.parent, tmp_path / f"{rows}.zarr"]),
            ("out", [tmp_path / f"{rows}.zarr", tmp_path / f"back{rows}", "--dtype", "float32"]),
        ):
            command = [sys.executable, "-c", MEASURED, *map(str, arguments)]
            done = run(command, cwd=HOUSE, capture_output=True, text=True, check=True)
            peaks[way, rows] = int(done.stdout.splitlines()[-1])
    embeddings = 100_000 * 1024 * 4 >> 20
    for way in ("in", "out"):
        assert peaks[way, 100_000] - peaks[way, 10_000] < embeddings / 3, peaks
