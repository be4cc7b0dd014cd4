"""Both models of a natural language autoencoder on tiny random Llamas, against transformers and numpy alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.optimize import nnls
from torch.nn.functional import normalize

from launch import cli
from lenscore.autoencoders.reconstructor import Reconstructor
from lenscore.autoencoders.sidecar import VERBALISER, Sidecar
from lenscore.autoencoders.verbaliser import Verbaliser
from lenscore.models.checkpoint import Checkpoint
from lenscore.models.loading import load_vlm
from lenscore.single_image.described_patches import compared
from storage_layouts.errors import CorruptError, InputError
from tests.conftest import SPECIAL, WORDS, make_llama, make_tokenizer

MARK, LEFT, RIGHT, AFTER = WORDS[0], WORDS[1], WORDS[2], WORDS[3]
CHAT = "{% for message in messages %}{{ '<s> ' + message['content'] }}{% endfor %}{% if add_generation_prompt %} "
CHAT += f"{AFTER}{{% endif %}}"
IDS = {word: len(SPECIAL) + i for i, word in enumerate(WORDS)}
BLOCK = 1


def content(role: str) -> dict[str, Any]:
    return {
        "kind": "nla_model",
        "schema_version": 2,
        "role": role,
        "d_model": 32,
        "extraction_layer_index": BLOCK,
        "extraction": {"injection_scale": 7.5 if role == "av" else None, "mse_scale": 32**0.5},
        "tokens": {
            "injection_char": MARK,
            "injection_token_id": IDS[MARK],
            "injection_left_neighbor_id": IDS[LEFT],
            "injection_right_neighbor_id": IDS[RIGHT],
            "critic_suffix_ids": [IDS[LEFT], IDS[RIGHT]] if role == "ar" else None,
        },
        "prompt_templates": {
            "av": f"{AFTER} {MARK} {AFTER} {LEFT} {{injection_char}} {RIGHT}",
            "ar": f"{AFTER} {{explanation}} {LEFT} {RIGHT}",
        },
    }


def write(folder: Path, said: dict[str, Any]) -> Path:
    (folder / "nla_meta.yaml").write_text(yaml.safe_dump(said, allow_unicode=True), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A verbaliser of four blocks and a reconstructor of two, without its norm and head, as the released ones."""
    av, ar = (tmp_path_factory.mktemp(name) for name in ("av", "ar"))
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT
    for folder, seed, blocks, role in ((av, 5, 4, "av"), (ar, 6, BLOCK + 1, "ar")):
        make_llama(seed, blocks).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write(folder, content(role))
    weights = load_file(ar / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if name not in ("model.norm.weight", "lm_head.weight")}
    assert len(kept) == len(weights) - 2
    save_file(kept, ar / "model.safetensors", {"format": "pt"})
    torch.manual_seed(7)
    save_file({"weight": torch.randn(32, 32)}, ar / "value_head.safetensors")
    return av, ar


@torch.no_grad()
def test_a_state_stands_in_place_of_the_mark(pair: tuple[Path, Path]) -> None:
    state = torch.randn(32, generator=torch.Generator().manual_seed(1))
    found = Verbaliser.load(Checkpoint(pair[0]), "cpu").describe(state, 6)
    model = make_llama(5)
    ids = [SPECIAL.index("<s>"), *(IDS[word] for word in (AFTER, MARK, AFTER, LEFT, MARK, RIGHT, AFTER))]
    answer: list[int] = []
    for _ in range(6):
        embeddings = model.model.embed_tokens(torch.tensor([ids + answer]))
        embeddings[0, 5] = 7.5 * state / state.norm()
        answer.append(int(model(inputs_embeds=embeddings).logits[0, -1].argmax()))
        if answer[-1] == SPECIAL.index("</s>"):
            break
    assert found.text == make_tokenizer().decode(answer, skip_special_tokens=True).strip()
    assert len(set(answer)) > 1
    assert not found.complete
    other = Verbaliser.load(Checkpoint(pair[0]), "cpu").describe(-state, 6)
    assert other.text != found.text
    with pytest.raises(InputError, match="a state of length 0"):
        Verbaliser.load(Checkpoint(pair[0]), "cpu").describe(torch.zeros(32), 6)


@torch.no_grad()
def test_a_state_is_made_of_the_output_of_the_last_block(pair: tuple[Path, Path]) -> None:
    made = Reconstructor.load(Checkpoint(pair[1]), "cpu").reconstruct(f"{WORDS[5]} {WORDS[6]}")
    model = make_llama(6, BLOCK + 1)
    model.model.norm = torch.nn.Identity()
    ids = [SPECIAL.index("<s>"), *(IDS[word] for word in (AFTER, WORDS[5], WORDS[6], LEFT, RIGHT))]
    state = model.model(torch.tensor([ids])).last_hidden_state[0, -1]
    expected = load_file(pair[1] / "value_head.safetensors")["weight"] @ state
    assert torch.allclose(made, expected, atol=1e-5)


def test_the_command_compares_states_with_reconstructions(
    pair: tuple[Path, Path], tiny_vlm_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "i.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(image)
    flags = ["--model", str(tiny_vlm_folder), "--image", str(image), "--verbaliser", str(pair[0])]
    flags += ["--reconstructor", str(pair[1]), "--out", str(tmp_path), "--max-new-tokens", "5", "--device", "cpu"]
    assert cli.main(["describe", *flags, "--patches", "0,1;3,2", "--no-self-test"]) == 0
    assert "without the end of an explanation: 2 of 2" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "i-described.csv")
    assert table["layer"].tolist() == [BLOCK + 1] * 2
    vlm = load_vlm(tiny_vlm_folder, "cpu", torch.float32)
    inputs = vlm.processor(images=[Image.open(image)], text=["<image> Describe this image."], return_tensors="pt")
    with torch.no_grad():
        hidden = vlm.model(**inputs, output_hidden_states=True).hidden_states[BLOCK + 1]
    states = hidden[0, inputs["input_ids"][0] == SPECIAL.index("<image>")]
    maker = Reconstructor.load(Checkpoint(pair[1]), "cpu")
    describer = Verbaliser.load(Checkpoint(pair[0]), "cpu")
    made = torch.stack([maker.reconstruct(describer.describe(states[place], 5).text) for place in (1, 14)])
    x, y, every = (normalize(part.double(), dim=1).numpy() for part in (states[[1, 14]], made, states))
    mean = every.mean(axis=0)
    for line, row in enumerate(table.to_dict("records")):
        c = x[line] - mean
        assert row["cosine"] == pytest.approx(x[line] @ y[line], abs=1e-5)
        assert row["reconstructed"] == pytest.approx(1 - ((x[line] - y[line]) ** 2).sum() / (c @ c), abs=1e-5)
        for name, of in (("explained", line), ("other", 1 - line)):
            _, residual = nnls((y[of] - mean)[:, None], c)
            assert row[name] == pytest.approx(1 - residual**2 / (c @ c), abs=1e-5)


def test_a_perfect_reconstruction_explains_everything() -> None:
    states = torch.randn(9, 16, generator=torch.Generator().manual_seed(2))
    numbers = compared(states, (1, 4, 6), 3 * states[[1, 4, 6]])
    assert np.allclose(numbers[["cosine", "reconstructed", "explained"]], 1)
    assert (numbers["other"] < 0.9).all()
    assert compared(states, (1,), states[[1]])["other"].isna().all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "nla_dataset"}, "kind = "),
        ({"role": "ar"}, "role = "),
        ({"d_model": 48}, "d_model is 48, but the states of"),
        ({"tokens": None}, "tokens"),
        ({"extraction": {"injection_scale": None}}, "extraction.injection_scale"),
        ({"prompt_templates": {"ar": "x"}}, "no field prompt_templates.av"),
        ({"prompt_templates": {"av": "{x}"}}, "has a place that is not known"),
        ({"prompt_templates": {"av": "{injection_char}"}}, "the prompt has 0 places of token"),
        ({"tokens": content("av")["tokens"] | {"injection_token_id": 9}}, "is token 9 there, but"),
    ],
)
def test_a_wrong_sidecar_is_refused(
    changed: dict[str, Any], message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    for path in pair[0].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "nla_meta.yaml").unlink()
    write(tmp_path, content("av") | changed)
    with pytest.raises((InputError, CorruptError), match=message):
        Verbaliser.load(Checkpoint(tmp_path), "cpu")


def test_other_folders_are_refused(pair: tuple[Path, Path], tiny_llm_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no nla_meta.yaml in it; expected a folder of the model av"):
        Verbaliser.load(Checkpoint(tiny_llm_folder), "cpu")
    with pytest.raises(InputError, match="role = "):
        Reconstructor.load(Checkpoint(pair[0]), "cpu")
    for path in pair[1].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "nla_meta.yaml").unlink()
    write(tmp_path, content("ar") | {"extraction_layer_index": 3})
    with pytest.raises(InputError, match=r"2 blocks, expected 4, because extraction_layer_index"):
        Reconstructor.load(Checkpoint(tmp_path), "cpu")
    write(tmp_path, content("ar") | {"tokens": {"critic_suffix_ids": [9]}})
    with pytest.raises(InputError, match=r"the prompt ends with \[\d+\], expected \[9\]"):
        Reconstructor.load(Checkpoint(tmp_path), "cpu").reconstruct(WORDS[0])
    (tmp_path / "value_head.safetensors").unlink()
    with pytest.raises(InputError, match=r"no value_head.safetensors in it"):
        Reconstructor.load(Checkpoint(tmp_path), "cpu")
    assert (
        Sidecar(tmp_path, {"d_model": 9, "extraction": {"injection_scale": "sqrt_d_model"}}, VERBALISER).injection_scale
        == 3
    )
