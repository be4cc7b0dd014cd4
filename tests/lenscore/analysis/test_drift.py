"""The shuffled baseline: partners of visual tokens, and cosines that are not defined."""

from __future__ import annotations

import numpy as np
import torch

from lenscore.analysis.drift import batch_partners, drift_cosines, partners


def test_everybody_has_a_partner_that_depends_on_the_image_alone() -> None:
    found = partners("a" * 64, 576)
    assert sorted(found.tolist()) == list(range(576))
    assert (found != np.arange(576)).all()
    assert (found != partners("b" * 64, 576)).mean() > 0.9
    together = batch_partners([("b" * 64, 5), ("", 0), ("a" * 64, 576)])
    assert (together[5:] - 5 == found).all()
    assert (together[:5] == partners("b" * 64, 5)).all()
    assert batch_partners([]).tolist() == []
    # Steps to the partner are as even as chance makes them: a fixed shift would be a pattern in the picture.
    assert len(set(((found - np.arange(576)) % 576).tolist())) > 300


def test_cosines_of_bfloat16_states_are_computed_in_float32() -> None:
    states = torch.randn(4, 50, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    states[2, 7] = 0
    norms = torch.linalg.vector_norm(states, dim=2, dtype=torch.float32)
    partner = torch.from_numpy(partners("x", 50))
    partner[11] = 11
    own, shuffled = drift_cosines(states, norms, 1, partner)
    exact = states.double().numpy()
    with np.errstate(invalid="ignore"):
        unit = exact / np.linalg.norm(exact, axis=2, keepdims=True)
    expected = np.einsum("ltd,td->lt", unit, unit[1])
    np.testing.assert_allclose(own.numpy(), expected, atol=1e-6)
    assert own.isnan().nonzero().tolist() == [[2, 7]]
    expected = np.einsum("ltd,td->lt", unit, unit[1][partner.numpy()])
    expected[:, 11] = np.nan
    np.testing.assert_allclose(shuffled.numpy(), expected, atol=1e-6)
