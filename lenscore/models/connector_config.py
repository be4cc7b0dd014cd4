"""The configuration of a model that `lens train` makes; apart from the model, whose code takes seconds to load.

Importing this module registers the configuration with transformers' AutoConfig.
"""

from __future__ import annotations

from typing import Any

from lenscore.models.torchvision_fits import require_fitting_torchvision

require_fitting_torchvision()
from transformers import AutoConfig, LlavaConfig  # noqa: E402 - configurations import torchvision too


class ConnectorConfig(LlavaConfig):
    """A `LlavaConfig` with a connector.

    Attributes:
        connector: swiglu, mlp or linear.
        connector_hidden_size: width inside the connector; not used by linear.
        num_prefix_tokens: tokens of the encoder before the patches (class token, registers); they are left out.
        patch_embedding: one vector is added to all visual tokens, as in the published connectors.
        made_of: names of the joined models, and the settings of `lens train`; None if unknown.

    `vision_feature_layer` holds indices of the encoder's hidden_states (0 is its embeddings), whose features are
    concatenated in that order; `vision_feature_select_strategy` is "full".

    """

    model_type = "lenscore_llava"

    connector: str = "swiglu"
    connector_hidden_size: int = 0
    num_prefix_tokens: int = 0
    patch_embedding: bool = False
    made_of: dict[str, Any] | None = None


def plain_config(config: Any) -> dict[str, Any]:
    """The configuration of a part of a model, without the folder that it was loaded from."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


AutoConfig.register(ConnectorConfig.model_type, ConnectorConfig, exist_ok=True)
