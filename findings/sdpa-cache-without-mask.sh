#!/usr/bin/env bash
# transformers: what do several new tokens attend to when one block is called with a cache of earlier ones and without a mask?
# (A model passes no mask to its blocks for a whole text, and blocks that are called alone are called as the model called them.)
# Guess, before it was tried: each new token sees all cached ones and the new ones up to it, as a whole pass does, because without a mask a
# decoder's attention is causal, and so it is in flash attention; and this does not depend on attn_implementation.
# Seen: sdpa cuts keys and values off after as many as there are new tokens. Of 4 cached and 2 new tokens, the new ones see the first two
# cached ones, and neither the others nor themselves; nothing is said. eager sees everything, later tokens too.
# What follows: a pass that goes on behind cached keys gives every block a mask of its own (lenscore/models/recorded_pass.py), and such a
# pass is compared with a whole one before it is used.
set -euo pipefail
folder=$(mktemp -d /tmp/tXXXX); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6 2>/dev/null
"$folder/venv/bin/python" - <<'PY'
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 16}
torch.manual_seed(0)
states = torch.randn(1, 6, 32)
print("transformers", transformers.__version__, "torch", torch.__version__)


def new_tokens(attention, given, mask=None):
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation=attention)).eval().model
    cos, sin = llama.rotary_emb(given, position_ids=torch.arange(6)[None])
    block, cache = llama.layers[0], DynamicCache()
    with torch.no_grad():
        block(given[:, :4], position_embeddings=(cos[:, :4], sin[:, :4]), past_key_values=cache)
        rest = {"position_embeddings": (cos[:, 4:], sin[:, 4:]), "past_key_values": cache, "attention_mask": mask}
        return block(given[:, 4:], **rest)


causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None, 4:]
ours = new_tokens("sdpa", states)
right = torch.equal(ours, new_tokens("sdpa", states, causal))
changed = states.clone()
changed[:, 2:4] = torch.randn(1, 2, 32)
blind = torch.equal(ours, new_tokens("sdpa", changed))
ahead = states.clone()
ahead[:, 5] = torch.randn(1, 32)
looks_ahead = not torch.allclose(new_tokens("eager", states)[:, 0], new_tokens("eager", ahead)[:, 0])
print("sdpa without a mask gives what it gives with a causal one:", right)
print("sdpa: other states of the cached tokens 2 and 3 change nothing:", blind)
print("eager: the first new token depends on the second:", looks_ahead)
raise SystemExit(0 if not right and blind and looks_ahead else 1)
PY
