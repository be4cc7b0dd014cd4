#!/usr/bin/env bash
# transformers: does output_hidden_states show what a forward hook on a block has changed (steering, a replaced state)?
# Guess, before the run: yes, in every family. hidden_states[2] is what block 2 gets, and block 2 gets the changed state.
# Seen: it depends on what was called before. Many families record hidden_states by hooks of the library's own, which stay on the blocks
# after the first call that asks for them. A user's hook that is older than this call is seen. One that is younger runs after the recording:
# hidden_states[2] is the unchanged state to the last bit, while block 2 works on the changed one and hidden_states[3] shows it. Falcon, MPT
# and Bloom collect the states in their own loop and always show the change. Nothing is said in any case.
# What follows: a changed pass is recorded by hooks that are registered for this pass, or before the block that reads the state
# (lenscore/models/hidden_states.py), and not by output_hidden_states.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6 2>/dev/null
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import torch
import transformers as hf

print("transformers", hf.__version__, "torch", torch.__version__)
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 64}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 4}
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0}
MODELS = {
    "Llama": (hf.LlamaForCausalLM, hf.LlamaConfig(**LLAMA), "model.layers"),
    "Qwen2": (hf.Qwen2ForCausalLM, hf.Qwen2Config(**LLAMA), "model.layers"),
    "GPT-2": (hf.GPT2LMHeadModel, hf.GPT2Config(**GPT2), "transformer.h"),
    "Falcon": (hf.FalconForCausalLM, hf.FalconConfig(**SMALL), "transformer.h"),
}
TOKENS = torch.tensor([[1, 5, 9, 3]])


def plus_one(_module, _args, output):
    return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1


def shown(family, asked_before):
    """How far hidden_states[2] is from the unchanged run, and from what block 2 gets."""
    make, config, path = MODELS[family]
    torch.manual_seed(0)
    model, plain = make(config).eval(), make(config).eval()
    plain.load_state_dict(model.state_dict())
    blocks, got = model.get_submodule(path), []
    with torch.no_grad():
        unchanged = plain(TOKENS, output_hidden_states=True, use_cache=False).hidden_states[2]
        if asked_before:
            model(TOKENS, output_hidden_states=True, use_cache=False)
        blocks[1].register_forward_hook(plus_one)
        blocks[2].register_forward_pre_hook(lambda _module, args: got.append(args[0]))
        state = model(TOKENS, output_hidden_states=True, use_cache=False).hidden_states[2]
    return torch.equal(state, unchanged), torch.equal(state, got[0])


changed = False
for family in MODELS:
    for asked_before in (False, True):
        seen = shown(family, asked_before)
        what = {(True, False): "the unchanged state", (False, True): "what block 2 gets"}.get(seen, str(seen))
        print(f"{family}, hidden_states asked for {'before' if asked_before else 'after'} the hook was set: {what}")
        changed |= seen != ((True, False) if asked_before and family != "Falcon" else (False, True))
raise SystemExit(changed)
PY
