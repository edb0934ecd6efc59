"""The canonical form against hand-written float64 weights, and its identities."""

import math
from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, shared_bridge, tiny_hf
from tests.oracles import raw_model
from tw_lens.canonical import Norm, Readout, Rotary, Vocabulary
from tw_lens.canonical import embedding as vocabulary_module


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 2e-6) -> bool:
    assert ours.shape == theirs.shape
    gap = float((ours.double() - theirs).abs().max())
    return gap <= tolerance * max(float(theirs.abs().max()), 1e-12)


@pytest.mark.parametrize("architecture", BRIDGES)
def test_folded_weights(architecture: str):
    """A and a of every head equal those from Hugging Face parameters and dense matrices."""
    raw = raw_model(tiny_hf(architecture))
    weights = tw.read_weights(shared_bridge(architecture))
    assert weights.n_heads == len(raw.layers[0].W_Q)
    assert close(weights.vocabulary.scale * torch.cat(list(weights.vocabulary.rows())), raw.embed())
    assert close(torch.cat(list(weights.readout.directions()())), raw.directions_of_readout().T)
    bias = raw.bias_of_readout()
    assert float((weights.readout.bias() - bias).abs().max()) < 1e-5
    for layer in range(3):
        block, L = weights.block(layer), raw.layers[layer]
        assert block.attention_scores.scale == pytest.approx(1 / math.sqrt(raw.d_head))
        for head, kv in enumerate(block.kv_head):
            beta = L.norm.bias
            assert close(block.A_Q[head], L.norm.fold(L.W_Q[head]))
            assert close(block.A_K[kv], L.norm.fold(L.W_K[head]))
            assert close(block.A_V[kv], L.norm.fold(L.W_V[head]))
            assert close(block.A_O[head], L.W_O[head] @ raw.final.P())
            assert close(block.a_Q[head], beta @ L.W_Q[head] + L.b_Q[head])
            assert close(block.a_K[kv], beta @ L.W_K[head] + L.b_K[head])
            assert close(block.a_V[kv], beta @ L.W_V[head] + L.b_V[head])
        assert close(block.b_O, L.b_O)


@pytest.mark.parametrize("architecture", BRIDGES)
def test_logits_of_the_readout(architecture: str):
    raw = raw_model(tiny_hf(architecture))
    x = torch.randn(4, 48, generator=torch.Generator().manual_seed(0))
    ours = tw.read_weights(shared_bridge(architecture)).readout.logits(x)
    assert close(ours, raw.logits(x.double()), 5e-6)


@pytest.mark.parametrize("centred", [True, False])
def test_the_sphere(centred: bool):
    """Points lie slightly inside radius sqrt(d) and in 1.y = 0; length and mean do not matter."""
    d = 24
    ones = torch.ones(d, dtype=torch.float64)
    norm = Norm(gain=ones, bias=0 * ones, eps=1e-5, centred=centred)
    x = torch.randn(7, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.1
    y = norm.sphere(x)
    assert ((y.norm(dim=-1) < math.sqrt(d)) & (y.norm(dim=-1) > 0.99 * math.sqrt(d))).all()
    if centred:
        assert float(y.sum(-1).abs().max()) < 1e-10
        assert torch.allclose(norm.sphere(x + 3.0), y)
        assert torch.allclose(norm(x), torch.nn.functional.layer_norm(x, (d,), eps=1e-5))
    else:
        expected = torch.nn.functional.rms_norm(x, (d,), eps=1e-5)
        assert torch.allclose(norm(x), expected)
    exact = Norm(gain=ones, bias=0 * ones, eps=0.0, centred=centred)
    assert torch.allclose(exact.sphere(100 * x), exact.sphere(x))
    assert torch.allclose(exact.sphere(x).norm(dim=-1), torch.full((7,), d**0.5).double())


def test_folding_reads_the_sphere_as_the_weights_read_the_ellipsoid():
    generator = torch.Generator().manual_seed(2)
    gain, bias = torch.randn(2, 10, generator=generator, dtype=torch.float64)
    norm = Norm(gain=gain, bias=bias, eps=1e-5, centred=True)
    W = torch.randn(3, 10, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    folded = torch.einsum("pd,hde->hpe", norm.sphere(x), norm.fold(W)) + (bias @ W)[:, None]
    assert torch.allclose(folded, norm(x) @ W)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary(interleaved: bool):
    """Pairs rotate as by hand, scores depend on the distance only, other dimensions stay."""
    theta = torch.tensor([0.7, 0.1], dtype=torch.float64)

    def tables(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.arange(n)[:, None] * theta
        return angles.cos(), angles.sin()

    rotary = Rotary(tables=tables, interleaved=interleaved)
    x = torch.randn(5, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = rotary.rotate(x)
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    for p in range(5):
        for (a, b), angle in zip(pairs, theta.tolist(), strict=True):
            c, s = math.cos(p * angle), math.sin(p * angle)
            assert torch.allclose(y[p, :, a], c * x[p, :, a] - s * x[p, :, b])
            assert torch.allclose(y[p, :, b], s * x[p, :, a] + c * x[p, :, b])
    assert torch.equal(y[..., 4:], x[..., 4:])
    same = rotary.rotate(x[:1].expand(5, 2, 6))
    scores = torch.einsum("ihe,jhe->hij", same, same)
    for distance in range(1, 5):
        diagonal = scores.diagonal(distance, dim1=1, dim2=2)
        assert torch.allclose(diagonal, diagonal[:, :1].expand_as(diagonal))
        turned = rotary.turn(x[0], -distance)
        assert torch.allclose(diagonal[:, 0], (turned * x[0]).sum(-1))
        assert torch.allclose(rotary.turn(rotary.turn(x, distance), -distance), x)
    later = replace(rotary, start=2).rotate(x)
    assert torch.equal(later[..., :2], x[..., :2])
    assert torch.allclose(later[..., 2:], rotary.rotate(x[..., 2:]))


def test_a_factor_of_the_tables_enters_scores_squared():
    """YaRN multiplies cosines and sines by m: queries and keys both, so scores by m squared."""
    theta = torch.tensor([0.7, 0.1], dtype=torch.float64)

    def tables(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.arange(n)[:, None] * theta
        return 1.3 * angles.cos(), 1.3 * angles.sin()

    rotary = Rotary(tables=tables, interleaved=False)
    q, k = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    y = rotary.rotate(torch.stack([k, k, k, q, q])[:, None])[:, 0]
    for i, j in ((3, 2), (3, 0), (4, 2)):
        assert torch.isclose(y[i] @ y[j], rotary.turn(q, i - j) @ k)
    assert torch.isclose(rotary.turn(q, 0) @ k, 1.69 * (q[:4] @ k[:4]) + q[4:] @ k[4:])


def test_chunks_do_not_matter(monkeypatch):
    """Everything computed in chunks over the vocabulary is independent of the chunk size."""
    model = shared_bridge("gpt2")

    def all_results() -> list[torch.Tensor]:
        weights = tw.read_weights(model)
        probe = tw.head_probe(weights, layer=1, words=[3, 500], circuit="OV")
        spectrum = tw.head_spectrum(weights, layer=1, n=3)
        return [
            probe.lists.token_index,
            spectrum.left.token_index,
            spectrum.right.token_index,
            tw.token_norms(weights).score,
            weights.readout.logits(torch.ones(1, 48).cumsum(-1)),
        ]

    whole = all_results()
    monkeypatch.setattr(vocabulary_module, "ROWS_AT_ONCE", 64)
    weights = tw.read_weights(model)
    assert len(list(weights.vocabulary.rows())) == 16
    for ours, theirs in zip(all_results(), whole, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_vocabulary_and_readout_by_hand():
    """Two tokens in two dimensions."""
    norm = Norm(
        gain=torch.tensor([2.0, 1.0]), bias=torch.tensor([1.0, 0.0]), eps=0.0, centred=False
    )
    vocabulary = Vocabulary(W_E=torch.tensor([[3.0, 4.0], [0.0, 1.0]]), scale=10.0)
    (points,) = vocabulary.on_sphere(norm)()
    root = math.sqrt(2)
    assert torch.allclose(points, torch.tensor([[0.6 * root, 0.8 * root], [0.0, root]]))
    (ellipsoid,) = vocabulary.on_ellipsoid(norm)()
    assert torch.allclose(ellipsoid, torch.tensor([[1.2 * root + 1, 0.8 * root], [1.0, root]]))
    W_U = torch.tensor([[1.0, 0.0], [1.0, 2.0]])
    readout = Readout(norm=norm, W_U=W_U, b_U=torch.tensor([0.5, 0.0]))
    assert torch.allclose(readout.bias(), torch.tensor([1.5, 0.0]))
    (directions,) = readout.directions()()
    assert torch.allclose(directions, torch.tensor([[2.0, 1.0], [0.0, 2.0]]))
    logits = readout.logits(torch.tensor([[3.0, 4.0]]))
    assert torch.allclose(logits, torch.tensor([[2.0 * root + 1.5, 1.6 * root]]))


def test_repr_tells_the_sizes_and_caveats():
    text = repr(tw.read_weights(shared_bridge("llama")))
    for part in ("tiny-llama", "LlamaForCausalLM", "raw", "6 heads (2 key/value)", "RMSNorm"):
        assert part in text
    assert "caveat, rotary distance 0" in text
