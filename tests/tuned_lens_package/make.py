"""Makes the other files here with the real package: `PYTHONPATH=. python tests/tuned_lens_package/make.py`.

It needs tuned-lens 0.2.0, of which only the modules of `tuned_lens.nn` are imported (pip install --no-deps tuned-lens).
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tuned_lens.nn.lenses import TunedLens

from tests.conftest import make_llama

HERE = Path(__file__).parent


def main() -> None:
    model = make_llama()
    lens = TunedLens.from_model(model)
    torch.manual_seed(0)
    for parameter in lens.layer_translators.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    lens.config.base_model_name_or_path = "tests/conftest.py: make_llama"
    lens.save(HERE)
    states = torch.randn(4, 3, 32)
    logits = torch.stack([lens(state, idx=layer) for layer, state in enumerate(states)]).detach()
    head, norm = model.lm_head.weight.detach(), model.model.norm.weight.detach()
    save_file({"states": states, "logits": logits, "head": head, "norm": norm}, HERE / "logits.safetensors")


if __name__ == "__main__":
    main()
