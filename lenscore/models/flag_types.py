"""The values of flags that name a kind of weights or of connector; it loads no library, so that `--help` is fast."""

from __future__ import annotations

from typing import Literal

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Dtype of the weights; auto is that of the checkpoint."""
Quantization = Literal["none", "8bit", "4bit"]
"""How the linear layers are held in memory: as in the checkpoint, or in 8 or 4 bits by bitsandbytes."""
ConnectorKind = Literal["swiglu", "mlp", "linear"]
ImageFit = Literal["own", "squash", "pad"]
"""How images meet an encoder: by its own image processor, squashed to a square, or padded to one."""
