"""The model that a connector makes: its features, its formula, its geometry, and connectors that others published."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Dinov2Model

from lenscore.images.geometry import image_geometry
from lenscore.models.loading import load_vlm
from lenscore.training.assembly import Parts, assemble
from lenscore.training.published_connectors import read_connector, start_from
from lenscore.training.trainer import parts_of
from storage_layouts.errors import InputError
from tests.conftest import make_llama, make_llava, make_processor
from tests.training_parts import save_encoder, save_llm, shapes_tokenizer


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    save_llm("olmo", folder / "llm")
    for kind in ("clip", "dinov2", "siglip", "registers"):
        save_encoder(kind, folder / kind)
    return folder


def made(parts, kind="clip", seed=0, **more):
    settings = {"vit_layers": (-2, -4), **more}
    return assemble(Parts(str(parts / "llm"), str(parts / kind), **settings), seed, torch.float32)


def oracle(connector: str, weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The formulas in float64."""
    from scipy.special import erf, expit

    if connector == "linear":
        return x @ weights["weight"].T + weights["bias"]
    if connector == "mlp":
        hidden = x @ weights["linear_1.weight"].T + weights["linear_1.bias"]
        hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
        return hidden @ weights["linear_2.weight"].T + weights["linear_2.bias"]
    gate = x @ weights["w1.weight"].T
    return (gate * expit(gate) * (x @ weights["w3.weight"].T)) @ weights["w2.weight"].T


@pytest.mark.parametrize("connector", ["swiglu", "mlp", "linear"])
@pytest.mark.parametrize(("kind", "prefix"), [("clip", 1), ("dinov2", 1), ("siglip", 0), ("registers", 5)])
def test_visual_tokens_are_the_formula_of_the_patches(parts, kind, prefix, connector):
    model, processor = made(parts, kind, connector=connector)
    for weight in model.connector.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8))
    pixels = processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        found = model.get_image_features(pixels).pooler_output[0]
    assert len(states) == 5  # the embeddings and four layers
    features = np.concatenate([states[layer][0, prefix:].double().numpy() for layer in (3, 1)], axis=1)
    weights = {name: weight.detach().double().numpy() for name, weight in model.connector.named_parameters()}
    assert np.allclose(found.numpy(), oracle(connector, weights, features), atol=1e-4)
    assert found.shape == (64, 32)


def test_the_connector_is_a_function_of_the_seed(parts):
    first, again, other = (made(parts, seed=seed)[0].connector.state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert first["w1.weight"].std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("size", [(120, 60), (60, 120), (96, 96)])
@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_patches_lie_where_the_pixels_change(parts, tmp_path, fit, size):
    """A cell painted on the original changes the processor's pixels of the patches whose boxes it meets."""
    model, processor = made(parts, "dinov2", image_fit=fit, image_size=72)
    model.save_pretrained(tmp_path / "vlm")
    processor.save_pretrained(tmp_path / "vlm")
    vlm = load_vlm(tmp_path / "vlm", "cpu")
    plain = Image.new("RGB", size, (90, 120, 150))

    def prepared(picture):
        return vlm.processor(images=[picture], text=["<image> x"], return_tensors="pt")

    geometry = image_geometry(vlm, prepared(plain), [size])[0]
    assert (geometry.views[0].rows, geometry.views[0].cols) == (6, 6)
    before = prepared(plain)["pixel_values"][0]
    seen = 0
    for patch in geometry.patches:
        box = (patch.left * size[0], patch.top * size[1], patch.right * size[0], patch.bottom * size[1])
        if box[2] - box[0] < 8 or box[3] - box[1] < 8:
            continue  # all or mostly padding
        painted = plain.copy()
        painted.paste((255, 0, 0), tuple(round(edge) for edge in box))
        change = (prepared(painted)["pixel_values"][0] - before).abs().sum(0).reshape(6, 12, 6, 12).sum((1, 3))
        assert divmod(int(change.argmax()), 6) == (patch.row, patch.col)
        seen += 1
    assert seen >= 12


def test_an_image_token_that_the_tables_have_no_row_for(parts):
    model, processor = made(parts, image_token="<picture>")
    rows = len(shapes_tokenizer())
    assert model.config.image_token_id == rows
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        assert table.shape[0] == rows + 1
        assert torch.allclose(table[rows], table[:rows].mean(0), atol=1e-6)
    assert processor.image_token == "<picture>"


def test_an_unfrozen_llm_keeps_embeddings_and_head(parts):
    model, _ = made(parts)
    names = {part.name: set(part.parameters) for part in parts_of(model, True, True, (1, 2, 3), (1, 2))}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set().union(*names.values())
    frozen = {name for name, _ in model.named_parameters()} - trained
    assert frozen == {"model.language_model.embed_tokens.weight", "lm_head.weight"}
    assert all(name.startswith("model.vision_tower") for name in names["vit"])


def test_published_connectors_are_read(parts, tmp_path):
    model, _ = made(parts)
    wanted = {name: torch.randn(weight.shape) for name, weight in model.connector.named_parameters()}
    layout = {f"vision_backbone.image_projector.{name}": weight for name, weight in wanted.items()}
    added = torch.randn(128, 32)
    layout |= {"vision_backbone.pad_embed": torch.zeros(2, 32), "transformer.wte.new_embedding": added}
    (tmp_path / "olmo-vit").mkdir()
    torch.save(layout, tmp_path / "olmo-vit/connector.pt")
    save_file(layout, tmp_path / "connector.safetensors")
    for source in ("olmo-vit", "olmo-vit/connector.pt", "connector.safetensors"):
        for weight in model.connector.parameters():
            torch.nn.init.zeros_(weight)
        start_from(model, str(tmp_path / source))
        assert all(torch.equal(dict(model.connector.named_parameters())[name], wanted[name]) for name in wanted)
    model.save_pretrained(tmp_path / "ours")
    ours = read_connector(str(tmp_path / "ours"))
    assert ours.weights.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in ours.weights.items())
    assert torch.equal(ours.patch_embedding, added[2])

    # There, the connector's output is added to the embedding of the patch token, the third of the new ones.
    pixels = torch.randn(1, 3, 96, 96)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "ours")
    plain = made(parts)[0]
    plain.connector.load_state_dict(wanted)
    with torch.no_grad():
        expected = plain.get_image_features(pixels).pooler_output[0] + added[2]
        assert torch.allclose(loaded.get_image_features(pixels).pooler_output[0], expected, atol=1e-5)


def test_parts_that_are_saved_under_other_names_are_found_or_refused(parts, tmp_path):
    """transformers saves a LLaVA, and a DINOv2, under other names than their modules have."""
    make_llava(make_llama()).save_pretrained(tmp_path / "llava")
    make_processor().save_pretrained(tmp_path / "llava")
    names = set(load_file(tmp_path / "llava/model.safetensors"))
    assert not any(name.startswith("model.vision_tower") for name in names)
    with pytest.raises(InputError, match=r"--vision .*: the checkpoint lacks \d+ weights of CLIPVisionModel, e\.g\. "):
        made(parts, tmp_path / "llava", vit_layers=(-1,))
    with pytest.raises(InputError, match=r"--start-from .*: found \(.*\), but this connector has none"):
        start_from(made(parts)[0], str(tmp_path / "llava"))
    vision = Dinov2Model.from_pretrained(save_encoder("dinov2", tmp_path / "dinov2"))
    saved = load_file(tmp_path / "dinov2/model.safetensors")
    assert saved.keys() != vision.state_dict().keys()
    model, _ = made(parts, tmp_path / "dinov2", vit_layers=(-1,))
    pixels = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        theirs, ours = (encoder(pixels).last_hidden_state for encoder in (vision, model.model.vision_tower))
    assert torch.equal(theirs, ours)
    assert sorted(float(tensor.sum()) for tensor in saved.values()) == pytest.approx(
        sorted(float(tensor.sum()) for tensor in model.model.vision_tower.state_dict().values())
    )


def test_an_encoder_may_lack_what_no_patch_goes_through(parts, tmp_path):
    folder = save_encoder("siglip", tmp_path / "siglip")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "head." not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    model, _ = made(parts, folder, vit_layers=(-1,))
    assert all(weight.isfinite().all() for weight in model.parameters())
    without = {name: weight for name, weight in kept.items() if "layers.1.mlp.fc1.bias" not in name}
    save_file(without, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"the checkpoint lacks \d+ weights of SiglipVisionModel, e\.g\. encoder"):
        made(parts, folder, vit_layers=(-1,))


def test_what_is_no_connector_is_refused(parts, tmp_path):
    class Danger:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    def refusal(source):
        with pytest.raises(InputError) as refused:
            start_from(made(parts)[0], str(source))
        assert "\n" not in str(refused.value)
        return str(refused.value)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"w1.weight": Danger()}))
    assert "not readable as plain tensors" in refusal(tmp_path / "evil.pt")
    torch.save({"w1.weight": Danger()}, tmp_path / "evil2.pt")
    assert "not readable as plain tensors" in refusal(tmp_path / "evil2.pt")
    assert not (tmp_path / "ran").exists()
    weights = {f"vision_backbone.image_projector.{name}.weight": torch.zeros(3, 3) for name in ("w1", "w2", "w3")}
    torch.save(weights, tmp_path / "other.pt")
    assert "w1.weight: found (3, 3), but this connector has (40, 32)" in refusal(tmp_path / "other.pt")
    assert "no such file or folder, nor on the Hub" in refusal("nobody/nothing/here")
    (tmp_path / "empty").mkdir()
    assert "no connector.pt or *.safetensors" in refusal(tmp_path / "empty")


def test_parts_that_do_not_fit_are_refused(parts, tmp_path):
    def refusal(**more):
        with pytest.raises(InputError) as refused:
            made(parts, **more)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert "has hidden states 0 to 4 (or -5 to -1)" in refusal(vit_layers=(-2, 5))
    assert "needs --image-fit" in refusal(image_size=64)
    assert "no such model folder" in refusal(kind="nowhere")
    assert "cannot take pictures of 72 x 72 pixels" in refusal(image_fit="squash", image_size=72)
    assert "has no square patches" in refusal(kind="llm")
