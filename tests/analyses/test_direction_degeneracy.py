"""Degenerate subspaces: equal singular values form one, separate ones do not, for any SVD."""

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import equal_pair
from tw_lens.analyses.degenerate_subspaces import perturb_bfloat16

D_HEAD = 6


@pytest.mark.parametrize("seed", range(6))
def test_two_equal_singular_values_are_one_subspace(seed: int):
    result = tw.direction_degeneracy(equal_pair(seed), layer=0, n=5)
    assert result.subspaces(0) == [[0], [1, 2], [3], [4]]
    assert (result.overlap_rotated[:, 0, [0, 3, 4]] == 1).all()
    assert (result.overlap_rotated[:, 0, 1] == result.overlap_rotated[:, 0, 2]).all()
    assert (result.overlap_rotated[:, 0, 1] < 1).any()  # a rotation inside changes the words
    assert list(result.to_dataframe().subspace) == ["0", "1-2", "1-2", "3", "4"]


def test_rotations_follow_the_seed():
    one, again, other = (
        tw.direction_degeneracy(equal_pair(0), layer=0, n=5, n_perturbations=2, seed=s)
        for s in (4, 4, 5)
    )
    assert torch.equal(one.overlap_rotated, again.overlap_rotated)
    assert not torch.equal(one.overlap_rotated, other.overlap_rotated)


def test_a_subspace_continues_beyond_the_last_listed_direction():
    result = tw.direction_degeneracy(equal_pair(0), layer=0, n=2)
    assert result.subspaces(0) == [[0], [1]] and result.open_ended == (True,)
    assert result.to_dataframe().subspace.iloc[-1] == "1+"


def test_the_perturbation_norm_is_that_of_the_dense_matrix():
    weights = equal_pair(2, (9, 7, 5, 3, 2, 1))
    block = weights.block(0)
    result = tw.direction_degeneracy(weights, layer=0, n=6, n_perturbations=3, seed=4)
    g, expected = torch.Generator().manual_seed(4), []
    for _ in range(3):
        other = perturb_bfloat16(block, g)
        dense = [(b.W_Q[0].double() @ b.W_K[0].double().T) / D_HEAD**0.5 for b in (block, other)]
        U, _, Vh = torch.linalg.svd(dense[0])
        inside = U[:, :6].T @ (dense[1] - dense[0]) @ Vh[:6].T
        expected.append(float(torch.linalg.matrix_norm(inside, ord=2)))
    assert float(result.perturbation_norm[0]) == pytest.approx(max(expected), rel=1e-3)


def test_weights_move_by_at_most_half_a_step_of_bfloat16():
    block = equal_pair(0).block(0)
    moved = perturb_bfloat16(block, torch.Generator().manual_seed(0))
    for name in ("W_Q", "W_K", "W_V", "W_O"):
        before, after = getattr(block, name), getattr(moved, name)
        up = before.abs().log2().floor().exp2() / 2**7
        ratio = ((after - before).abs() / up).flatten()
        assert 0.45 < ratio.max() <= 0.501 and 0.2 < ratio.mean() < 0.3


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_the_sign_margin_is_that_of_the_rule(circuit):
    weights = tw.read_weights(shared_bridge("gpt2"))
    result = tw.direction_degeneracy(weights, layer=1, circuit=circuit, head=2, n=4)
    svd = tw.analyses.head_svd(weights.block(1), [2], circuit)
    if circuit == "QK":
        words = torch.cat(list(weights.vocabulary.on_sphere(weights.block(1).norm)()))
    else:
        words = torch.cat(list(weights.readout.directions()()))
        words = words - words.mean(0)
    scores = svd.right[0, :, :4].double().T @ words.double().T
    along, against = scores.amax(-1), -scores.amin(-1)
    expected = (along - against).abs() / along.maximum(against)
    assert result.sign_margin[0].tolist() == pytest.approx(expected.tolist(), abs=1e-4)


def test_bad_input():
    weights = equal_pair(0)
    for options, sentence in (
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n_perturbations": 0}, "n_perturbations must be at least 1, got 0"),
        ({"k": 0}, "k must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            tw.direction_degeneracy(weights, layer=0, **options)
    with pytest.raises(IndexError, match="head 3"):
        tw.direction_degeneracy(weights, layer=0, head=3)
