"""Heads read by positions: scores, a planted previous-token head, shares of strength."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import by_hand
from tw_lens.geometry import principal_span

D, D_HEAD, N, V = 64, 24, 20, 300


def with_positions(seed: int, *, previous: bool) -> tw.Weights:
    """Return one layer of two heads with learned positions, orthogonal to the tokens.

    Head 0 connects every position with the one before; head 1 reads tokens.
    """
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=g))[0].T
    W_pos = basis[:N] * 3
    W_E = torch.randn(V, D - N, generator=g) @ basis[N:]
    W_Q, W_K, W_V = (0.1 * torch.randn(2, D, D_HEAD, generator=g) for _ in range(3))
    if previous:
        W_Q[0], W_K[0] = 0.0, 0.0
        W_Q[0, :, : N - 1] = basis[1:N].T * torch.linspace(3, 2, N - 1)
        W_K[0, :, : N - 1] = basis[: N - 1].T
        W_Q[1] = basis[N:].T @ torch.randn(D - N, D_HEAD, generator=g)
    weights = by_hand(W_E, W_Q, W_K, W_V, 0.1 * torch.randn(2, D_HEAD, D, generator=g))
    return replace(weights, read_positions=lambda: W_pos)


def test_a_planted_previous_token_head_is_read_by_positions():
    weights = with_positions(0, previous=True)
    scores = tw.head_position_scores(weights, layer=0)
    assert scores.share_at_distance(1).tolist()[0] == pytest.approx((N - 1) / N)
    assert float(scores.share_at_distance(1)[1]) < 0.3
    by_distance = scores.by_distance()[0]
    assert int(by_distance.argmax()) == 1
    own = scores.scores[0].double()
    rows = [float(own[i, i - 3] - own[i, : i + 1].mean()) for i in range(3, N)]
    assert float(by_distance[3]) == pytest.approx(sum(rows) / len(rows), abs=1e-5)
    assert "L0H0 scores the previous position highest at 95 %" in scores.headline()
    spectrum = tw.head_spectrum(
        weights, layer=0, head=0, n=5, k=1, points=tw.position_points(weights)
    )
    pairs = zip(spectrum.left.token_index[:, 0], spectrum.right.token_index[:, 0], strict=True)
    assert [(int(q) - int(k)) for q, k in pairs] == [1] * 5
    shares = tw.span_shares(weights, tw.position_points(weights), variance=1.0)
    table = shares.to_dataframe().set_index(["head", "circuit", "side", "points"]).share
    for side in ("left", "right"):  # all but the positions' mean, one direction of N
        assert table[0, "QK", side, "learned positions"] == pytest.approx(1, abs=1.2 / N)
    assert table[0, "QK", "left", "tokens"] == pytest.approx(0, abs=1e-3)
    assert table[1, "QK", "left", "learned positions"] == pytest.approx(0, abs=1e-4)
    assert "L0H0" in shares.headline()


def test_random_heads_do_not_prefer_the_previous_position():
    """The previous key leads by chance at `mean 1 / (i + 1)` of the queries."""
    chance = sum(1 / (i + 1) for i in range(1, N)) / N
    shares = [
        tw.head_position_scores(with_positions(s, previous=False), layer=0).share_at_distance(1)
        for s in range(20)
    ]
    assert abs(float(torch.cat(shares).mean()) - chance) < 0.05


def test_scores_are_those_of_the_formula_in_float64():
    weights = tw.read_weights(shared_bridge("gpt2"))
    block, points = weights.block(1), tw.position_points(weights)
    p = points.vectors[:10].double()
    y = (p - p.mean(-1, keepdim=True)) / points.divisor
    q = torch.einsum("pd,hde->hpe", y, block.A_Q.double()) + block.a_Q.double()[:, None]
    k = torch.einsum("pd,hde->hpe", y, block.A_K.double())
    expected = block.attention_scores.scale * q @ k.mT
    result = tw.head_position_scores(weights, layer=1, n=10)
    assert torch.allclose(result.scores.double(), expected, rtol=1e-4, atol=1e-5)
    one = tw.head_position_scores(weights, layer=1, head=2, n=10)
    assert torch.equal(one.scores[0], result.scores[2]) and one.components == ("L1H2",)
    table = result.to_dataframe()
    assert len(table) == 4 * 55 and set(table.query("head == 0 and query == 'position 0'").key) == {
        "position 0"
    }


def test_span_shares_are_those_of_dense_matrices():
    weights = tw.read_weights(shared_bridge("gemma"))  # grouped heads, RMSNorm
    g = torch.Generator().manual_seed(3)
    x = torch.randn(5, weights.d_model, generator=g)
    points = tw.Points(x, [f"p{i}" for i in range(5)], "direction", "five points")
    result = tw.span_shares(weights, points, layers=[1], variance=0.8)
    centred = (x - x.mean(0)).double()
    _, S, basis = torch.linalg.svd(centred, full_matrices=False)
    rank = 1 + int((S.square().cumsum(0) / S.square().sum() < 0.8).sum())
    assert result.rank[0][1] == rank < 5
    B, block = basis[:rank].T, weights.block(1)
    L, R = (factor.double() for factor in block.qk_factors())
    for h in range(weights.n_heads):
        matrices = {
            0: L[h] @ R[block.kv_head[h]].T,
            1: block.A_V[block.kv_head[h]].double() @ block.A_O[h].double(),
        }
        for c, W in matrices.items():
            strength = W.square().sum()
            assert float(result.share[1, c, 0, h]) == pytest.approx(
                float((B.T @ W).square().sum() / strength), rel=1e-4
            )
            assert float(result.share[1, c, 1, h]) == pytest.approx(
                float((W @ B).square().sum() / strength), rel=1e-4
            )
    row = result.to_dataframe().query("points == 'five points'").iloc[0]
    assert row["rank"] == rank and row.expected == pytest.approx(rank / weights.d_model)


def test_principal_span_of_what_does_not_vary_is_empty():
    assert principal_span(lambda: iter([torch.ones(4, 3)]), 0.9).shape == (3, 0)
    whole = principal_span(lambda: iter([torch.eye(3), -torch.eye(3)]), 1.0)
    assert whole.shape == (3, 3)


def test_refusals():
    llama = tw.read_weights(shared_bridge("llama"))
    with pytest.raises(tw.UnsupportedModelError, match="no learned positions"):
        tw.head_position_scores(llama, layer=0)
    points = tw.Points(torch.ones(2, llama.d_model), ["a", "b"])
    with pytest.raises(ValueError, match="variance must be above 0"):
        tw.span_shares(llama, points, variance=0.0)
    with pytest.raises(ValueError, match="width"):
        tw.span_shares(llama, tw.Points(torch.ones(2, 3), ["a", "b"]))
