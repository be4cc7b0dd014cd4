"""How a command that runs one model in its own process loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from lenscore.models.flag_types import Dtype, Quantization


class LoadingOptions(TypedDict):
    """Options of `lenscore.analyze_image` and `lenscore.analyze_text` for the name of a model."""

    device: str
    dtype: str
    quantization: Quantization
    trust_remote_code: bool
    revision: str | None


@dataclass(frozen=True)
class ModelFlags:
    """Where a model is computed, and how its weights are held."""

    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1, or spread (over all GPUs); by default CUDA where there is one."""
    dtype: Dtype = "auto"
    """Dtype of the weights; auto is the checkpoint's own."""
    quantization: Quantization = "none"
    """Hold the weights in 8 or 4 bits, by bitsandbytes on a GPU; the store must be made the same way."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    revision: str = ""
    """Branch, tag or commit of a Hub model; by default its main branch."""

    def options(self) -> LoadingOptions:
        """The flags as arguments. Raises InputError for a device that is not here; imports PyTorch."""
        from jobs.worker import settle_device

        return {
            "device": settle_device(self.device or "auto"),
            "dtype": self.dtype,
            "quantization": self.quantization,
            "trust_remote_code": self.trust_remote_code,
            "revision": self.revision or None,
        }
