"""Standardised scores of written tokens, against loops over all tokens' writes in float64."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens.canonical import standardise_readout, token_points


def weights_of(architecture):
    return tw.read_weights(
        golden_bridge() if architecture == "golden" else shared_bridge(architecture)
    )


@pytest.mark.parametrize("architecture", ["golden", "llama", "gemma", "neox"])
def test_the_deviation_is_that_of_the_logits_of_all_writes(architecture):
    weights, layer = weights_of(architecture), 1
    block = weights.block(layer)
    points = token_points(weights, layer, block.norm)
    made = standardise_readout(weights, block, points)
    y = torch.cat(list(points.rows())).double()
    A_U = torch.cat(list(weights.readout.directions()())).double()
    A_U = A_U - A_U.mean(0)
    variance = torch.zeros(weights.d_vocab).double()
    for head in range(block.n_heads):
        kv = block.kv_head[head]
        v = y @ block.A_V[kv].double() + block.a_V[kv].double()
        logits = v @ block.A_O[head].double() @ A_U.T
        variance += logits.var(0, correction=0)
    assert torch.allclose(made.readout.deviation.double(), variance.sqrt(), rtol=1e-3)
    spectrum = tw.head_spectrum(
        weights, layer=layer, circuit="OV", head=0, n=3, k=6, score="standardised"
    )
    plain = tw.head_spectrum(weights, layer=layer, circuit="OV", head=0, n=3, k=6)
    z = torch.stack([A_U[w] / variance[w].sqrt() for w in range(weights.d_vocab)])
    z = z - z.mean(0)
    right = spectrum.right
    for row, ids in enumerate(right.token_index):
        scores = z @ _direction(weights, block, row).double()
        scores = scores if float(scores.max()) >= float(-scores.min()) else -scores
        best = scores.topk(6)
        assert ids.tolist() == best.indices.tolist()
        assert torch.allclose(right.score[row].double(), best.values, rtol=1e-3)
    assert torch.equal(spectrum.singular_values, plain.singular_values)
    assert "standardised scores" in spectrum.headline()


def _direction(weights, block, i):
    """Return the i-th right singular vector of the first head's W_OV, dense."""
    W = block.A_V[block.kv_head[0]].double() @ block.A_O[0].double()
    return torch.linalg.svd(W)[2][i]


def loud(weights):
    """Return weights in which 60 tokens have readout directions eight times as long."""
    factor = torch.ones(weights.d_vocab)
    factor[100:160] = 8
    return replace(
        weights, readout=replace(weights.readout, W_U=weights.readout.W_U.detach() * factor)
    )


def test_loud_tokens_lead_dot_products_and_not_standardised_scores():
    weights = loud(weights_of("llama"))
    atlases = {
        score: tw.head_atlas(weights, n=4, k=5, score=score) for score in ("dot", "standardised")
    }
    hubness = {name: atlas.hubness("OV", "right") for name, atlas in atlases.items()}
    assert hubness["dot"] > 0.8 > 0.5 > hubness["standardised"]
    shares = {}
    for name, atlas in atlases.items():
        rows = [i for i, (_, _, circuit, _) in enumerate(atlas.entries) if circuit == "OV"]
        listed = atlas.right.token_index[rows].flatten()
        shares[name] = float(((listed >= 100) & (listed < 160)).float().mean())
    assert shares["dot"] > 0.9 and shares["standardised"] < 0.25
    assert torch.equal(  # the QK lists do not depend on it
        atlases["dot"].only(circuit="QK").left.token_index,
        atlases["standardised"].only(circuit="QK").left.token_index,
    )


def test_atlas_and_spectrum_agree():
    weights = weights_of("golden")
    atlas = tw.head_atlas(weights, layers=[1, 2], n=2, k=4, score="standardised")
    for layer in (1, 2):
        spectrum = tw.head_spectrum(
            weights, layer=layer, circuit="OV", n=2, k=4, score="standardised"
        )
        own = atlas.only(layers=[layer], circuit="OV")
        assert torch.equal(own.right.token_index, spectrum.right.token_index)
        assert torch.equal(own.left.token_index, spectrum.left.token_index)
        assert torch.allclose(own.right.null.p, spectrum.right.null.p)


def test_a_probes_logits_are_divided_by_the_deviation():
    weights, layer = weights_of("golden"), 2
    block = weights.block(layer)
    made = standardise_readout(weights, block, token_points(weights, layer, block.norm))
    dot, probe = (
        tw.head_probe(weights, layer=layer, words=[5, 6], circuit="OV", k=997, score=score)
        for score in ("dot", "standardised")
    )
    for row in range(len(dot.lists.token_index)):
        logits = torch.empty(997).scatter_(0, dot.lists.token_index[row], dot.lists.score[row])
        expected = (logits - logits.mean()) / made.readout.deviation
        found = torch.empty(997).scatter_(0, probe.lists.token_index[row], probe.lists.score[row])
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_hubness_is_that_of_a_count():
    atlas = tw.head_atlas(weights_of("golden"), n=3, k=5)
    rows = [i for i, (_, _, circuit, _) in enumerate(atlas.entries) if circuit == "OV"]
    listed = [i for row in atlas.right.token_index[rows].tolist() for i in row]
    common = sorted((listed.count(i) for i in set(listed)), reverse=True)[:50]
    assert atlas.hubness("OV", "right") == pytest.approx(sum(common) / len(listed))


def test_what_does_not_fit_is_rejected():
    weights = weights_of("golden")
    with pytest.raises(ValueError, match='score="standardised" needs circuit="OV"'):
        tw.head_spectrum(weights, layer=1, circuit="QK", score="standardised")
    with pytest.raises(ValueError, match="convention='published'"):
        tw.head_probe(
            weights, layer=1, words=[5], circuit="OV", convention="published",
            score="standardised",
        )  # fmt: skip
    with pytest.raises(ValueError, match="the atlas has no entry of OV"):
        tw.head_atlas(weights, n=1).only(circuit="QK").hubness("OV", "left")
