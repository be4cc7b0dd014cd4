"""Fingerprints of tokenizers and weights: are two models the same language model?"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

from lenscore.models.decoder import decoder_of


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 over the vocabulary without added tokens: equal for an LLM and for the VLM made from it."""
    added = tokenizer.get_added_vocab()
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items() if token not in added)
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def weights_fingerprint(module: nn.Module) -> str:
    """SHA-256 over a fixed sample of every weight.

    It reads 64 evenly spaced values of each parameter, rounded to bfloat16, so that a checkpoint and its
    half-precision copy have equal fingerprints.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        flat = weight.detach().reshape(-1)
        picked = torch.linspace(0, flat.numel() - 1, 64, dtype=torch.float64).long().to(flat.device)
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(flat[picked].bfloat16().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def text_weights_fingerprint(model: Any) -> str:
    """`weights_fingerprint` of the LLM: equal for an LLM and for the VLM made from it.

    The embeddings are left out, because a VLM made from an LLM adds rows to them.
    """
    return weights_fingerprint(decoder_of(model).layers)
