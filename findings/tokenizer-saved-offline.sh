#!/usr/bin/env bash
# The files of a tokenizer that is loaded from a local folder and saved again, with and without HF_HUB_OFFLINE.
# Guess, before the run: the same bytes, for the variable is about the network and the folder needs none.
# Seen: with HF_HUB_OFFLINE=1 tokenizer_config.json gains "local_files_only": true; without it "local_files_only": false. A folder
# that was saved with the one and is loaded and saved with the other changes again.
# What follows: lenscore takes the entry out before it saves a trained model, so that its bytes do not depend on the cluster.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3 2>/dev/null
"$folder/venv/bin/python" - "$folder" <<'PY'
import importlib.metadata as metadata
import json
import os
import subprocess
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

print(*(f"{name} {metadata.version(name)}" for name in ("transformers", "tokenizers", "huggingface_hub")))
folder = Path(sys.argv[1])
(folder / "made").mkdir()
words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "boat": 2}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
words.save(str(folder / "made" / "tokenizer.json"))
(folder / "made" / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"})
)
SAVE = "import sys; from transformers import AutoTokenizer as A; A.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"


def saved(source: str, target: str, offline: str) -> object:
    subprocess.run(
        [sys.executable, "-c", SAVE, folder / source, folder / target],
        env={**os.environ, "HF_HUB_OFFLINE": offline},
        check=True,
        capture_output=True,
    )
    found = json.loads((folder / target / "tokenizer_config.json").read_text()).get("local_files_only", "no entry")
    print(f"{source} loaded with HF_HUB_OFFLINE={offline}, saved: local_files_only = {found}")
    return found


seen = [saved("made", "online", "0"), saved("made", "offline", "1"), saved("offline", "again", "0")]
sys.exit(seen != [False, True, False])
PY
