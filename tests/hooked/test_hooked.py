"""HookedTransformer (TransformerLens 3.9): every kind, raw and under every processing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

import tw_lens as tw
from tests.golden import CHECKS
from tests.models import golden_bridge, golden_hooked, tiny_hooked
from tw_lens.canonical import Weights

PROMPT = list(range(3, 15))
KINDS = list(itertools.product(("LN", "RMS"), (True, False), (None, 2, 1), (False, True)))
REFACTORING = "refactor_factored_attn_matrices"
STEPS = (
    "fold_ln",
    "center_writing_weights",
    "center_unembed",
    "fold_value_biases",
    REFACTORING,
)


def combinations(kind: tuple) -> list[dict[str, bool]]:
    """Return all 32; the 16 without refactoring where TransformerLens rejects it."""
    _, _, kv, rotary = kind
    every = itertools.product((False, True), repeat=len(STEPS))
    combined = [dict(zip(STEPS, flags, strict=True)) for flags in every]
    return [steps for steps in combined if not ((rotary or kv) and steps[REFACTORING])]


def processed(kind: tuple, steps: dict[str, bool]):
    """Return a model after TransformerLens' own processing."""
    model = tiny_hooked(*kind)
    if any(steps.values()):
        model.load_and_process_state_dict(model.state_dict(), **steps)
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> bool:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max()) < tolerance


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_certificate_and_spectra(kind: tuple):
    raw = tw.read_weights(tiny_hooked(*kind))
    spectra = {c: tw.head_spectrum(raw, layer=1, circuit=c, n=2, k=3) for c in ("QK", "OV")}
    for steps in combinations(kind):
        model = processed(kind, steps)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        certificate = tw.check(model, PROMPT)
        assert certificate.max_rel_error < 1e-5, (steps, certificate)
        weights = tw.read_weights(model)
        assert ("folded" in weights.processed) == steps["fold_ln"], steps
        assert weights.n_kv_heads == (kind[2] or 4)
        for circuit, expected in spectra.items():
            result = tw.head_spectrum(weights, layer=1, circuit=circuit, n=2, k=3)
            assert close(result.singular_values, expected.singular_values), (steps, circuit)
            assert torch.equal(result.left.token_index, expected.left.token_index), steps
            assert torch.equal(result.right.token_index, expected.right.token_index), steps
        after = model.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_processing_did_something():
    kind = KINDS[0]
    steps = dict.fromkeys(STEPS, True)
    raw, done = tiny_hooked(*kind), processed(kind, steps)
    assert not torch.allclose(raw.blocks[1].attn.W_Q, done.blocks[1].attn.W_Q, rtol=0.1)
    with torch.no_grad():
        a, b = (m(torch.tensor([PROMPT])).log_softmax(-1) for m in (raw, done))
    assert float((a - b).abs().max()) < 1e-4


@pytest.fixture(scope="module")
def golden() -> Weights:
    return tw.read_weights(golden_hooked())


@pytest.mark.parametrize("check", CHECKS)
def test_golden(check: Callable[[Weights], None], golden: Weights):
    check(golden)


def test_hooked_and_bridge_are_one_model(golden: Weights):
    bridge = golden_bridge()
    other, model = tw.read_weights(bridge), golden_hooked()
    assert tw.check(model, "w5 w6 w7").max_rel_error < 1e-5
    for layer in range(3):
        for name in ("A_Q", "A_K", "A_V", "A_O", "b_O"):
            a, b = getattr(golden.block(layer), name), getattr(other.block(layer), name)
            assert close(a, b, 1e-6)
    ids = [5, 6, 7, 8]
    states = [tw.read_states(m, ids) for m in (model, bridge)]
    assert close(states[0].stream, states[1].stream)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]))
    assert torch.equal(tw.read_states(model, cache).stream, states[0].stream)
    assert tw.read_states(model, cache).tokens.tolist() == ids


def test_hooks_are_gone():
    model = golden_hooked()
    tw.check(model, "w5 w6")
    tw.read_states(model, "w5 w6")
    assert all(not p.fwd_hooks and not p._forward_hooks for p in model.hook_dict.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind[3]], ids=str)
def test_transformer_lens_itself_rejects_refactoring_with_rotation(kind: tuple):
    with pytest.raises(AssertionError, match="rotary"):
        processed(kind, {REFACTORING: True})


@pytest.mark.parametrize("biases", [True, False])
def test_centring_does_nothing_before_an_rmsnorm(biases: bool):
    kind = ("RMS", biases, None, False)
    steps = dict.fromkeys(STEPS, False) | {"center_writing_weights": True}
    raw, done = tiny_hooked(*kind), processed(kind, steps)
    assert torch.equal(raw.blocks[1].attn.W_O, done.blocks[1].attn.W_O)
    assert "centred" not in tw.read_weights(done).processed


def test_moved_value_biases_have_a_caveat():
    """Only this caveat shows it: `published` numbers of a head would lack the value biases."""
    kind = KINDS[0]
    weights = tw.read_weights(processed(kind, dict.fromkeys(STEPS, False) | {STEPS[3]: True}))
    assert "value biases moved" in {caveat.name for caveat in weights.caveats}
    with pytest.raises(ValueError, match="without value biases"):
        tw.head_probe(weights, layer=0, words=[5], circuit="OV", convention="published")
    raw = tw.read_weights(tiny_hooked(*kind))
    assert raw.processed == () and "value biases moved" not in repr(raw)


@pytest.mark.parametrize("kv", [2, 1])
def test_transformer_lens_itself_rejects_refactoring_grouped_heads(kv: int):
    with pytest.raises(ValueError, match="Inconsistent attention weights"):
        processed(("LN", True, kv, False), dict.fromkeys(STEPS, False) | {REFACTORING: True})


@pytest.mark.parametrize("kind", [("LN", True, None, False), ("RMS", False, 2, True)], ids=str)
@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_ablating_a_whole_map_equals_setting_its_weights_to_zero(kind: tuple, circuit: str):
    """W_Q or W_O is set to zero by hand, and the constant parts are corrected."""
    model, other = tiny_hooked(*kind), tiny_hooked(*kind)
    weights = tw.read_weights(model)
    block = weights.block(1)
    attention = other.blocks[1].attn
    if circuit == "QK":
        attention.W_Q.data[2] = 0
        attention.b_Q.data[2] = block.a_Q[2]
    else:
        attention.b_O.data += block.a_V[block.kv_head[2]] @ attention.W_O.data[2]
        attention.W_O.data[2] = 0
    if kind[3] and circuit == "QK":  # the constant of rotated keys would contribute
        assert float(block.a_K[block.kv_head[2]].abs().max()) < 1e-6
    result = tw.direction_ablation(
        model, [PROMPT], layer=1, head=2, circuit=circuit, directions=[range(8)]
    )
    with torch.no_grad():
        p, q = (m(torch.tensor([PROMPT]))[0].double().log_softmax(-1) for m in (model, other))
    kl = (p.exp() * (p - q)).sum(-1)[1:].mean()
    assert float(result.effect.value[0, 0, 2]) == pytest.approx(float(kl), rel=1e-3, abs=1e-7)
    assert float(kl) > 1e-4 and result.residual_error < 1e-5


def test_grouped_weights_before_they_are_repeated():
    """Private names of 3.9, the last release with HookedTransformer: reading/matrices.py."""
    attention = tiny_hooked("LN", True, 2, False).blocks[0].attn
    for name in ("W_K", "W_V", "b_K", "b_V"):
        own, repeated = getattr(attention, f"_{name}"), getattr(attention, name)
        assert len(own) == 2 and torch.equal(own.repeat_interleave(2, dim=0), repeated)


@pytest.mark.parametrize("kind", KINDS[::3], ids=str)
def test_parts_of_a_score_sum_to_the_models_own(kind: tuple):
    model = tiny_hooked(*kind)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.score_attribution(weights, states, layer=1, head=1, query=7, key=2)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]))
    scores = cache["blocks.1.attn.hook_attn_scores"][0, 1, 7, :8].double()
    assert result.error < 1e-5 and "L0H3" in result.parts
    assert result.total == pytest.approx(float(scores[2] - scores.mean()), abs=1e-4)
