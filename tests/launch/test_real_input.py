"""A real corpus and two real photographs through the commands, with a random tiny model: the words mean nothing, but
shapes, counts, offsets and geometry must be right."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import sklearn.datasets
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from launch import analyze, extract, report, verify
from lenscore.readings.words import whole_word
from storage_layouts.embeddings import EmbeddingStore
from storage_layouts.results import LensResults
from tests.conftest import make_llama, make_llava

DATA = Path(sklearn.datasets.__file__).parent
CORPUS = sorted((DATA / "descr").glob("*.rst"))
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]


def byte_level_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as most LLMs have it, learnt from the corpus."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train([str(path) for path in CORPUS], trainer)
    special = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, extra_special_tokens={"image_token": "<image>"}
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A LLaVA whose processor resizes and crops like CLIP's, and whose LLM has a byte-level vocabulary."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer(1500)
    llama = make_llama()
    llama.resize_token_embeddings(len(tokenizer))
    make_llava(llama).save_pretrained(folder)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.save_pretrained(folder)
    return folder


def test_real_text_and_photographs(model, tmp_path):
    store_path, run_path = tmp_path / "store.zarr", tmp_path / "results"
    flags = ["--model", str(model), "--corpus", *map(str, CORPUS), "--out", str(store_path), "--max-tokens", "64"]
    assert extract.main([*flags, "--rows-per-shard", "2048"]) == 0
    store = EmbeddingStore.open(store_path)
    rows = store.row_table().to_pylist()
    texts = dict(zip(*store.sentences().to_pydict().values(), strict=True))
    lines = {line.strip() for path in CORPUS for line in path.read_text(encoding="utf-8").splitlines()}
    assert set(texts.values()) <= lines
    assert 3000 < store.rows < 20 * 1500
    assert max(Counter(row["token_id"] for row in rows).values()) == 20
    for row in rows:
        text = texts[row["sentence_id"]]
        piece = text[row["char_start"] : row["char_end"]]
        assert piece.strip() in row["token"] or "�" in row["token"]
        assert piece.strip() in whole_word(text, row["char_start"], row["char_end"]) or not piece.strip()

    photographs = tmp_path / "photographs.csv"
    names = sorted((DATA / "images").glob("*.jpg"))
    assert [name.name for name in names] == ["china.jpg", "flower.jpg"]
    photographs.write_text("path,caption\n" + "".join(f"{name},a {name.stem}\n" for name in names))
    images = ["--model", str(model), "--images", str(photographs), "--store", str(store_path), "--out", str(run_path)]
    assert analyze.main(images) == 0
    results = LensResults.open(run_path)
    assert results.images()["caption"].to_pylist() == ["a china", "a flower"]
    for image in results.geometry().to_pylist():
        assert (image["width"], image["height"]) == (640, 427)
        assert [(view["rows"], view["cols"]) for view in image["views"]] == [(4, 4)]
        patches = image["patches"]
        assert [(p["row"], p["col"]) for p in patches] == [(r, c) for r in range(4) for c in range(4)]
        # 640 x 427 becomes 47 x 32 (rounded down); the crop takes 32 of the 47 columns, from the 8th on.
        for p in patches:
            assert p["left"] == pytest.approx((7 + 8 * p["col"]) / 47, abs=0.02)
            assert p["right"] - p["left"] == pytest.approx(8 / 47, abs=0.005)
            assert (p["top"], p["bottom"]) == pytest.approx((p["row"] / 4, (p["row"] + 1) / 4), abs=0.02)
    table = results.results()
    assert table.num_rows == 2 * 16 * len(results.layers) * 3
    assert Counter(table["lens"].to_pylist()) == dict.fromkeys(
        ("latent", "logit", "embedding"), 2 * 16 * len(results.layers)
    )
    assert verify.main([str(store_path)]) == verify.main([str(run_path)]) == 0
    assert report.main([str(run_path), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "viewer" / "index.html").exists()
