"""Cache files that hold other tensors or words than the latentlens library writes: read as they are, or one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage_layouts.errors import InputError
from storage_layouts.latentlens_files import read_cache

STATES = torch.tensor([[1.0, 2.0, -3.0], [0.5, 4.0, 8.0]])
WORDS = [{"token_str": "a", "token_id": 7, "caption": "a b", "position": 0} for _ in STATES]


def saved(folder: Path, content: Any) -> Path:
    file = folder / "embeddings_cache.pt"
    torch.save(content, file)
    return file


OTHERS = {
    "coo": (lambda x: x.to_sparse(), "a sparse_coo tensor"),
    "csr": (lambda x: x.to_sparse_csr(), "a sparse_csr tensor"),
    "meta": (lambda x: x.to("meta"), "a meta tensor"),
    "quantized": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "dtype qint8"),
    "nested": (lambda x: torch.nested.nested_tensor([x[0], x[1, :2]]), "a nested tensor"),
    "complex": (lambda x: torch.complex(x, x), "dtype complex64"),
    "conjugate": (lambda x: torch.complex(x, x).conj(), "dtype complex64"),
    "bool": (lambda x: x > 0, "dtype bool"),
    "int": (lambda x: x.int(), "dtype int32"),
    "byte": (lambda x: x.to(torch.uint8), "dtype uint8"),
    "no width": (lambda x: x[:, :0], r"\[2, 0\], expected at least one row and one column"),
    "one axis": (lambda x: x[0], r"{embeddings: Tensor \[3\]"),
    "numpy": (lambda x: x.numpy(), "refused, because reading it would run numpy"),
    "list": (lambda x: x.tolist(), "{embeddings: list 2"),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.filterwarnings("ignore")  # of torch, about formats that it is giving up
def test_only_dense_tensors_of_real_floats_are_embeddings(tmp_path: Path, kind: str) -> None:
    make, found = OTHERS[kind]
    with pytest.raises(InputError, match=found) as refused:
        read_cache(saved(tmp_path, {"embeddings": make(STATES), "metadata": WORDS}))
    assert str(refused.value).startswith(str(tmp_path))
    assert "\n" not in str(refused.value)
    assert "torch." not in str(refused.value)  # nothing that only a programmer could follow


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_every_real_float_is_read_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    states = torch.nn.Parameter(STATES) if dtype == torch.float32 else STATES.to(dtype)
    found = read_cache(saved(tmp_path, {"embeddings": states, "metadata": WORDS})).embeddings
    assert found.dtype == dtype
    assert not found.requires_grad
    assert found.double().tolist() == STATES.to(dtype).double().tolist()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"token_id": 2**70}, "token_id: found 1180591620717411303424, expected a number of at most 32 bits"),
        ({"token_id": 2**31}, "at most 32 bits"),
        ({"position": -(2**40)}, "position: found -1099511627776"),
        ({"token_id": float("nan")}, "NaN"),
        ({"token_id": 1.5}, "token_id: found 1.5, expected a whole number"),
        ({"token_id": "x"}, "'x'"),
        ({"token_id": None}, "NoneType"),
        ({"caption": "a \ud800"}, r"lone surrogate in \'a \\ud800\'"),
        ({"token_str": "\udfff"}, "lone surrogate"),
    ],
    ids=["70bits", "31bits", "position", "nan", "fraction", "text", "none", "caption", "token"],
)
def test_words_that_no_table_can_hold_are_one_line(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        read_cache(saved(tmp_path, {"embeddings": STATES, "metadata": [WORDS[0], WORDS[1] | changed]}))
    assert str(refused.value).isascii()
    assert "\n" not in str(refused.value)


def test_whole_numbers_of_other_kinds_are_read(tmp_path: Path) -> None:
    words = [WORDS[0] | {"token_id": np.int64(3), "position": 2.0}, WORDS[1] | {"token_id": torch.tensor(4)}]
    rows = read_cache(saved(tmp_path, {"embeddings": STATES, "metadata": words})).rows
    assert (rows["token_id"].to_pylist(), rows["position"].to_pylist()) == ([3, 4], [2, 0])
