"""Tiny random language models of the families of transformers, with norms that are not the identity."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

VOCABULARY, WIDTH, DEPTH = 64, 32, 4
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "lru_width"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "moe_intermediate_size"), 2 * WIDTH),
    **dict.fromkeys(("num_attention_heads", "attention_heads", "n_head"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "sliding_window", "attention_window_size"), 16),
    **{"num_key_value_heads": 2, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    **{"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 2},
    **{"vocab_size": VOCABULARY, "max_position_embeddings": 64, "n_positions": 64, "initializer_range": 0.3},
    **dict.fromkeys(("dropout", "activation_dropout", "attention_dropout", "layerdrop"), 0.0),
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def causal_lm(family: str, depth: int = DEPTH, **settings: Any) -> Any:
    """A model of a family (its `model_type`), of width 32, in eval mode; `settings` of its configuration."""
    kind = CONFIG_MAPPING[family]
    usual = kind().to_dict()
    small = SMALL | dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer"), depth)
    chosen = {name: value for name, value in small.items() if name in usual}
    if different := list(dict.fromkeys(usual.get("layer_types") or [])):
        chosen["layer_types"] = [different[i % len(different)] for i in range(depth)]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**chosen | settings)).eval()
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and "norm" in name.lower() and name.endswith("weight"):
            torch.nn.init.uniform_(weight, 0.5, 2.0)
        elif weight.ndim > 1 and float(weight.detach().std()) < 0.1:
            torch.nn.init.normal_(weight, std=0.3)
    return model
