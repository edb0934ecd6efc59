"""Head kinds: planted heads are found, random weights claim nothing, scores are those by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tests.planted import by_hand
from tw_lens.analyses.head_kind_scores import attention_to_places, match_tokens
from tw_lens.canonical import AttentionScores, Block, Rotary, Weights
from tw_lens.studies.head_kinds_result import HEAD_KINDS

D, D_HEAD, V, N_POSITIONS = 96, 32, 200, 60


def token_basis(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token embeddings, and orthonormal bases of their space and of a free one."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=g))[0].T
    words, free = basis[:D_HEAD], basis[D_HEAD : 2 * D_HEAD]
    W_E = torch.randn(V, D_HEAD, generator=g) @ words + 0.05 * torch.randn(V, D, generator=g)
    return W_E, words, free


def two_layers(seed: int) -> Weights:
    """Return a previous-token head (L0H0) and an induction head (L1H0) that reads what it writes.

    L0H1 copies, L0H2 suppresses, L1H1 attends to the same token, L1H2 is random.
    """
    g = torch.Generator().manual_seed(seed)
    W_E, words, free = token_basis(seed)
    basis = torch.linalg.qr(torch.cat([words, free, torch.randn(32, D, generator=g)]).T)[0].T
    W_pos = 8 * torch.nn.functional.normalize(torch.randn(N_POSITIONS, 32, generator=g), dim=-1)
    W_pos = W_pos @ basis[2 * D_HEAD :]
    zeros = torch.zeros(3, D, D_HEAD)
    W_Q, W_K, W_V, W_O = zeros.clone(), zeros.clone(), zeros.clone(), zeros.mT.clone()
    shift = torch.linalg.lstsq(W_pos[1:], W_pos[:-1]).solution  # row p_i to row p_{i-1}
    U, S, Vh = torch.linalg.svd(shift)
    W_Q[0] = 6 * U[:, :D_HEAD] * S[:D_HEAD]
    W_K[0] = Vh[:D_HEAD].T
    W_V[0], W_O[0] = words.T, free
    W_V[1], W_O[1] = words.T, words
    W_V[2], W_O[2] = words.T, -words
    layer_0 = by_hand(W_E, W_Q, W_K, W_V, W_O)
    W_Q, W_K = zeros.clone(), zeros.clone()
    W_Q[0], W_K[0] = 6 * words.T, free.T
    W_Q[1], W_K[1] = 6 * words.T, words.T
    W_Q[2], W_K[2] = (0.1 * torch.randn(D, D_HEAD, generator=g) for _ in range(2))
    W_V, W_O = (
        0.1 * torch.randn(3, D, D_HEAD, generator=g),
        0.1 * torch.randn(3, D_HEAD, D, generator=g),
    )
    blocks = [layer_0.block(0), replace(by_hand(W_E, W_Q, W_K, W_V, W_O).block(0), layer=1)]
    return replace(
        layer_0, n_layers=2, attention_layers=(0, 1), read_block=lambda layer: blocks[layer],
        read_positions=lambda: W_pos,
    )  # fmt: skip


def test_planted_heads_are_read_as_what_they_are():
    result = tw.head_kinds(two_layers(0))
    assert "previous token" in result.kinds_of(0, 0)
    assert result.kinds_of(0, 1) == ("copying",)
    assert result.kinds_of(0, 2) == ("suppression",)
    assert result.kinds_of(1, 0) == ("induction",)
    assert result.kinds_of(1, 1) == ("same token",)
    assert result.kinds_of(1, 2) == ()
    assert "1 previous token" in result.headline() and "1 induction" in result.headline()
    row = result.to_dataframe().query("component == 'L1H0' and kind == 'induction'").iloc[0]
    assert row.claimed and row.from_weights > 0.95 and row.p == pytest.approx(1 / 200)


def test_a_planted_rotary_head_attends_to_the_previous_token():
    """Constant queries and keys, the query turned so that the angle is 0 one position back."""
    g = torch.Generator().manual_seed(1)
    shapes = ((V, D), *[(2, D, D_HEAD)] * 3, (2, D_HEAD, D))
    weights = by_hand(*(0.1 * torch.randn(shape, generator=g) for shape in shapes))
    plain = tw.read_weights(shared_bridge("llama")).block(0).attention_scores.rotary
    assert isinstance(plain, Rotary)
    width = shared_bridge("llama").cfg.d_head
    key = torch.zeros(width)
    key[[0, 1, width // 2, width // 2 + 1]] = 0.5  # the two fastest pairs
    block: Block = weights.block(0)
    scores = AttentionScores(scale=1.0, rotary=plain)
    # R(1) turns the query by one position; its inverse makes the two equal at distance 1
    turned = plain.turn(torch.eye(width)[:, None], 1)[:, 0]
    query = key @ torch.linalg.inv(turned)
    b_Q, b_K = torch.zeros(2, width), torch.zeros(2, width)
    b_Q[0], b_K[0] = 60 * query, key
    W = 0.01 * torch.randn(2, D, width, generator=g)
    block = replace(block, W_Q=W, W_K=W.flip(0), b_Q=b_Q, b_K=b_K, attention_scores=scores)
    found = tw.head_kinds(replace(weights, read_block=lambda layer: block))
    assert found.kinds_of(0, 0) == ("previous token",) and found.kinds_of(0, 1) == ()
    assert float(found.from_weights[0, 0]) > 0.7


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_random_weights_are_claimed_at_most_in_5_percent(kind: str):
    claimed = torch.stack(
        [tw.head_kinds(tw.read_weights(tiny_bridge(kind, s)), seed=s).claimed() for s in range(8)]
    )
    assert claimed.shape[1] == len(HEAD_KINDS) and claimed.numel() > 300
    assert float(claimed.float().mean((0, 2)).max()) <= 0.05


def test_matching_is_that_of_loops_and_uniform_for_random_scores():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 30, 30, generator=g).double()
    result = match_tokens(scores, torch.Generator().manual_seed(1))
    for h in range(3):
        centred = scores[h] - scores[h].mean(0)
        lower = [
            sum(bool(centred[w, o] < centred[w, w]) for o in range(30)) / 29 for w in range(30)
        ]
        assert float(result.auc[h]) == pytest.approx(sum(lower) / 30, abs=1e-6)
    assert float((result.p_above <= 0.2).float().mean()) == pytest.approx(0.2, abs=0.15)
    one = scores[:1] + 10 * torch.eye(30)
    found = match_tokens(torch.stack([scores[1:2], one]), g)
    assert float(found.auc[0]) == pytest.approx(1) and float(found.p_above[0]) < 0.0051
    assert float(match_tokens(-one, g).p_below[0]) < 0.0051


def test_attention_to_places_by_hand():
    pattern = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(0)).tril()
    previous, first, same, after = attention_to_places(pattern, 1, 4)
    assert torch.allclose(
        previous, torch.stack([pattern[:, i, i - 1] for i in range(2, 9)]).mean(0)
    )
    assert torch.allclose(first, torch.stack([pattern[:, i, 0] for i in range(2, 9)]).mean(0))
    assert torch.allclose(same, torch.stack([pattern[:, i, i - 4] for i in range(5, 9)]).mean(0))
    assert torch.allclose(after, torch.stack([pattern[:, i, i - 3] for i in range(5, 9)]).mean(0))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_use_is_read_from_the_models_own_patterns(kind: str):
    model = shared_bridge(kind)
    weights = tw.read_weights(model)
    result = tw.head_kinds(weights, model)
    assert result.from_use.shape == result.from_weights.shape and result.n_sequences == 8
    recorded = []
    hook = "blocks.1.attn.hook_pattern"
    original = model.forward

    def forward(tokens, *args, **kwargs):
        if tokens.shape[0] == 8:
            recorded.append(tokens)
        return original(tokens, *args, **kwargs)

    model.forward = forward
    try:
        tw.head_kinds(weights, model)
    finally:
        del model.forward
    tokens = recorded[0]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    patterns = cache[hook].double()
    n = tokens.shape[1] // 2
    start = tokens.shape[1] - 2 * n
    expected = torch.stack([attention_to_places(p.float(), start, n) for p in patterns]).mean(0)
    of_layer = [i for i, (layer, _) in enumerate(result.heads) if layer == 1]
    for row, place in (
        ("previous token", 0),
        ("attention sink", 1),
        ("same token", 2),
        ("induction", 3),
    ):
        ours = result.from_use[HEAD_KINDS.index(row)][of_layer]
        assert torch.allclose(ours, expected[place], atol=1e-5), row


def test_agreement_compares_weights_with_use():
    weights = tw.read_weights(shared_bridge("gpt2"))
    made = tw.head_kinds(weights)
    assert made.from_use is None and made.agreement().auc.isna().all()
    assert "from_use" not in made.to_dataframe()
    use = made.from_weights.clone()
    use[0] = torch.linspace(0, 1, use.shape[1])
    same = replace(made, from_use=use, from_weights=made.from_weights.clone())
    same.from_weights[0] = use[0]
    row = same.agreement().iloc[0]
    assert row.auc == 1 and row.rank_correlation == pytest.approx(1)
    assert row.n_in_use == int((use[0] >= 0.4).sum())


def test_a_vocabulary_gives_the_points():
    model = shared_bridge("llama")
    weights = tw.read_weights(model)
    prompts = [[*range(5 + i, 25 + i)] for i in range(20)]
    text = tw.layer_vocabulary(model, prompts=prompts)
    first, second = tw.head_kinds(weights), tw.head_kinds(weights, vocabulary=text)
    assert not torch.allclose(first.from_weights[4], second.from_weights[4])
    assert "mean states over text" in second.headline()
    with pytest.raises(ValueError, match="not the model of these weights"):
        tw.head_kinds(weights, shared_bridge("gpt2"))
    with pytest.raises(TypeError, match="TransformerLens model"):
        tw.head_kinds(weights, 3)
    with pytest.raises(IndexError, match="L9H9"):
        first.kinds_of(9, 9)


def test_a_model_of_one_token_has_no_kinds():
    weights = by_hand(
        torch.ones(1, 4), *(torch.ones(1, 4, 2) for _ in range(3)), torch.ones(1, 2, 4)
    )
    with pytest.raises(ValueError, match="has 1 of them; at least 2 are needed"):
        tw.head_kinds(weights)
