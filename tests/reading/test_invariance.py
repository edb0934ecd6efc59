"""Invariance: results that are equal for two parametrisations of the same function."""

import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, as_bridge, shared_bridge, tiny_hf
from tw_lens.canonical import Weights
from tw_lens.results import TokenLists

WORDS = [5, 17, 300, 901]


def pair(architecture: str) -> tuple[Weights, Weights]:
    raw = tw.read_weights(shared_bridge(architecture))
    return raw, tw.read_weights(shared_bridge(architecture, processed=True))


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5):
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < tolerance


def assert_same_words(ours, theirs, *, up_to_constant: bool = False, tolerance: float = 1e-5):
    """Assert the same ids and scores per list; neighbours within the tolerance may swap."""
    a, b = ours.score, theirs.score
    if up_to_constant:
        a, b = a - a[:, :1], b - b[:, :1]
    size = float(theirs.score.abs().max())
    assert float((a - b).abs().max()) < tolerance * size
    swapped = ours.token_index != theirs.token_index
    for row, rank in swapped.nonzero().tolist():
        near = (b[row] - b[row, rank]).abs() < tolerance * size
        assert int(near.sum()) > 1, (row, rank)
    assert float(swapped.float().mean()) < 0.02


def accuracy_of(spectrum: tw.analyses.HeadSpectrum) -> float:
    """Return the float32 accuracy of the listed directions: rounding rotates by `eps S_0 / gap`."""
    S = spectrum.singular_values
    gap = (S[:, : spectrum.n] - S[:, 1 : spectrum.n + 1]).amin()
    return max(1e-5, 2 * torch.finfo(S.dtype).eps * float(S.max() / gap))


def test_processing_did_something():
    for architecture in BRIDGES:
        raw, folded = pair(architecture)
        assert raw.processed == ()
        assert "folded" in folded.processed
        assert not torch.allclose(raw.block(1).W_Q, folded.block(1).W_Q, rtol=1e-2)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("architecture", BRIDGES)
def test_spectra_of_raw_and_processed(architecture: str, circuit: str):
    raw, folded = pair(architecture)
    for layer in range(raw.n_layers):
        a = tw.head_spectrum(raw, layer=layer, circuit=circuit, n=3)
        b = tw.head_spectrum(folded, layer=layer, circuit=circuit, n=3)
        assert_close(b.singular_values, a.singular_values)
        tolerance = accuracy_of(a)
        assert_same_words(b.left, a.left, tolerance=tolerance)
        assert_same_words(b.right, a.right, tolerance=tolerance)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "qwen2"])
def test_bias_directions_of_raw_and_processed(architecture: str):
    raw, folded = pair(architecture)
    for layer in range(raw.n_layers):
        a, b = tw.bias_directions(raw, layer=layer), tw.bias_directions(folded, layer=layer)
        assert_same_words(b.lists, a.lists)


@pytest.mark.parametrize("architecture", BRIDGES)
def test_qk_probe_of_raw_and_processed(architecture: str):
    raw, folded = pair(architecture)
    for layer in range(raw.n_layers):
        a = tw.head_probe(raw, layer=layer, words=WORDS)
        b = tw.head_probe(folded, layer=layer, words=WORDS)
        assert_same_words(b.lists, a.lists)


@pytest.mark.parametrize("readout", ["update", "residual"])
@pytest.mark.parametrize("architecture", BRIDGES)
def test_ov_probe_of_raw_and_processed(architecture: str, readout: str):
    """Scores agree up to a constant per list: centring the unembedding shifts all logits alike.

    Where value biases were folded into b_O, only the sum over heads can be compared.
    """
    raw, folded = pair(architecture)
    moved = "b_V" if raw.block(0).a_V.abs().max() > 1e-6 else None
    for layer in range(raw.n_layers):
        options = {"layer": layer, "words": WORDS, "circuit": "OV", "readout": readout}
        a, b = tw.head_probe(raw, **options), tw.head_probe(folded, **options)
        assert a.components == b.components
        lists = slice(-len(WORDS), None) if moved else slice(None)
        assert_same_words(_part(b.lists, lists), _part(a.lists, lists), up_to_constant=True)
        assert_close(b.norm[-1], a.norm[-1], 1e-4)


def _part(lists: TokenLists, index: slice | torch.Tensor) -> TokenLists:
    rows = torch.arange(len(lists.token_string))[index].tolist()
    strings = tuple(lists.token_string[row] for row in rows)
    return TokenLists(lists.score[rows], lists.token_index[rows], strings)


def test_folding_caveats():
    raw, folded = pair("gpt2")
    names = [caveat.name for caveat in folded.caveats]
    assert "norms folded" in names and "norms folded" not in [c.name for c in raw.caveats]
    assert "norms folded" in repr(folded)
    result = tw.head_spectrum(folded, layer=0, n=1)
    assert "norms folded" in repr(result)
    assert "rotary distance 0" in repr(tw.read_weights(shared_bridge("llama")))


def rotated_llama():
    """Return a llama with gain one, and the same with its residual basis rotated."""
    plain, turned = tiny_hf("llama"), tiny_hf("llama")
    generator = torch.Generator().manual_seed(7)
    R = torch.linalg.qr(torch.randn(48, 48, generator=generator, dtype=torch.float64)).Q
    for model in (plain, turned):
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.data.fill_(1.0)
    for name, parameter in turned.named_parameters():
        if "norm" in name:
            continue
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        W = parameter.data.double()
        parameter.data.copy_(R.T @ W if writes else W @ R)
    return as_bridge(plain, "plain"), as_bridge(turned, "turned")


def test_a_rotation_of_the_residual_basis_changes_nothing():
    plain, turned = rotated_llama()
    ids = torch.tensor([[0, 5, 6, 7, 8, 9]])
    with torch.no_grad():
        assert_close(turned(ids), plain(ids))
    a, b = tw.read_weights(plain), tw.read_weights(turned)
    assert not torch.allclose(a.block(0).A_Q, b.block(0).A_Q, atol=0.05)
    for layer in range(3):
        for circuit in ("QK", "OV"):
            x = tw.head_spectrum(a, layer=layer, circuit=circuit, n=3)
            y = tw.head_spectrum(b, layer=layer, circuit=circuit, n=3)
            assert_close(y.singular_values, x.singular_values)
            assert_same_words(y.left, x.left, tolerance=5e-5)
            assert_same_words(y.right, x.right, tolerance=5e-5)
            probes = [tw.head_probe(w, layer=layer, words=WORDS, circuit=circuit) for w in (a, b)]
            assert_same_words(probes[1].lists, probes[0].lists, tolerance=5e-5)
    prompt = [0, 5, 6, 7, 8, 9]
    paths = [tw.trajectory(w, tw.read_states(m, prompt)) for w, m in ((a, plain), (b, turned))]
    assert_close(
        paths[1].path_measures.step_angle[:-1], paths[0].path_measures.step_angle[:-1], 1e-4
    )
    assert_close(paths[1].radial_share[:-1], paths[0].radial_share[:-1], 1e-4)
    assert_close(paths[1].norm, paths[0].norm)


def test_a_permutation_of_the_vocabulary_permutes_the_ids():
    plain, shuffled = tiny_hf("gpt2"), tiny_hf("gpt2")
    order = torch.randperm(997, generator=torch.Generator().manual_seed(3))
    shuffled.transformer.wte.weight.data.copy_(plain.transformer.wte.weight.data[order])
    new_id = torch.argsort(order)
    a = tw.read_weights(as_bridge(plain, "plain"))
    b = tw.read_weights(as_bridge(shuffled, "shuffled"))
    moved = new_id[torch.tensor(WORDS)].tolist()
    assert moved != WORDS
    for circuit in ("QK", "OV"):
        x = tw.head_probe(a, layer=1, words=WORDS, circuit=circuit)
        y = tw.head_probe(b, layer=1, words=moved, circuit=circuit)
        assert torch.equal(order[y.lists.token_index], x.lists.token_index)
        s = tw.head_spectrum(a, layer=1, circuit=circuit, n=4)
        t = tw.head_spectrum(b, layer=1, circuit=circuit, n=4)
        assert torch.equal(order[t.left.token_index], s.left.token_index)
        assert torch.equal(order[t.right.token_index], s.right.token_index)
    assert torch.allclose(tw.token_norms(b).score, tw.token_norms(a).score[order])


def test_scaling_a_state_changes_no_reading():
    """Lengths do not matter on the sphere: logits of 2x and x are equal up to eps."""
    weights = tw.read_weights(shared_bridge("gpt2"))
    x = torch.randn(5, 48, generator=torch.Generator().manual_seed(0)) * 30
    assert_close(weights.readout.logits(2 * x), weights.readout.logits(x))
