"""The lenses on the tokens of a text, compared with the model's own states, logits and answers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lenscore import AnalyzedText, analyze_text, build_index
from lenscore.analysis.lens_pass import LensPass
from lenscore.index.topk import NO_CONTEXTUAL_LAYER, TopK
from lenscore.models.loading import LanguageModel, Vlm
from lenscore.single_image.lens_readings import lens_readings
from lenscore.single_text.tokens import shown_tokens, text_ids
from storage_layouts.errors import InputError
from tests.conftest import make_tokenizer

TEXT = "the red dog is on the blue cat"


@torch.no_grad()
def own_logits(llm: LanguageModel, ids: tuple[int, ...]) -> np.ndarray:
    return llm.model(input_ids=torch.tensor([ids])).logits[0].double().numpy()


def test_after_the_last_block_stands_the_models_own_prediction(llm: LanguageModel) -> None:
    reading = analyze_text(TEXT, llm, top_k=3).reading
    assert reading.layers == (0, 1, 2, 3, 4)
    assert reading.tokens == ("<s>", *TEXT.split())
    logit = next(lens for lens in reading.lenses if lens.lens == "logit")
    logits = own_logits(llm, reading.token_ids)
    log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    assert logit.next_token is not None
    assert np.abs(logit.next_token.entropies[-1] + (np.exp(log_p) * log_p).sum(1)).max() < 1e-5
    assert np.abs(logit.next_token.divergences[-1]).max() == 0
    assert logit.next_token.divergences[:-1].min() > 0
    best = np.where(np.isin(np.arange(logits.shape[1]), range(5, 15)), log_p, -np.inf).max(axis=1)  # words alone
    assert logit.probabilities is not None
    assert np.abs(np.log(logit.probabilities[-1, :, 0]) - best).max() < 1e-5


def test_at_layer_0_the_embedding_lens_says_the_token_itself(llm: LanguageModel) -> None:
    reading = analyze_text(TEXT, llm, lenses="embedding", layers=[0]).reading
    (lens,) = reading.lenses
    said = [lens.words[place].text for place in lens.which[0, 1:, 0]]
    assert said == TEXT.split()
    assert lens.next_token is None
    assert lens.probabilities is None


def test_the_latent_lens_finds_the_token_in_its_own_sentence(llm: LanguageModel) -> None:
    others = [f"the {colour} {animal}" for colour in ("red", "green", "blue") for animal in ("dog", "cat")]
    index = build_index(
        "tiny", [*others, TEXT], layers=[1, 3], show_progress=False, model=llm.model, tokenizer=llm.tokenizer
    )
    reading = analyze_text(TEXT, llm, index, lenses="latent", layers=[3]).reading
    (lens,) = reading.lenses
    for position, word in list(enumerate(TEXT.split(), 1))[1:]:  # an index begins at position 2
        found = lens.words[lens.which[0, position, 0]]
        assert found.text == word
        assert found.sentence.startswith(" ".join(TEXT.split()[:position]))  # equal beginnings are one row
        assert lens.scores[0, position, 0] > 0.999
        assert lens.contextual_layers is not None
        assert lens.contextual_layers[0, position, 0] == 3


def test_the_answer_is_the_likeliest_token_at_each_step(llm: LanguageModel) -> None:
    llm.model.generation_config.repetition_penalty = 5.0  # as some checkpoints have
    try:
        reading = analyze_text(TEXT, llm, max_new_tokens=6).reading
    finally:
        llm.model.generation_config.repetition_penalty = 1.0
    ids = reading.token_ids[: reading.prompt_tokens]
    for _ in range(6):
        ids = (*ids, int(own_logits(llm, ids)[-1].argmax()))
        if ids[-1] == llm.tokenizer.eos_token_id:
            break
    assert reading.token_ids == ids
    assert len(reading.tokens) == len(ids)
    assert reading.lenses[0].which.shape[1] == len(ids)
    table = analyze_text(TEXT, llm, layers="final", max_new_tokens=6, lenses="logit", top_k=1).to_pandas()
    assert table["answer"].sum() == len(ids) - reading.prompt_tokens


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_scale": 3.0},
        {"bad_words_ids": [[5], [6], [7], [8], [9], [10]]},
        {"sequence_bias": [[[11], 100.0]]},
        {"encoder_repetition_penalty": 5.0},
        {"forced_eos_token_id": 11},
        {"max_time": 1e-9},
        {"return_dict_in_generate": True},
        {"num_return_sequences": 2},
        {"num_beams": 3},
        {"temperature": 0.1, "do_sample": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_no_setting_of_a_checkpoint_changes_the_answer(llm: LanguageModel, settings: dict) -> None:
    plain = analyze_text(TEXT, llm, layers=[0], max_new_tokens=6).reading.token_ids
    own = llm.model.generation_config
    llm.model.generation_config = changed = GenerationConfig(**own.to_diff_dict())
    for name, value in settings.items():
        setattr(changed, name, value)
    try:
        assert analyze_text(TEXT, llm, layers=[0], max_new_tokens=6).reading.token_ids == plain
        assert llm.model.generation_config is changed
    finally:
        llm.model.generation_config = own


def test_messages_are_read_by_the_chat_template(llm: LanguageModel) -> None:
    messages = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "red"}]
    said = ("<s>", "user", "the", "dog", "assistant", "red")
    assert analyze_text(messages, llm, layers=[0]).reading.tokens == said  # <s> once
    assert analyze_text(messages[:1], llm, layers=[0]).reading.tokens == (*said[:4], "is")
    plain = LanguageModel("tiny", llm.model, make_tokenizer())
    with pytest.raises(InputError, match=r"note: messages of a chat, but the model has no chat template"):
        analyze_text(messages, plain, name="note")


def spoken(role: str, content: object) -> dict[str, object]:
    return {"role": role, "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


CLOSED = "{% for m in messages %}{{ m.role + ' ' + m.content + ' on ' }}{% endfor %}" + (
    "{% if add_generation_prompt %}assistant {% endif %}"
)
OF_PARTS = (  # as LLaVA's
    "{% for m in messages %}{{ m.role }} {% for part in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ part.text }} {% endfor %}on {% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
WRITES_ANYTHING = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


def chat(template: str, *messages: dict[str, object], llm: LanguageModel) -> tuple[str, ...]:
    words = [word for word, place in sorted(llm.tokenizer.get_vocab().items(), key=lambda one: one[1]) if place > 4]
    tokenizer = make_tokenizer(words)
    tokenizer.chat_template = template
    return analyze_text(messages, LanguageModel("tiny", llm.model, tokenizer), layers=[0]).reading.tokens


@pytest.mark.parametrize("template", [CLOSED, OF_PARTS])
def test_the_answer_continues_what_the_assistant_began(llm: LanguageModel, template: str) -> None:
    asked, began = spoken("user", "the dog"), spoken("assistant", "is red")
    whole = ("<s>", "user", "the", "dog", "on", "assistant", "is", "red")
    assert chat(template, asked, began, llm=llm) == whole
    assert chat(template, asked, llm=llm) == whole[:6]
    assert chat(template, asked, began, asked, llm=llm) == (*whole, "on", "user", "the", "dog", "on", "assistant")


def test_lists_of_texts_are_for_templates_that_take_them(llm: LanguageModel) -> None:
    in_parts = spoken("user", [part("the"), part("dog")])
    said = ("<s>", "user", "the", "dog", "on", "assistant")
    assert chat(OF_PARTS, in_parts, llm=llm) == said
    assert chat(OF_PARTS, in_parts, spoken("assistant", "is"), llm=llm) == (*said, "is")
    for template in (CLOSED, WRITES_ANYTHING):
        with pytest.raises(
            InputError, match="text: a message is a list of parts, which the model's chat template does"
        ):
            chat(template, in_parts, llm=llm)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user"}, "message 1: found {'role': 'user'}, expected {"),
        (spoken("user", None), "message 1: content is null; expected text, or a list of texts"),
        (spoken("user", 5), "message 1: content is 5; expected text, or a list of texts"),
        (spoken("user", []), "message 1: content is []; expected text, or a list of texts"),
        (spoken("user", ["dog"]), 'message 1: found "dog", expected {"type": "text", "text": "..."}'),
        (spoken("user", [{"type": "image"}, part("the")]), "message 1: holds image; expected text alone"),
        (spoken("user", [{"type": "image_url", "image_url": {}}]), "message 1: holds image_url; expected text alone"),
    ],
)
def test_what_is_no_text_in_a_chat_is_named(llm: LanguageModel, message: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as refused:
        analyze_text([message], llm)
    assert str(refused.value).startswith(f"text: {said}")
    with pytest.raises(InputError, match="text: a chat without messages"):
        analyze_text([], llm)


def test_the_chat_template_of_a_vision_language_model_may_be_its_processors(
    tiny_vlm_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_vlm_folder, tmp_path / "vlm")
    (tmp_path / "vlm/chat_template.json").write_text(json.dumps({"chat_template": OF_PARTS}))  # as old checkpoints
    reading = analyze_text([spoken("user", "the dog")], tmp_path / "vlm", layers=[0]).reading
    assert reading.tokens == ("<s>", "<unk>", "the", "dog", "on", "<unk>")


def test_a_vision_language_model_reads_with_its_llm(
    tiny_vlm: Vlm, tiny_vlm_folder: Path, tiny_llm_folder: Path
) -> None:
    of_llm = analyze_text("the red dog", tiny_llm_folder).to_pandas()
    assert of_llm.equals(analyze_text("the red dog", tiny_vlm).to_pandas())
    assert of_llm.equals(analyze_text("the red dog", tiny_vlm_folder).to_pandas())


def test_the_table_has_a_line_for_each_candidate(llm: LanguageModel) -> None:
    table = analyze_text(TEXT, llm, layers="0,final", top_k=2).to_pandas()
    assert len(table) == 9 * 2 * 2 * 2  # tokens, layers, lenses, candidates
    assert list(table.columns[:8]) == ["position", "text", "answer", "layer", "lens", "rank", "word", "token"]
    assert set(table["layer"]) == {0, 4}
    assert table.equals(analyze_text(TEXT, llm, layers=[0, 4], top_k=2).to_pandas())
    shares = table[table["lens"] == "logit"].groupby(["position", "layer"])["probability"].agg(list)
    assert all(1 > first >= second > 0 for first, second in shares)
    assert table[table["lens"] == "embedding"]["entropy"].isna().all()


def test_no_spreadsheet_computes_a_token(llm: LanguageModel, tmp_path: Path) -> None:
    analyzed = analyze_text("the dog", llm, layers=[0])
    hostile = dataclasses.replace(analyzed.reading, tokens=("=1+1", "\x1b[31m", "the"))
    written = AnalyzedText(hostile, "tiny").save_csv(tmp_path / "text.csv").read_text()
    assert "0,'=1+1," in written
    assert "\x1b" not in written


def bytes_in_unicode() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes, as those of GPT-2 and Qwen write them; the last one is a space and a byte."""
    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()} | {"\u0120ç": 256}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("\u0120", "ç")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def bytes_in_angle_brackets() -> PreTrainedTokenizerFast:
    """A tokenizer that falls back to bytes, as those of SentencePiece do."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"<unk>": 256, " ": 257, "a": 258}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize("made", [bytes_in_unicode, bytes_in_angle_brackets])
def test_a_character_of_several_tokens_stands_once(made: Callable[[], PreTrainedTokenizerFast]) -> None:
    tokenizer = made()
    ids = text_ids("aé 犬", tokenizer, "text")
    space = (" <0xE7>",) if 256 in ids else (" ", "<0xE7>")
    assert shown_tokens(ids, tokenizer) == ("a", "<0xC3>", "é", *space, "<0x8A>", "犬")
    assert shown_tokens([0xC3, ids[0], 0xC3, 0xC3, 0xA9, 0xA9], tokenizer) == (
        *("<0xC3>", "a", "<0xC3>", "<0xC3>", "é", "<0xA9>"),
    )
    assert shown_tokens([ids[0], 999], tokenizer) == ("a", "#999")
    top = TopK(torch.tensor([[[0xC3, ids[0], 0xA9]]]), torch.zeros(1, 1, 3), torch.full((1, 1, 3), NO_CONTEXTUAL_LAYER))
    for in_text in (False, True):  # candidates at patches are shown as those at tokens
        (lens,) = lens_readings(LensPass({"logit": top}, {}), tokenizer, None, in_text)
        assert [lens.words[word].text for word in lens.which[0, 0].tolist()] == ["<0xC3>", "a", "<0xA9>"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": "  "}, "text: an empty text"),
        ({"layers": "0,5"}, "--layers: layer 5 does not exist"),
        ({"layers": "0, final , 9"}, "--layers: layer 9 does not exist"),
        ({"layers": "last"}, "--layers: 'last' is not a layer; expected 'paper', 'all', 'final' or numbers"),
        ({"lenses": "latent"}, "--lenses latent: needs contextual embeddings"),
        ({"lenses": "tarot"}, "--lenses: 'tarot' is not a lens"),
        ({"top_k": 11}, "--top-k 11: the vocabulary of tiny has 10 candidates"),
        ({"max_new_tokens": -1}, "--max-new-tokens: found -1, expected 0 or more"),
        ({"max_new_tokens": 250}, "text: 259 tokens with the answer; the model reads at most 256"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(llm: LanguageModel, settings: dict, said: str) -> None:
    with pytest.raises(InputError) as refused:
        analyze_text(settings.pop("text", TEXT), llm, **settings)
    assert said in str(refused.value)
