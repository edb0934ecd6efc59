"""The real model that ships in a package: certified raw and processed, and it knows its proverb."""

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge
from tw_lens.reading import load_model
from tw_lens.reading.loading import bundled_file

PROMPT = "To kill two birds with one stone"


@pytest.fixture(scope="module")
def smollm2():
    return load_model()


def test_the_path_is_that_of_transformers_own_hidden_states(smollm2):
    """Float64, from the hidden states transformers gives and the parameters it holds."""
    hf = smollm2.original_model
    body = hf.model
    tokens = smollm2.to_tokens(PROMPT)
    entered = []
    hook = body.norm.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        hidden = hf(tokens, output_hidden_states=True).hidden_states
    hook.remove()
    x = torch.stack([*hidden[:-1], entered[0]])[:, 0].detach().double()

    def on_sphere(v):
        return v / (v.square().mean(-1, keepdim=True) + hf.config.rms_norm_eps).sqrt()

    def angles(a, b):
        return (torch.nn.functional.cosine_similarity(a, b, dim=-1)).clamp(-1, 1).arccos()

    y, ids = on_sphere(x), tokens[0]
    E, U = body.embed_tokens.weight.detach().double(), hf.lm_head.weight.detach().double()
    gain, step = body.norm.weight.detach().double(), x[1:] - x[:-1]
    steps = angles(y[:-1], y[1:])
    radial = ((step * x[:-1]).sum(-1) / (step.norm(dim=-1) * x[:-1].norm(dim=-1))) ** 2
    expected = {
        "norm": x.norm(dim=-1),
        "step_angle": steps,
        "arc_length": torch.cat([0 * steps[:1], steps.cumsum(0)]),
        "chord": angles(y[:1].expand_as(y), y),
        "radial_share": radial,
        "tangential_share": 1 - radial,
        "angle_to_embedding": angles(y, E[ids].expand_as(y)),
        "angle_to_next_readout": angles(y[:, :-1], (U[ids[1:]] * gain).expand_as(y[:, :-1])),
        "angle_to_last": angles(y[:, :-1], y[:, -1:].expand_as(y[:, :-1])),
        "angle_to_next": angles(y[:, :-1], y[:, 1:]),
    }
    expected["tortuosity"] = expected["arc_length"] / expected["chord"]
    a, b, c = (
        angles(y[i : len(y) - 2 + i], y[j : len(y) - 2 + j]) for i, j in ((0, 1), (1, 2), (0, 2))
    )
    inner = (c.cos() - a.cos() * b.cos()) / (a.sin() * b.sin())
    expected["turning_angle"] = torch.pi - inner.clamp(-1, 1).arccos()

    weights = tw.read_weights(smollm2)
    path = tw.trajectory(weights, tw.read_states(smollm2, PROMPT))
    for name, theirs in expected.items():
        first = 1 if name in ("turning_angle", "tortuosity") else 0
        ours = path.values[name][first : first + len(theirs), : theirs.shape[1]].double()
        theirs = theirs[len(theirs) - len(ours) :] if name == "tortuosity" else theirs
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4), name
    logits = (y * gain) @ U.T
    final = logits[-1].argmax(-1)
    above = (logits > logits.gather(-1, final.expand(len(y), -1)[..., None])).sum(-1)
    # float32 may swap words that are level: at most one place in a hundred, or one.
    assert ((path.final_rank - above).abs() <= 1 + above // 100).all()
    assert (path.final_rank[-1] == 0).all()


def test_certified_raw_and_processed_with_the_same_spectra(smollm2):
    certificate = tw.check(smollm2, PROMPT)
    assert certificate.passed and certificate.max_rel_error < 1e-5
    raw = tw.head_spectrum(tw.read_weights(smollm2), layer=15, circuit="QK", n=5)
    smollm2.enable_compatibility_mode()
    assert tw.check(smollm2, PROMPT).max_rel_error < 1e-5
    processed = tw.head_spectrum(tw.read_weights(smollm2), layer=15, circuit="QK", n=5)
    gap = (raw.singular_values - processed.singular_values).abs() / raw.singular_values.amax()
    assert float(gap.max()) < 1e-5


def test_the_last_bird_is_killed_with_a_stone(smollm2):
    weights = tw.read_weights(smollm2)
    states = tw.read_states(smollm2, "To kill two birds with one")
    assert tw.trajectory(weights, states).readout(weights.n_layers, len(states) - 1)[0] == " stone"


def test_certified_in_bfloat16():
    from transformers import AutoModelForCausalLM

    file = bundled_file()
    held = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.bfloat16
    )
    model = as_bridge(held, "smollm2")
    certificate = tw.check(model, range(1000, 1012))
    assert next(model.parameters()).dtype == torch.bfloat16
    assert certificate.passed and certificate.max_rel_error > 1e-3


def test_every_step_is_divided_among_heads_and_mlps(smollm2):
    """Position 0 carries entries of 25,000, whose rounding is larger than a small step's 1e-5."""
    states = tw.read_states(smollm2, PROMPT)
    found = tw.trajectory_attribution(tw.read_weights(smollm2), states)
    assert found.residual_error < 1e-5 and "attention" not in found.components
    shares = found.share[:, :, 1:].nansum(1)
    assert float((shares - 1).abs().max()) < 1e-3
