"""What a lens may read: the shape of hidden states, and that each is the whole residual stream."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jobs.extract_job import ExtractJob
from jobs.work import work
from lenscore.models.decoder import decoder_of
from lenscore.models.hidden_states import get_hidden_states
from lenscore.models.loading import load_model
from lenscore.models.residual_stream import require_whole_states
from lenscore.models.text_only import ordinary_tokens
from storage_layouts.errors import InputError
from tests.causal_families import causal_lm
from tests.conftest import WORDS, make_tokenizer

IDS = [5, 6, 7, 8]
STREAMS = "is not supported: its blocks hand on tensors of shape"
PART = "is not supported: the input of a block is a part of its residual stream"


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gemma3n_text", rf"Gemma3nForCausalLM {STREAMS} \[4, 1, 4, 32\], expected \[batch, sequence, 32\]"),
        ("deepseek_v4", rf"DeepseekV4ForCausalLM {STREAMS} \[1, 4, 4, 32\]"),
        ("hy_v4", rf"HYV4ForCausalLM {STREAMS} \[1, 4, 4, 32\]"),
        ("inkling2_text", rf"Inkling2ForCausalLM {PART} \(cut to 2 blocks"),
    ],
)
def test_families_whose_states_are_no_residual_stream_are_refused_by_name(family: str, message: str) -> None:
    model = causal_lm(family)
    with pytest.raises(InputError, match=message) as refusal:
        require_whole_states(model, IDS)
    assert "\n" not in str(refusal.value)
    if STREAMS in message:
        with pytest.raises(InputError, match=STREAMS):
            get_hidden_states(model, torch.tensor([IDS]))


# Inputs for each block and shared keys and values; blocks of several kinds; a model with a head as the decoder; norms
# that run twice; a configuration that cannot be changed; states that are not of attention.
OTHERS = ["gemma4_text", "lfm2", "llama4_text", "nanochat", "nemotron_h", "mamba", "gpt2", "recurrent_gemma", "bert"]


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_pass_and_stay_as_they_were(family: str) -> None:
    model, ids = causal_lm(family), torch.tensor([IDS])
    blocks = list(decoder_of(model).layers)
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits
        require_whole_states(model, IDS)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    assert all(a is b for a, b in zip(decoder_of(model).layers, blocks, strict=True))


@pytest.mark.parametrize("family", ["gemma3n_text", "inkling2_text"])
def test_extract_refuses_before_any_shard(family: str, tmp_path: Path) -> None:
    causal_lm(family).save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    (tmp_path / "c.txt").write_text("the red cat\nthe dog\n")
    for causal in (True, False):
        job = ExtractJob(str(tmp_path / "m"), (tmp_path / "c.txt",), tmp_path / f"{causal}.zarr", "1,2", causal=causal)
        run = job.open_run()
        job.plan(run, print)
        report = work(run, lambda job=job, run=run: job.open_worker(run, "cpu"), "worker")
        assert report.refused.startswith(f"--model {tmp_path}/m: ")
        assert "is not supported" in report.refused
        assert run.missing() == run.require_plan().shards()


def test_a_weight_that_is_no_number_is_found_at_any_depth() -> None:
    model: Any = causal_lm("gpt2")
    with torch.no_grad():
        model.transformer.h[2].mlp.c_fc.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"not finite: its weight transformer\.h\.2\.mlp\.c_fc\.weight holds NaN"):
        require_whole_states(model, IDS)


def test_a_model_that_cannot_be_cut_is_not_called_unsupported(caplog: pytest.LogCaptureFixture) -> None:
    model: Any = causal_lm("gpt2")
    honest = type(model.transformer).forward

    def all_blocks(self: Any, *args: Any, **inputs: Any) -> Any:
        _ = self.h[3]
        return honest(self, *args, **inputs)

    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING, "lenscore"):
        patch.setattr(type(model.transformer), "forward", all_blocks)
        require_whole_states(model, IDS)
    assert "GPT2LMHeadModel cannot be checked" in caplog.text


def test_a_probe_is_of_ordinary_words() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"<unk>": 0}, "<unk>")), unk_token="<unk>")
    tokenizer.add_tokens(["a", "red", "boat", "here"])
    assert ordinary_tokens(tokenizer, 2) == [2, 3]  # nothing but added tokens: these are the words
    words = make_tokenizer()
    words.add_tokens(["<file>"])
    assert ordinary_tokens(words, 100) == words.convert_tokens_to_ids(WORDS)


def test_every_loaded_model_is_checked(tiny_llm_folder: Path, tiny_vlm_folder: Path) -> None:
    from lenscore.models import loading

    seen: list[list[int]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "require_whole_states", lambda model, tokens: seen.append(tokens))
        load_model(tiny_llm_folder, "cpu")
        loading.load_vlm(tiny_vlm_folder, "cpu")
    assert seen == [[14, 15, 16, 17]] * 2


def test_a_norm_that_also_runs_before_the_blocks_is_the_final_one_at_its_last_use() -> None:
    model, ids = causal_lm("nanochat"), torch.tensor([IDS])
    with torch.no_grad():
        theirs = model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
    ours = get_hidden_states(model, ids)
    assert len(ours) == len(theirs) == 5
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
