"""Trajectory attribution: parts against the model's own hooks, shares against float64 loops."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge, shared_bridge, tiny_bridge, tiny_hf
from tests.zoo import zoo_bridge
from tw_lens.analyses.step_parts import TOLERANCE

PROMPT = [5, 6, 7, 8, 900]


def hook_values(model, *hooks: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]), names_filter=lambda n: n in hooks)
    return {name: cache[name][0].double() for name in hooks}


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
def test_shares_by_hand_from_the_models_own_hooks(architecture: str):
    """`z W_O` of every head and the MLP's output, projected on the step in float64 loops."""
    model = shared_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.trajectory_attribution(weights, states)
    centred = weights.readout.norm.centred
    for layer in range(3):
        block = f"blocks.{layer}"
        z, mlp = hook_values(model, f"{block}.attn.hook_z", f"{block}.hook_mlp_out").values()
        W_O = model.blocks[layer].attn.W_O.detach().double()
        z = z.reshape(len(PROMPT), len(W_O), -1)
        for p in range(len(PROMPT)):
            heads = [z[p, h] @ W_O[h] for h in range(len(W_O))]
            x, after = (states.stream[i, p].double() for i in (layer, layer + 1))
            step = after - x
            bias = step - mlp[p] - sum(heads)
            parts = {f"H{h}": part for h, part in enumerate(heads)}
            parts |= {"bias": bias, "MLP": mlp[p]}
            if centred:
                x, step = x - x.mean(), step - step.mean()
                parts = {name: part - part.mean() for name, part in parts.items()}
            t = step - (step @ x) / (x @ x) * x
            for name, part in parts.items():
                component = result.components.index(name)
                expected = float(part @ t / (t @ t))
                assert float(result.share[layer, component, p]) == pytest.approx(expected, abs=2e-4)
                assert float(result.length[layer, component, p]) == pytest.approx(
                    float(part.norm()), rel=1e-3, abs=1e-3
                )


@pytest.mark.parametrize(
    ("architecture", "components"),
    [
        ("Gemma2ForCausalLM", ("H0", "H1", "H2", "H3", "bias", "MLP")),
        ("GraniteForCausalLM", ("H0", "H1", "H2", "H3", "bias", "MLP")),
        ("BertForMaskedLM", ("H0", "H1", "H2", "H3", "bias", "MLP", "rest")),
        ("Qwen3NextForCausalLM", ("H0", "H1", "H2", "H3", "attention", "bias", "MLP")),
    ],
)
def test_post_norms_multipliers_and_hybrids(architecture: str, components: tuple[str, ...]):
    model = zoo_bridge(architecture)
    result = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, PROMPT))
    assert result.components == components
    assert result.residual_error < TOLERANCE
    assert float((result.share.nansum(1) - 1).abs().max()) < 1e-5


def test_heads_that_do_not_sum_to_the_output_are_not_separated():
    model = tiny_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    states.attn_out[1] += 1
    states.mlp_out[1] -= 1
    result = tw.trajectory_attribution(weights, states)
    assert "attention" in result.components and result.share[1, :4].isnan().all()
    assert "layers 1 cannot" in {c.name: c.sentence for c in result.caveats}["heads"]


def test_parts_that_miss_the_step_are_rejected():
    model = tiny_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    states.mlp_out[1] += 1
    with pytest.raises(ValueError, match="layer 1 of tiny-gpt2 does not sum to its step"):
        tw.trajectory_attribution(weights, states)


def test_one_position_alone_is_its_own_mean():
    model = shared_bridge("gpt2")
    result = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, [5]))
    assert torch.equal(result.mean_share(), result.share[..., 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2"])
def test_half_precision_is_attributed_within_its_own_rounding(
    architecture: str, dtype: torch.dtype
):
    """The shares are those of the same rounded weights in float32, up to the format's steps."""
    half = as_bridge(tiny_hf(architecture).to(dtype), "half")
    full = as_bridge(tiny_hf(architecture).to(dtype).float(), "full")
    result, expected = (
        tw.trajectory_attribution(tw.read_weights(m), tw.read_states(m, PROMPT))
        for m in (half, full)
    )
    step = torch.finfo(dtype).eps
    assert TOLERANCE < result.residual_error < 8 * step
    assert "half precision" in {caveat.name for caveat in result.caveats}
    assert "half precision" not in {caveat.name for caveat in expected.caveats}
    assert result.components == expected.components  # heads are separated
    first, reference = result.share[0].nan_to_num(), expected.share[0].nan_to_num()
    assert float((first - reference).abs().max()) < 16 * step * float(reference.abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parts_that_do_not_fit_are_rejected_in_half_precision_too(dtype: torch.dtype):
    model = as_bridge(tiny_hf("llama").to(dtype), "half")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    wrong = replace(states, mlp_out=1.5 * states.mlp_out)
    with pytest.raises(ValueError, match="does not sum to its step"):
        tw.trajectory_attribution(weights, wrong)
