"""Geometry: properties in random dimensions and values computed by hand."""

import math

import pytest
import torch

from tests.oracles import arccos_angle, turning_angle
from tw_lens.geometry import (
    angle,
    factored_svd,
    log_map,
    measure_path,
    radial_and_tangential,
    radial_share,
    rank_of,
    tangential_shares,
    top_tokens,
    unit,
)
from tw_lens.geometry.top_tokens import QUERIES_AT_ONCE, select, top_tokens_both_signs

SEEDS = range(8)


def random_sizes(seed: int, *bounds: tuple[int, int]) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return [int(torch.randint(low, high + 1, (1,), generator=generator)) for low, high in bounds]


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", SEEDS)
def test_factored_svd(seed: int):
    r, heads = random_sizes(seed, (1, 9), (1, 4))
    m, n = random_sizes(seed + 100, (r, 40), (r, 40))
    L, R = normal(seed, heads, m, r), normal(seed + 50, heads, n, r)
    svd = factored_svd(L, R)
    W = L @ R.mT
    assert torch.allclose(svd.left @ torch.diag_embed(svd.S) @ svd.right.mT, W, atol=1e-11)
    eye = torch.eye(r, dtype=torch.float64).expand(heads, r, r)
    assert torch.allclose(svd.left.mT @ svd.left, eye, atol=1e-12)
    assert torch.allclose(svd.right.mT @ svd.right, eye, atol=1e-12)
    assert torch.allclose(svd.S, torch.linalg.svdvals(W)[:, :r], atol=1e-11)
    assert (svd.S.diff(dim=-1) <= 0).all()


def test_factored_svd_with_shared_right_factors():
    L, R = normal(0, 6, 20, 4), normal(1, 2, 17, 4)
    svd = factored_svd(L, R, group_of_head=[0, 0, 0, 1, 1, 1])
    for head in range(6):
        W = L[head] @ R[head // 3].T
        again = svd.left[head] @ torch.diag(svd.S[head]) @ svd.right[head].T
        assert torch.allclose(again, W, atol=1e-12)


def test_factored_svd_of_a_rank_deficient_product():
    L, R = normal(0, 1, 12, 4), normal(1, 1, 15, 4)
    L[:, :, 3] = L[:, :, 0]
    svd = factored_svd(L, R)
    assert torch.allclose(svd.left @ torch.diag_embed(svd.S) @ svd.right.mT, L @ R.mT, atol=1e-12)
    assert float(svd.S[0, 3]) < 1e-12 < float(svd.S[0, 2])


def chunks_of(words: torch.Tensor, size: int):
    return lambda: (words[start : start + size] for start in range(0, len(words), size))


@pytest.mark.parametrize("size", [1, 3, 7, 29, 30, 64])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_top_tokens_are_those_of_the_full_sort(size: int, k: int):
    queries, words, bias = (
        normal(1, 5, 6).float(),
        normal(2, 30, 6).float(),
        normal(3, 30).float(),
    )
    top = top_tokens(queries, chunks_of(words, size), k, bias=bias)
    scores_with_bias = queries @ words.T + bias
    order = torch.argsort(scores_with_bias, dim=-1, descending=True)[:, :k]
    assert torch.equal(top.token_index, order)
    assert torch.allclose(top.score, scores_with_bias.gather(1, order))
    along, against, positive = top_tokens_both_signs(queries, chunks_of(words, size), k)
    scores = queries @ words.T
    assert torch.equal(positive, scores.amax(-1) >= -scores.amin(-1))
    assert torch.equal(along.token_index, scores.argsort(descending=True)[:, :k])
    assert torch.equal(against.token_index, scores.argsort(descending=False)[:, :k])
    assert torch.allclose(against.score, (-scores).gather(1, against.token_index))


@pytest.mark.parametrize("size", [1, 7, 30])
@pytest.mark.parametrize("masked", [False, True])
def test_the_sign_rule_is_relative_to_the_mean_token(size: int, masked: bool):
    """A vector added to all tokens changes no sign, no list and no relative score."""
    queries, words = normal(1, 40, 6).float(), normal(2, 30, 6).float()
    keep = (torch.arange(30) % 3 == 0) if masked else None
    shift = 5 * normal(3, 6).float()
    plain, moved = (
        top_tokens_both_signs(queries, chunks_of(w, size), 4, relative=True, keep=keep)
        for w in (words, words + shift)
    )
    scores = queries @ words.T
    scores = scores - scores.mean(-1, keepdim=True)  # over all tokens, also outside `keep`
    assert torch.equal(plain.positive, scores.amax(-1) >= -scores.amin(-1))
    for one, other, signed in (
        (plain.along, moved.along, scores),
        (plain.against, moved.against, -scores),
    ):
        kept = signed if keep is None else signed.masked_fill(~keep, -torch.inf)
        assert torch.allclose(one.score, kept.topk(4).values, atol=1e-5)
        assert torch.allclose(one.score, other.score, atol=1e-4)
        assert torch.equal(one.token_index, other.token_index)
    assert torch.equal(plain.positive, moved.positive)
    absolute = top_tokens_both_signs(queries, chunks_of(words + shift, size), 4, keep=keep)
    assert not torch.equal(absolute.positive, moved.positive)


def test_select_takes_whole_lists():
    words = normal(2, 9, 4).float()
    along, against, _ = top_tokens_both_signs(normal(1, 3, 4).float(), chunks_of(words, 4), 2)
    mixed = select(torch.tensor([True, False, True]), along, against)
    assert torch.equal(mixed.token_index[0], along.token_index[0])
    assert torch.equal(mixed.token_index[1], against.token_index[1])
    assert torch.equal(mixed.score[1], against.score[1])


@pytest.mark.parametrize("theta", [0.0, 1e-12, 1e-9, 1e-5, 0.3, math.pi / 2, 3.0, math.pi])
def test_angle(theta: float):
    """Angles are exact where the arccos of a dot product has no digits left."""
    a = torch.tensor([3.0, 0.0, 0.0], dtype=torch.float64)
    b = 0.5 * torch.tensor([math.cos(theta), math.sin(theta), 0.0], dtype=torch.float64)
    assert float(angle(a, b)) == pytest.approx(theta, rel=1e-12, abs=1e-15)


def test_tiny_angles_in_float32():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1e-5])
    assert float(angle(a, b)) == pytest.approx(1e-5, rel=1e-5)
    assert float(torch.arccos(a @ unit(b))) == 0.0  # the result of an arccos


@pytest.mark.parametrize("seed", SEEDS)
def test_angle_is_the_arccos(seed: int):
    (d,) = random_sizes(seed, (2, 30))
    a, b = normal(seed, d), normal(seed + 9, d)
    assert float(angle(a, b)) == pytest.approx(arccos_angle(a, b), abs=1e-7)
    assert float(angle(a, b)) == float(angle(b, a))
    assert float(angle(5 * a, 0.1 * b)) == pytest.approx(float(angle(a, b)), rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_log_map(seed: int):
    """The tangent's length is the angle, and its great circle reaches the other point."""
    (d,) = random_sizes(seed, (2, 30))
    base, to = normal(seed, d), normal(seed + 9, d)
    tangent = log_map(base, to)
    length = tangent.norm()
    assert abs(float(tangent @ unit(base))) < 1e-12
    assert float(length) == pytest.approx(float(angle(base, to)), rel=1e-12)
    arrived = length.cos() * unit(base) + length.sin() * tangent / length
    assert torch.allclose(arrived, unit(to), atol=1e-12)


def test_log_map_to_itself_is_zero():
    base = normal(0, 5)
    assert float(log_map(base, base).norm()) < 1e-7


def test_unit_of_zero_is_zero():
    assert torch.equal(unit(torch.zeros(3)), torch.zeros(3))


def test_a_great_circle():
    """Equal steps of 0.2 without turning; the chord equals the arc length."""
    t = torch.arange(6, dtype=torch.float64) * 0.2
    y = torch.stack([t.cos(), t.sin(), torch.zeros(6, dtype=torch.float64)], dim=-1) * 7
    path = measure_path(y)
    assert path.step_angle[:-1].tolist() == pytest.approx([0.2] * 5)
    assert path.arc_length.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert path.chord.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert path.turning_angle[1:-1].tolist() == pytest.approx([0] * 4, abs=1e-7)
    assert path.tortuosity[1:].tolist() == pytest.approx([1] * 5) and path.tortuosity[0].isnan()
    assert math.isnan(path.step_angle[-1])
    assert math.isnan(path.turning_angle[0]) and math.isnan(path.turning_angle[-1])


def test_a_path_of_equal_points():
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).expand(4, 3)
    path = measure_path(y)
    assert path.step_angle[:-1].tolist() == [0, 0, 0]
    assert path.arc_length.tolist() == [0, 0, 0, 0]
    assert path.chord.tolist() == [0, 0, 0, 0] and path.tortuosity.isnan().all()


def test_a_zig_zag():
    """Two points in alternation: every turning angle is pi, the chord 0.5 or 0."""
    t = torch.tensor([0.0, 0.5, 0.0, 0.5], dtype=torch.float64)
    path = measure_path(torch.stack([t.cos(), t.sin()], dim=-1))
    assert path.arc_length.tolist() == pytest.approx([0, 0.5, 1.0, 1.5])
    assert path.chord.tolist() == pytest.approx([0, 0.5, 0, 0.5], abs=1e-12)
    assert path.tortuosity[[1, 3]].tolist() == pytest.approx([1.0, 3.0])
    assert path.turning_angle[1:-1].tolist() == pytest.approx([math.pi] * 2)


def test_an_octant():
    """From x to y to z: two quarter circles with a right angle between them."""
    path = measure_path(torch.eye(3, dtype=torch.float64))
    half = math.pi / 2
    assert path.step_angle[:-1].tolist() == pytest.approx([half, half])
    assert float(path.turning_angle[1]) == pytest.approx(half)
    assert path.chord.tolist() == pytest.approx([0, half, half])


@pytest.mark.parametrize("seed", SEEDS)
def test_turns_by_the_spherical_law_of_cosines(seed: int):
    d, positions = random_sizes(seed, (3, 20), (1, 4))
    y = normal(seed, 5, positions, d)
    path = measure_path(y)
    for p in range(positions):
        for layer in range(1, 4):
            expected = turning_angle(*y[layer - 1 : layer + 2, p])
            assert float(path.turning_angle[layer, p]) == pytest.approx(expected, abs=1e-6)


def test_radial_share():
    """The share is 1 for a step along the state, 0 for a tangential one, 0.5 for a diagonal one."""
    x = torch.tensor([[2.0, 0.0], [5.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    share = radial_share(x)
    assert share[:2].tolist() == pytest.approx([1.0, 0.0]) and math.isnan(share[2])
    diagonal = torch.tensor([[1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    assert float(radial_share(diagonal)[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_add_up_to_the_step_and_shares_to_one(seed: int):
    d, n, parts = random_sizes(seed, (2, 20), (1, 5), (1, 6))
    x, added = normal(seed, n, d), normal(seed + 1, parts, n, d)
    step = added.sum(0)
    radial, tangential = radial_and_tangential(x, step)
    assert torch.allclose(radial + tangential, step, atol=1e-12)
    assert float((tangential * x).sum(-1).abs().max()) < 1e-11
    shares = tangential_shares(x, added)
    assert torch.allclose(shares.sum(0), torch.ones(n, dtype=torch.float64), atol=1e-9)
    for part in range(parts):
        for i in range(n):
            t = step[i] - (step[i] @ x[i]) / (x[i] @ x[i]) * x[i]
            expected = float(added[part, i] @ t / (t @ t))
            assert float(shares[part, i]) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_part_against_the_step_has_a_negative_share():
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    parts = torch.tensor([[[0.0, 3.0]], [[5.0, -1.0]]], dtype=torch.float64)
    assert tangential_shares(x, parts)[:, 0].tolist() == pytest.approx([1.5, -0.5])
    assert tangential_shares(x, 0 * parts).isnan().all()


def test_many_queries_are_searched_in_parts():
    n = 2 * QUERIES_AT_ONCE + 7
    queries, words, bias = normal(1, n, 4).float(), normal(2, 30, 4).float(), normal(3, 30).float()
    top = top_tokens(queries, chunks_of(words, 11), 3, bias=bias)
    together = top_tokens(queries, chunks_of(words, 11), 3, bias=bias, observe=lambda _: None)
    assert torch.equal(top.token_index, together.token_index)
    scores = queries @ words.T + bias
    assert torch.allclose(top.score, scores.topk(3).values)
    ranks = rank_of(queries, chunks_of(words, 11), top.token_index[:, 2], bias=bias)
    assert torch.equal(ranks, torch.full((n,), 2))


@pytest.mark.parametrize("size", [1, 7, 30])
def test_rank_is_the_index_in_the_full_sort(size: int):
    queries, words, bias = normal(1, 9, 6).float(), normal(2, 30, 6).float(), normal(3, 30)
    targets = torch.arange(9) * 3
    order = (queries @ words.T + bias.float()).argsort(descending=True)
    ranks = rank_of(queries, chunks_of(words, size), targets, bias=bias.float())
    assert ranks.tolist() == [row.tolist().index(w) for row, w in zip(order, targets, strict=True)]
    above = rank_of(queries, chunks_of(words, size), order[:, 0] * 0 + 5)
    assert above.tolist() == (queries @ words.T > (queries @ words.T)[:, 5:6]).sum(-1).tolist()


@pytest.mark.parametrize("n", [5, 63, 700, 1000, 8192])
@pytest.mark.parametrize("largest", [True, False])
def test_the_top_of_long_rows_is_that_of_a_sort(n: int, largest: bool):
    from tw_lens.geometry.top_tokens import _top

    g = torch.Generator().manual_seed(n)
    scores = torch.randn(9, n, generator=g)
    for k in (1, 5):
        values, indices = _top(scores, k, largest)
        expected = scores.sort(-1, descending=largest)
        assert torch.equal(values, expected.values[:, :k])
        assert torch.equal(indices, expected.indices[:, :k])
