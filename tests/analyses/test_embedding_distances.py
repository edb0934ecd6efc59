"""Embedding distances in pieces, against the plain formulas in float64."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.planted import planted


@pytest.mark.parametrize("factor", [0.02, 1.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_pieces_and_small_gaps_agree_with_the_plain_formulas(factor, shift):
    weights = planted(1)
    table = factor * (weights.vocabulary.W_E + shift)
    weights = replace(weights, vocabulary=replace(weights.vocabulary, W_E=table))
    E = table.double()
    points = weights.block(0).norm.sphere(E)
    mean, scale = E.mean(0), weights.d_model**0.5 / E.norm(dim=-1).mean()
    result = tw.embedding_distances(weights).to_dataframe().set_index("setting")
    for name, vectors in (
        ("original", E), ("centered", E - mean), ("scaled", E * scale),
        ("centered_scaled", (E - mean) * scale),
    ):  # fmt: skip
        l2 = (points - vectors).norm(dim=-1)
        cosine = 1 - torch.cosine_similarity(points, vectors, dim=-1)
        expected = [l2.mean(), l2.std(), cosine.mean(), cosine.std()]
        numbers = [float(number) for number in expected]
        assert result.loc[name].tolist() == pytest.approx(numbers, rel=2e-5, abs=1e-6)
