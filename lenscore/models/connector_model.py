"""A frozen language model and a frozen vision encoder joined by a connector: transformers' LLaVA with our connectors.

It adds to LLaVA the gated connector of the LatentLens paper (arXiv 2602.00462, section 4), and encoders with no
class token or with more than one token before the patches. Importing this module registers such models with
transformers' Auto classes, so that a saved one is loaded like any other.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration, LlavaModel

from lenscore.models.connector_config import ConnectorConfig
from lenscore.models.flag_types import ConnectorKind

CONNECTORS: tuple[str, ...] = get_args(ConnectorKind)
"""The connectors: the gated one of the paper, LLaVA's two layers, one layer."""


class SwigluConnector(nn.Module):
    """w2(silu(w1 x) * w3 x) without biases: the connector of the LatentLens paper (its GLU is Shazeer 2020)."""

    def __init__(self, features: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(features, hidden, bias=False)
        self.w2 = nn.Linear(hidden, dim, bias=False)
        self.w3 = nn.Linear(features, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [..., features] as inputs of the language model [..., dim]."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def _mlp(features: int, hidden: int, dim: int) -> nn.Module:
    """The connector of LLaVA-1.5, with its parameter names: linear_2(gelu(linear_1 x)) with biases."""
    return nn.Sequential(
        OrderedDict(linear_1=nn.Linear(features, hidden), act=nn.GELU(), linear_2=nn.Linear(hidden, dim))
    )


class PatchConnector(nn.Module):
    """Drops the tokens before the patches, and applies the connector to the patches."""

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__()
        layers = config.vision_feature_layer
        count = 1 if isinstance(layers, int) else len(layers)
        features, dim = count * config.vision_config.hidden_size, config.text_config.hidden_size
        self.num_prefix_tokens = config.num_prefix_tokens
        self.layers: nn.Module
        if config.connector == "linear":
            self.layers = nn.Linear(features, dim)
        elif config.connector == "mlp":
            self.layers = _mlp(features, config.connector_hidden_size, dim)
        elif config.connector == "swiglu":
            self.layers = SwigluConnector(features, config.connector_hidden_size, dim)
        else:
            raise ValueError(f"connector {config.connector!r}: expected one of {', '.join(CONNECTORS)}")
        self.patch_embedding = nn.Parameter(torch.zeros(dim)) if config.patch_embedding else None

    def forward(self, features: Tensor) -> Tensor:
        """All tokens of the encoder [images, tokens, features] as visual tokens [images, patches, dim]."""
        tokens: Tensor = self.layers(features[:, self.num_prefix_tokens :])
        return tokens if self.patch_embedding is None else tokens + self.patch_embedding


class ConnectorModel(LlavaModel):
    """`LlavaModel` with a `PatchConnector` as its projector."""

    config_class = ConnectorConfig

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__(config)
        self.multi_modal_projector = PatchConnector(config)
        self.post_init()


class ConnectorForConditionalGeneration(LlavaForConditionalGeneration):
    """`LlavaForConditionalGeneration` with a `PatchConnector` as its projector."""

    config_class = ConnectorConfig

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__(config)
        self.model = ConnectorModel(config)
        self.post_init()

    @property
    def connector(self) -> nn.Module:
        """The part that is trained."""
        return self.model.multi_modal_projector.layers


def initialise(connector: nn.Module, seed: int) -> None:
    """Initialise a connector as the paper's code does: weights normal with deviation 0.02, biases 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in sorted(connector.named_parameters()):
            values = torch.zeros(weight.shape)
            if weight.dim() > 1:
                values.normal_(0.0, 0.02, generator=generator)
            weight.copy_(values)


AutoModelForImageTextToText.register(ConnectorConfig, ConnectorForConditionalGeneration, exist_ok=True)
