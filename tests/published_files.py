"""Files in every layout that the latentlens authors' scripts write, with the published names of files and fields.

Each writer makes one small file (a picture has two rows and three columns of patches) and returns its path; the words
say where they stand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CHECKPOINT = "molmo_data/checkpoints/train_mlp-only_pixmo_cap_resize_olmo-7b_vit-l-14-336/step12000-unsharded"
MODEL = "llava-hf/llava-1.5-7b-hf"
ROWS, COLS = 2, 3


def _written(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def neighbors(place: str, layers: tuple[int, ...], similarities: tuple[float, ...]) -> list[dict[str, Any]]:
    """Contextual neighbours; a layer of -1 is not said, as in files of one contextual layer."""
    return [
        {"token_str": " Cat", "token_id": 7, "caption": f"a Cat at {place}", "position": 2, "similarity": similarity}
        | ({"contextual_layer": layer} if layer >= 0 else {})
        for layer, similarity in zip(layers, similarities, strict=True)
    ]


def predictions(place: str, score: str = "logit", token_id: bool = True) -> list[dict[str, Any]]:
    """Vocabulary tokens with a logit or a similarity."""
    return [
        {"token": token, score: value} | ({"token_id": number} if token_id else {})
        for number, (token, value) in enumerate(((place, 9.5), (" dog", 1.25)))
    ]


def patches(key: str, make: Any, name: str = "") -> list[dict[str, Any]]:
    """The patches of an image or chunk, ``make`` giving the candidates of a place such as "1-2"."""
    return [
        {"patch_idx": row * COLS + col, "patch_row": row, "patch_col": col, key: make(f"{name}{row}-{col}")}
        for row in range(ROWS)
        for col in range(COLS)
    ]


def in_chunks(key: str, make: Any, images: int = 2) -> list[dict[str, Any]]:
    """Images as the scripts for the nine trained models write them: with chunks."""
    return [
        {
            "image_idx": image,
            "ground_truth_caption": f"caption {image}",
            "feature_shape": [1, 1, ROWS * COLS, 8],
            "chunks": [{"chunk_name": "Full Image", "patches": patches(key, make)}],
        }
        for image in range(images)
    ]


def off_the_shelf(key: str, make: Any, images: int = 2) -> list[dict[str, Any]]:
    """Images as the scripts for the six models off the shelf write them: patches without chunks."""
    return [
        {
            "image_idx": image,
            "ground_truth_caption": f"caption {image}",
            "num_vision_tokens": ROWS * COLS,
            "grid_info": {"height": ROWS, "width": COLS},
            "patches": patches(key, make),
        }
        for image in range(images)
    ]


def latent(folder: Path, layer: int) -> Path:
    content = {"checkpoint": CHECKPOINT, "contextual_dir": "c", "visual_layer": layer, "contextual_layers_used": [1, 8]}
    results = in_chunks("nearest_contextual_neighbors", lambda place: neighbors(place, (8, 1), (0.5, 0.25)))
    name = f"contextual_neighbors_visual{layer}_allLayers.json"
    return _written(folder / name, content | {"num_images": 2, "top_k": 2, "results": results})


def latent_of_one_layer(folder: Path, layer: int, contextual: int, similarities: tuple[float, ...]) -> Path:
    """One contextual layer a file; a gathering of several processes does not keep the order of the images."""
    content = {"checkpoint": CHECKPOINT, "contextual_dir": "c", "contextual_layer": contextual, "visual_layer": layer}
    unsaid = (-1,) * len(similarities)
    results = in_chunks("nearest_contextual_neighbors", lambda place: neighbors(place, unsaid, similarities))
    results = results[:: -1 if contextual % 2 else 1]
    name = f"contextual_neighbors_visual{layer}_contextual{contextual}_multi-gpu.json"
    return _written(folder / name, content | {"num_processes": 2, "top_k": len(similarities), "results": results})


def latent_off_the_shelf(folder: Path, layer: int, name: str = "visual_layer") -> Path:
    content = {"model_name": MODEL, name: layer, "contextual_layers_searched": [1, 8], "num_images": 2, "top_k": 2}
    results = off_the_shelf("nearest_contextual_neighbors", lambda place: neighbors(place, (8, 1), (0.5, 0.25)))
    return _written(folder / f"contextual_neighbors_visual{layer}_allLayers.json", content | {"results": results})


def logit(folder: Path, layer: int) -> Path:
    """Of the logit lens, and, in a folder that says so, of a Tuned Lens."""
    content = {"checkpoint": CHECKPOINT, "split": "validation", "num_images": 2, "top_k": 2, "layer_idx": layer}
    name = f"logit_lens_layer{layer}_topk5_multi-gpu.json"
    return _written(folder / name, content | {"results": in_chunks("top_predictions", predictions)})


def logit_off_the_shelf(folder: Path, layer: int) -> Path:
    content = {"model_name": MODEL, "layer": layer, "num_images": 2, "top_k": 2}
    results = off_the_shelf("top_predictions", predictions)
    return _written(folder / f"logit_lens_layer{layer}_topk5.json", content | {"results": results})


def embedding(folder: Path, layer: int) -> Path:
    images = in_chunks("nearest_neighbors", lambda place: predictions(place, "similarity", token_id=False))
    splits = {"train": {"num_images": 0, "images": []}, "validation": {"num_images": 2, "images": images}}
    name = f"nearest_neighbors_analysis_pixmo_cap_multi-gpu_layer{layer}.json"
    return _written(folder / name, {"checkpoint": CHECKPOINT, "llm_layer": layer, "splits": splits})


def embedding_off_the_shelf(folder: Path, layer: int) -> Path:
    content = {"model_name": MODEL, "layer": layer, "num_images": 2, "top_k": 2}
    results = off_the_shelf("nearest_neighbors", lambda place: predictions(place, "similarity"))
    return _written(folder / f"nearest_neighbors_layer{layer}_topk5.json", content | {"results": results})


def patchscopes(folder: Path, layer: int) -> Path:
    content = {"checkpoint": CHECKPOINT, "method": "patchscopes_identity", "patching_mode": "l_to_l"}
    content |= {"layer_idx": layer, "results": in_chunks("top_predictions", predictions)}
    return _written(folder / f"patchscopes_identity_layer{layer}_topk5.json", content)


def descriptions(folder: Path, layer: int) -> Path:
    """Patchscopes with a prompt that asks for a description: text, no candidates."""
    text = {"generated_text": " a type of animal", "generated_tokens": [" a", " type"]}
    cells = [{"patch_idx": 0, "patch_row": 0, "patch_col": 0} | text]
    results = [{"image_idx": 0, "ground_truth_caption": "c", "grid_size": 1, "patches": cells}]
    content = {"checkpoint": CHECKPOINT, "method": "patchscopes_descriptive", "layer_idx": layer, "results": results}
    return _written(folder / f"descriptive_layer{layer}.json", content)


def single_image(folder: Path, image_path: str) -> Path:
    """One image and two models; the logit lens is left out at a layer of the second."""

    def model(name: str, without_logit: int) -> dict[str, Any]:
        chunk_names = ("Full Image", "Chunk 1")
        key = "nearest_contextual_neighbors"
        chunks = [
            {"chunk_name": chunk, "patches": patches(key, lambda at: neighbors(at, (8, 1), (0.5, 0.25)), f"{chunk} ")}
            for chunk in chunk_names
        ]
        flat = [predictions(f"{chunk}/{i}") for chunk in range(2) for i in range(ROWS * COLS)]
        return {
            "model_spec": {"llm": name, "vision_encoder": "vit-l-14-336", "display_name": name},
            "visual_layers": [0, 16],
            "contextual_layers_used": [1, 8],
            "patches_per_chunk": ROWS * COLS,
            "num_chunks": 2,
            "results_by_layer": {str(layer): {"llm_layer_used": layer, "chunks": chunks} for layer in (16, 0)},
            "logitlens_by_layer": {str(layer): None if layer == without_logit else flat for layer in (16, 0)},
        }

    models = {"OLMo-7B + CLIP": model("olmo-7b", -1), "LLaMA3-8B + CLIP": model("llama3-8b", 16)}
    return _written(folder / "latentlens_results.json", {"image_path": image_path, "models": models})


def judged(image: int, words: list[str], yes: bool, reasoning: str = "so") -> dict[str, Any]:
    """A reply of the judge."""
    lists = {"concrete_words": words[:1] if yes else [], "abstract_words": [], "global_words": []}
    return {"interpretable": yes, "reasoning": reasoning} | lists


def evaluation_results(folder: Path, outcomes: dict[int, str], method: str = "latentlens") -> Path:
    """Outcomes by layer, a letter a patch: y, n, or u for a reply that could not be parsed, which is counted as no."""
    layers = []
    for layer, letters in outcomes.items():
        replies = [
            {
                "image_idx": image,
                "patch_row": 1,
                "patch_col": 1,
                "candidate_words": ["Cat", "dog"],
                "judgment": judged(
                    image, ["Cat"], letter == "y", "Could not parse response: I" if letter == "u" else "so"
                ),
                "interpretable": letter == "y",
            }
            for image, letter in enumerate(letters)
        ]
        yes = letters.count("y")
        counts = {"interpretable_count": yes, "total_count": len(letters), "interpretable_fraction": yes / len(letters)}
        layers.append({"layer": layer, "method": method, "grid_size": 24, "patches": replies} | counts)
    return _written(folder / "evaluation_results.json", layers)


def results_validation(folder: Path, layer: int, letters: str) -> Path:
    """The output of the judge of the paper, one lens and layer a file."""
    results = [
        {
            "image_idx": image,
            "patch_row": 1,
            "patch_col": 1,
            "words": ["Cat"],
            "gpt_response": judged(image, ["Cat"], letter == "y"),
            "interpretable": letter == "y",
        }
        for image, letter in enumerate(letters)
    ]
    source = f"analysis_results/contextual_nearest_neighbors/x/contextual_neighbors_visual{layer}_allLayers.json"
    content = {"llm": "olmo-7b", "vision_encoder": "vit-l-14-336", "api_provider": "openai", "api_model": "gpt-5"}
    content |= {"split": "validation", "input_json": source, "num_images_processed": len(letters), "results": results}
    return _written(
        folder / f"llm_judge_olmo-7b_vit-l-14-336_contextual{layer}_gpt5" / "results_validation.json", content
    )


def results_of_vocabulary_lens(folder: Path, layer: int | str, outcomes: dict[str, str]) -> Path:
    """The output of the paper's judges of EmbeddingLens (layer 8) and LogitLens (layer "layer8"): replies by image."""
    responses = {
        image: [
            {
                "patch_row": 1,
                "patch_col": 1,
                "bbox_size": 3,
                "tokens_used": ["Cat"],
                "gpt_response": judged(0, ["Cat"], letter == "y"),
                "original_image_path": image,
                "image_index": 0,
            }
            for letter in letters
        ]
        for image, letters in outcomes.items()
    }
    letters = "".join(outcomes.values())
    counts = {"total": len(letters), "correct": letters.count("y"), "accuracy": letters.count("y") / len(letters)}
    content = {"model": "olmo-7b_siglip", "layer": layer, "split": "validation", **counts, "responses": responses}
    name = f"llm_judge_olmo-7b_siglip_{layer if isinstance(layer, str) else f'layer{layer}'}_gpt5_cropped"
    return _written(folder / name / "results_validation.json", content)


def latent_of_one_layer_off_the_shelf(folder: Path, layer: int, contextual: int) -> Path:
    """One contextual layer a file, and patches without chunks, as of Qwen2-VL."""
    content = {"model_name": MODEL, "contextual_layer": contextual, "visual_layer": layer, "num_processes": 2}
    lowest = {"lowest_similarity_same_token": {"token_str": " Cat", "similarity": -0.5}}
    results = off_the_shelf(
        "nearest_contextual_neighbors",
        lambda place: [one | lowest for one in neighbors(place, (-1,), (1 / contextual,))],
    )
    name = f"contextual_neighbors_visual{layer}_contextual{contextual}_multi-gpu.json"
    return _written(folder / name, content | {"top_k": 1, "results": results})


def plot_data(folder: Path) -> Path:
    """Rates of all models, as the figures of the paper are drawn from."""
    content = {kind: {"olmo-7b+siglip": {"0": 34.0, "1": 34.0}} for kind in ("nn", "logitlens", "contextual")}
    return _written(folder / "data.json", content)


def aggregated(folder: Path) -> Path:
    """The table that the evaluation scripts make of several evaluations."""
    return _written(folder / "aggregated.json", {"latentlens": {"olmo-vit": {"0": 70.0, "16": 77.0}}})
