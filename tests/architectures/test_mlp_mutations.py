"""Each part of the canonical MLP is removed once, and the certificate fails at that quantity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import EXACT, PROMPT
from tests.models import shared_bridge
from tests.planted import with_router
from tests.zoo import zoo_bridge
from tw_lens.canonical import MLP, Norm
from tw_lens.canonical.mlp import ClampedShift, ClampedSwish
from tw_lens.reading.certificate import certify

FAILS = 1e-3


def without(**parts: Any) -> Callable[[MLP], MLP]:
    return lambda mlp: replace(mlp, **parts)


def no_bias(name: str) -> Callable[[MLP], MLP]:
    return lambda mlp: replace(mlp, **{name: torch.zeros_like(getattr(mlp, name))})


def plain_norm(mlp: MLP) -> MLP:
    blank = torch.zeros_like(mlp.norm.gain)
    return replace(mlp, norm=replace(mlp.norm, gain=blank + 1, bias=blank))


def swapped(mlp: MLP) -> MLP:
    return replace(mlp, W_in=mlp.W_gate, W_gate=mlp.W_in)


def equal_experts(mlp: MLP) -> MLP:
    return replace(mlp, routing=lambda n_x: torch.full((len(n_x), mlp.d_mlp), 0.5))


def unshared(mlp: MLP) -> MLP:
    shared = torch.tensor([name == "shared" for name in mlp.experts or [""] * mlp.d_mlp])
    assert shared.any() or mlp.experts is None
    return replace(mlp, W_out=mlp.W_out.masked_fill(shared[:, None], 0.0))


OWN = {
    "multiplier of the gate": {"mlp_multipliers": [0.7, 1.3]},
    "multiplier of the output": {"mlp_multipliers": [0.7, 1.3]},
    "bias behind a map around the experts": {
        "layers_block_type": ["moe", "attention", "mlp"], "moe_latent_size": 20, "mlp_bias": True,
        "n_group": 1, "topk_group": 1, "moe_shared_expert_intermediate_size": 32,
    },
    "dense MLP of a hybrid": {"num_local_experts": 0},
}  # fmt: skip
MUTATIONS: dict[str, tuple[str, Callable[[MLP], MLP], str]] = {
    "gain and bias of the norm": ("GPT2LMHeadModel", plain_norm, "mlp_pre"),
    "bias of the input": ("GPT2LMHeadModel", no_bias("b_in"), "mlp_pre"),
    "bias of the output": ("GPT2LMHeadModel", no_bias("b_out"), "mlp_out"),
    "activation": ("GPT2LMHeadModel", without(activation=torch.relu), "mlp_out"),
    "gate and input": ("LlamaForCausalLM", swapped, "mlp_pre"),
    "gate": ("LlamaForCausalLM", lambda m: replace(m, W_gate=-m.W_gate), "mlp_pre"),
    "what it reads": ("GPTNeoXForCausalLM", without(parallel=False), "mlp_pre"),
    "what a post-norm model's MLP reads": (
        "BertForMaskedLM", without(stream_norms=(Norm.none(48),)), "mlp_pre"
    ),
    "norm of what it adds": ("Gemma2ForCausalLM", without(post_norm=None), "mlp_out"),
    "norm of the activations": ("BitNetForCausalLM", without(inner_norm=None), "mlp_out"),
    "multiplier of the stream": ("GraniteForCausalLM", without(multiplier=1.0), "mlp_out"),
    "multiplier of the gate": ("FalconH1ForCausalLM", without(gate_multiplier=1.0), "mlp_out"),
    "multiplier of the output": ("FalconH1ForCausalLM", without(multiplier=1.0), "mlp_out"),
    "halves of one projection": ("ModernBertDecoderForCausalLM", swapped, "mlp_pre"),
    "parameters of the activation": (
        "ApertusForCausalLM", without(activation=torch.nn.functional.silu), "mlp_out"
    ),
    "routing": ("MixtralForCausalLM", equal_experts, "mlp_out"),
    "routing of stacked maps": ("JetMoeForCausalLM", equal_experts, "mlp_out"),
    "bias of the output of experts": ("JetMoeForCausalLM", no_bias("b_out"), "mlp_out"),
    "gate and input of stacked maps": ("JetMoeForCausalLM", swapped, "mlp_out"),
    "shared experts": ("DeepseekV3ForCausalLM", unshared, "mlp_out"),
    "gate of the shared expert": ("Qwen2MoeForCausalLM", unshared, "mlp_out"),
    "routing of experts' inputs": ("Llama4ForCausalLM", without(routes_input=False), "mlp_out"),
    "gate of a dense layer between mixtures": ("Llama4ForCausalLM", swapped, "mlp_pre"),
    "clamp of the gate": (
        "GptOssForCausalLM", without(activation=ClampedSwish(1.702, 1e9)), "mlp_out"
    ),
    "clamp beside the gate": (
        "GptOssForCausalLM", without(linear_activation=ClampedShift(1e9)), "mlp_out"
    ),
    "constant beside the gate": (
        "GptOssForCausalLM", without(linear_activation=None), "mlp_out"
    ),
    "biases of experts' inputs": ("GptOssForCausalLM", no_bias("b_in"), "mlp_out"),
    "biases of experts' gates": ("GptOssForCausalLM", no_bias("b_gate"), "mlp_out"),
    "biases of experts' outputs": ("GptOssForCausalLM", without(b_experts=None), "mlp_out"),
    "dense MLP beside experts": ("GraniteMoeHybridForCausalLM", unshared, "mlp_out"),
    "dense MLP of a hybrid": ("GraniteMoeHybridForCausalLM", swapped, "mlp_pre"),
    "multiplier of two modules": (
        "GraniteMoeHybridForCausalLM", without(multiplier=1.0), "mlp_out"
    ),
    "norm of a block that is an MLP": ("NemotronHForCausalLM", plain_norm, "mlp_pre"),
    "square of the activation": (
        "NemotronHForCausalLM", without(activation=torch.relu), "mlp_out"
    ),
    "bias behind a map around the experts": ("NemotronHForCausalLM", no_bias("b_out"), "mlp_out"),
    "norm before an MLP without hooks": ("RecurrentGemmaForCausalLM", plain_norm, "mlp_pre"),
    "gate of an MLP without hooks": ("RecurrentGemmaForCausalLM", no_bias("b_gate"), "mlp_pre"),
    "output of an MLP without hooks": ("RecurrentGemmaForCausalLM", no_bias("b_out"), "mlp_out"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_removed_part_fails_the_certificate(name: str):
    architecture, mutate, quantity = MUTATIONS[name]
    model = zoo_bridge(architecture, **OWN.get(name, {}))
    weights = tw.read_weights(model)
    assert certify(model, weights, PROMPT).max_rel_error < EXACT
    mutated = replace(weights, read_mlp=lambda layer: mutate(weights.mlp(layer)))
    table = certify(model, mutated, PROMPT).to_dataframe()
    wrong = table[table.rel_error > FAILS]
    assert quantity in set(wrong.quantity) and set(wrong.quantity) <= {"mlp_pre", "mlp_out"}


def experts_of(model: Any, layer: int) -> Any:
    return model.blocks[layer].mlp.original_component.experts


def mlp_of(model: Any, layer: int) -> Any:
    return model.blocks[layer].original_component.mlp_block


@pytest.mark.parametrize(
    ("architecture", "module", "part"),
    [
        ("GptOssForCausalLM", experts_of, "layer 0 has a mixture of experts of an unknown layout"),
        ("RecurrentGemmaForCausalLM", mlp_of, "layer 0 has an MLP of an unknown form"),
    ],
)
def test_what_cannot_be_read_is_refused_for_calls_of_mlps_only(
    architecture: str, module: Callable[..., Any], part: str
):
    model = zoo_bridge(architecture)
    for layer in range(3):
        one = module(model, layer)
        one.forward = lambda *args, forward=one.forward: forward(*args).tanh()
    weights = tw.read_weights(model)
    certificate = tw.check(model, PROMPT)
    assert certificate.passed and "MLPs" in {caveat.name for caveat in certificate.caveats}
    states = tw.read_states(model, PROMPT)
    for call in (
        lambda: weights.mlp(0),
        lambda: tw.neuron_table(weights, layer=0),
        lambda: tw.trajectory_attribution(weights, states, neurons=3),
    ):
        with pytest.raises(tw.UnsupportedModelError, match=part):
            call()
    assert tw.trajectory_attribution(weights, states).neurons is None


def test_a_layer_without_an_mlp_is_no_gap():
    model = zoo_bridge("NemotronHForCausalLM")
    weights = tw.read_weights(model)
    assert weights.layers_without_mlp == (0, 1)
    for call in (weights.mlp, lambda layer: tw.neuron_table(weights, layer=layer)):
        with pytest.raises(
            tw.UnsupportedModelError, match=r"layer 1 has no MLP\. The layers with an MLP are 2\."
        ):
            call(1)
    assert "MLPs" not in {caveat.name for caveat in tw.check(model, PROMPT).caveats}
    found = tw.trajectory_attribution(weights, tw.read_states(model, PROMPT), neurons=2).neurons
    assert found.rest[:2].isnan().all() and found.rest[2].isfinite().all() and not found.caveats


def chosen_alone(module: Any, x: torch.Tensor, expert: int, weight: torch.Tensor) -> torch.Tensor:
    return module(x, torch.full((len(x), 1), expert), weight)


def scaled_alone(module: Any, x: torch.Tensor, expert: int, weight: torch.Tensor) -> torch.Tensor:
    inputs = torch.zeros(len(module.down_proj), *x.shape)
    inputs[expert] = weight * x
    return module(inputs.flatten(0, 1)).view_as(inputs).sum(0)


@pytest.mark.parametrize(
    ("architecture", "alone"),
    [("GptOssForCausalLM", chosen_alone), ("Llama4ForCausalLM", scaled_alone)],
)
def test_each_expert_writes_what_it_writes_alone(architecture: str, alone: Callable[..., Any]):
    """The experts' own module is called for one expert at a time."""
    model = zoo_bridge(architecture)
    mlp, module = tw.read_weights(model).mlp(2), experts_of(model, 2)
    x = torch.randn(9, len(mlp.W_in), generator=torch.Generator().manual_seed(0))
    y = mlp.norm.sphere(x)
    f = mlp.activations(mlp.pre_activations_of_points(y), y).double()
    factor = mlp.routing(mlp.norm.affine(y))
    for expert in range(4):
        own = torch.tensor([name == str(expert) for name in mlp.experts])
        weight = factor[:, own][:, :1]
        with torch.no_grad():
            theirs = alone(module, mlp.norm.affine(y), expert, weight)
        ours = f[:, own] @ mlp.W_out[own].double()
        ours = ours if mlp.b_experts is None else ours + weight * mlp.b_experts[expert]
        assert torch.allclose(ours.float(), theirs, atol=1e-6) and theirs.abs().max() > 1e-3


def test_signs_are_kept_where_a_constant_stands_beside_the_gate():
    signs = [
        tw.neuron_table(tw.read_weights(zoo_bridge(architecture)), layer=2).sign
        for architecture in ("GptOssForCausalLM", "Llama4ForCausalLM")
    ]
    assert signs[0].unique().tolist() == [1.0] and len(signs[1].unique()) == 2


def test_the_activations_of_a_bare_mlp_are_what_its_last_map_reads():
    model = zoo_bridge("RecurrentGemmaForCausalLM")
    weights, read = tw.read_weights(model), []
    module = mlp_of(model, 1)
    handle = module.down_proj.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    mlp, states = weights.mlp(1), tw.read_states(model, PROMPT)
    read.clear()
    model(torch.tensor([PROMPT]))
    handle.remove()
    y = mlp.norm.sphere(states.stream[1] + states.attn_out[1])
    f = mlp.activations(mlp.pre_activations_of_points(y), y)
    assert torch.allclose(f, read[0][0], atol=1e-5 * float(f.abs().max()))


ROUTED = (
    "MixtralForCausalLM", "DeepseekV3ForCausalLM", "GraniteMoeForCausalLM", "GptOssForCausalLM",
    "Llama4ForCausalLM", "GraniteMoeHybridForCausalLM",
)  # fmt: skip


@pytest.mark.parametrize("architecture", ROUTED)
def test_the_router_lists_tokens_that_its_expert_is_chosen_for(architecture: str):
    weights = tw.read_weights(zoo_bridge(architecture))
    layer = 1 if "Deepseek" in architecture else 0
    mlp = weights.mlp(layer)
    table = tw.router_table(weights, layer=layer, k=4)
    points = torch.cat(list(weights.vocabulary.on_sphere(mlp.norm)())).double()
    W = mlp.W_router.double() * mlp.norm.gain.double()
    b = torch.zeros(len(W)) if mlp.b_router is None else mlp.b_router
    logits = points @ (W - W.mean(0)).T + (b - b.mean())
    for expert in table.experts:
        expected = logits[:, expert].topk(4)
        assert table.lists.token_index[expert].tolist() == expected.indices.tolist()
        assert table.lists.score[expert].double().allclose(expected.values, atol=1e-5)
    y = mlp.norm.sphere(weights.vocabulary.embed(table.lists.token_index.flatten()))
    factor = mlp.routing(mlp.norm.affine(y))
    own = torch.arange(len(table.experts)).repeat_interleave(4)
    of = [mlp.experts.index(str(expert)) for expert in own.tolist()]
    assert (factor[torch.arange(len(of)), of] > 0).double().mean() > 0.7


def test_routing_logits_hold_the_constants_of_the_norm():
    weights = with_router(tw.read_weights(shared_bridge("gpt2")))
    mlp, g = weights.mlp(1), torch.Generator().manual_seed(1)
    norm = replace(mlp.norm, bias=torch.randn(weights.d_model, generator=g))
    mlp = replace(mlp, norm=norm, b_router=torch.randn(4, generator=g))
    table = tw.router_table(replace(weights, read_mlp=lambda layer: mlp), layer=1, k=3)
    for expert in table.experts:
        x = norm(weights.vocabulary.embed(table.lists.token_index[expert]))
        logits = x @ mlp.W_router.T + mlp.b_router
        above = logits[:, expert] - logits.mean(-1)
        assert table.lists.score[expert].allclose(above, atol=1e-4)


def test_a_layer_without_experts_has_no_router():
    with pytest.raises(tw.UnsupportedModelError, match="layer 0 has no mixture of experts"):
        tw.router_table(tw.read_weights(zoo_bridge("LlamaForCausalLM")), layer=0)


def test_the_neurons_of_a_mixture_carry_the_name_of_their_expert():
    model = zoo_bridge("DeepseekV3ForCausalLM")
    mlp = tw.read_weights(model).mlp(1)
    experts = mlp.experts
    assert len(experts) == mlp.d_mlp and experts[0] == "0" and experts[-1] == "shared"
    table = tw.neuron_table(tw.read_weights(model), layer=1, neurons=[0, mlp.d_mlp - 1])
    assert table.to_dataframe().expert.tolist() == ["0", "shared"]
    y = mlp.norm.sphere(tw.read_states(model, PROMPT).stream[1])
    factor = mlp.routing(mlp.norm.affine(y))
    chosen = torch.stack([factor[:, [name == e for name in experts]][:, 0] for e in "0123"])
    assert ((chosen > 0).sum(0) == 2).all() and (factor[:, -1] == 1).all()
