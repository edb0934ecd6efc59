"""Who moved a word: parts against the model's own hooks, shares against float64 loops."""

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tests.zoo import zoo_bridge
from tw_lens.analyses.trajectory_attribution import ADDS_UP

PROMPT = [5, 6, 7, 8, 900]


def held(model, *hooks: str) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]), names_filter=lambda n: n in hooks)
    return {name: cache[name][0].double() for name in hooks}


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "llama"])
def test_shares_by_hand_from_the_models_own_hooks(architecture: str):
    """`z W_O` of every head and the MLP's output, projected on the step in float64 loops."""
    model = shared_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    found = tw.trajectory_attribution(weights, states)
    centred = weights.readout.norm.centred
    for layer in range(3):
        at = f"blocks.{layer}"
        z, mlp = held(model, f"{at}.attn.hook_z", f"{at}.hook_mlp_out").values()
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
                which = found.components.index(name)
                expected = float(part @ t / (t @ t))
                assert float(found.share[layer, which, p]) == pytest.approx(expected, abs=2e-4)
                assert float(found.length[layer, which, p]) == pytest.approx(
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
    found = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, PROMPT))
    assert found.components == components
    assert found.residual_error < ADDS_UP
    assert float((found.share.nansum(1) - 1).abs().max()) < 1e-5


def test_heads_that_do_not_add_up_are_not_told_apart():
    model = tiny_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    states.attn_out[1] += 1
    states.mlp_out[1] -= 1
    found = tw.trajectory_attribution(weights, states)
    assert "attention" in found.components and found.share[1, :4].isnan().all()
    assert "layers 1 cannot" in {c.name: c.sentence for c in found.caveats}["heads"]


def test_parts_that_miss_the_step_are_refused():
    model = tiny_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    states.mlp_out[1] += 1
    with pytest.raises(ValueError, match="layer 1 of tiny-gpt2: its parts miss"):
        tw.trajectory_attribution(weights, states)


def test_one_position_alone_is_its_own_mean():
    model = shared_bridge("gpt2")
    found = tw.trajectory_attribution(tw.read_weights(model), tw.read_states(model, [5]))
    assert torch.equal(found.mean_share(), found.share[..., 0])
