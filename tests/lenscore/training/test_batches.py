"""What a step sees is a function of seed and step, whoever computes it and wherever it begins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lenscore.training.batches import BatchOrder, CaptionBatches
from lenscore.training.examples import TextRules, first_sentence
from lenscore.training.pairs import Columns, find_pairs
from lenscore.training.schedule import share_of_peak
from storage_layouts.errors import InputError
from tests.conftest import make_tokenizer

WORDS = ["red", "green", "blue", "dog", "cat", "house", "tree"]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**63), st.integers(1, 30))
def test_epochs_are_whole_and_steps_stand_alone(pairs, batch_size, seed, steps):
    order = BatchOrder(pairs, batch_size, seed)
    seen = [index for step in range(steps) for index in order.of_step(step)]
    for first in range(0, len(seen) - pairs + 1, pairs):
        assert sorted(seen[first : first + pairs]) == list(range(pairs))
    late = BatchOrder(pairs, batch_size, seed)
    assert late.of_step(steps - 1) == seen[-batch_size:]


def test_epochs_and_seeds_differ():
    orders = {(seed, step): tuple(BatchOrder(64, 64, seed).of_step(step)) for seed in range(3) for step in range(3)}
    assert len(set(orders.values())) == 9
    # Uniform: a pair's place in the order is anywhere.
    places = [BatchOrder(64, 64, seed).of_step(0).index(0) for seed in range(400)]
    assert abs(np.mean(places) - 31.5) < 4 * 18.5 / np.sqrt(400)


@given(st.integers(0, 500), st.integers(1, 500), st.integers(0, 100), st.floats(0, 1))
def test_rates_rise_and_fall_within_their_bounds(step, steps, warmup, last):
    share = share_of_peak(step, max(steps, step + 1), warmup, last)
    assert 0 <= share <= 1 + 1e-12
    if warmup <= step:
        assert share >= last - 1e-12
    assert share_of_peak(warmup, steps + warmup, warmup, last) == 1
    assert share_of_peak(steps + warmup, steps + warmup, warmup, last) == pytest.approx(last)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("A red star. It is big.", "A red star."),
        ('He said "no!" Then he left.', 'He said "no!"'),
        ("about 3.5 metres tall. Really", "about 3.5 metres tall."),
        ("no end at all", "no end at all"),
        ("What?! Yes.", "What?!"),
    ],
)
def test_first_sentence(text, first):
    assert first_sentence(text) == first


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batches")
    lines = ["image,caption"]
    for i in range(8):
        Image.new("RGB", (20, 10), (30 * i, 0, 0)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{' '.join(WORDS[: 1 + i % 7])} . a dog .")
    (folder / "5.png").write_bytes(b"no image")
    (folder / "t.csv").write_text("\n".join(lines))
    return find_pairs(str(folder), Columns())


def batches_of(pairs, micro, rank=0, processes=1, seed=3, **rules):
    side = {"height": 32, "width": 32}
    images = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    processor = LlavaProcessor(images, make_tokenizer(), patch_size=8, vision_feature_select_strategy="full")
    order = BatchOrder(len(pairs), 8, seed)
    return CaptionBatches(pairs, processor, 16, TextRules(**rules), order, micro, rank, processes)


def test_only_caption_and_end_are_learnt(pairs):
    batches = batches_of(pairs, 8, prompt="there is")
    batch = batches.take(0)
    (inputs,) = batch.micro
    tokenizer = make_tokenizer()
    assert batch.unreadable.keys() == {5}
    counted = 0
    by_length = sorted(BatchOrder(8, 8, 3).of_step(0), key=lambda index: len(pairs[index].caption.split()))
    for row, index in enumerate(by_length):
        ids, labels = inputs["input_ids"][row], inputs["labels"][row]
        expected = tokenizer(pairs[index].caption, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        length = 1 + 16 + 2 + len(expected)
        assert (
            ids[:length].tolist()
            == [1] + [4] * 16 + tokenizer("there is", add_special_tokens=False).input_ids + expected
        )
        learnt = labels[labels != -100].tolist()
        assert learnt == ([] if index == 5 else expected)
        assert labels[length:].eq(-100).all()
        assert ids[length:].eq(tokenizer.pad_token_id).all()
        counted += len(learnt)
    assert batch.tokens == counted


def test_cut_and_first_sentence(pairs):
    (inputs,) = batches_of(pairs, 8, max_tokens=19).take(0).micro
    assert inputs["input_ids"].shape[1] == 19
    (inputs,) = batches_of(pairs, 8, first_sentence=True).take(0).micro
    texts = make_tokenizer().batch_decode(inputs["input_ids"], skip_special_tokens=True)
    assert all(text.count(" dog") <= 1 for text in texts)


def test_examples_of_like_length_are_together(pairs):
    """Of two batches: each micro-batch is as long as its longest example, and the steps take whom they took before."""
    order = BatchOrder(8, 8, 3)
    for step in (0, 1):
        lengths = sorted(1 + 16 + len(pairs[i].caption.split()) + 1 for i in order.of_step(step))
        micro = batches_of(pairs, 2).take(step).micro
        assert [inputs["input_ids"].shape[1] for inputs in micro] == lengths[1::2]


def test_processes_share_a_batch_without_gap_or_overlap(pairs):
    whole = batches_of(pairs, 2).take(4)
    shared = [batches_of(pairs, 2, rank, 2).take(4) for rank in range(2)]
    assert [batch.tokens for batch in shared] == [whole.tokens] * 2
    for number, inputs in enumerate(whole.micro):
        same = shared[number % 2].micro[number // 2]
        assert all(torch.equal(inputs[name], same[name]) for name in inputs)


def test_a_batch_of_broken_images_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("image,caption\nx.png,a dog\n")
    with pytest.raises(InputError, match="no image of step 0 can be read"):
        batches_of(find_pairs(str(tmp_path), Columns()), 8).take(0)
