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


OWN = {"FalconH1ForCausalLM": {"mlp_multipliers": [0.7, 1.3]}}
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
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_removed_part_fails_the_certificate(name: str):
    architecture, mutate, quantity = MUTATIONS[name]
    model = zoo_bridge(architecture, **OWN.get(architecture, {}))
    weights = tw.read_weights(model)
    assert certify(model, weights, PROMPT).max_rel_error < EXACT
    mutated = replace(weights, read_mlp=lambda layer: mutate(weights.mlp(layer)))
    table = certify(model, mutated, PROMPT).to_dataframe()
    wrong = table[table.rel_error > FAILS]
    assert quantity in set(wrong.quantity) and set(wrong.quantity) <= {"mlp_pre", "mlp_out"}


@pytest.mark.parametrize(
    ("architecture", "part"),
    [
        ("GptOssForCausalLM", "layer 0 has a mixture of experts of an unknown layout"),
        ("Llama4ForCausalLM", "computes more than its weight"),
        ("GraniteMoeHybridForCausalLM", "layer 0 has no MLP that TransformerLens shows"),
        ("RecurrentGemmaForCausalLM", "layer 0 has no MLP that TransformerLens shows"),
    ],
)
def test_what_cannot_be_read_is_refused_for_calls_of_mlps_only(architecture: str, part: str):
    model = zoo_bridge(architecture)
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


ROUTED = ("MixtralForCausalLM", "DeepseekV3ForCausalLM", "GraniteMoeForCausalLM")


@pytest.mark.parametrize("architecture", ROUTED)
def test_the_router_lists_tokens_that_its_expert_is_chosen_for(architecture: str):
    weights = tw.read_weights(zoo_bridge(architecture))
    layer = 1 if "Deepseek" in architecture else 0
    mlp = weights.mlp(layer)
    table = tw.router_table(weights, layer=layer, k=4)
    points = torch.cat(list(weights.vocabulary.on_sphere(mlp.norm)())).double()
    W = mlp.W_router.double() * mlp.norm.gain.double()
    logits = points @ (W - W.mean(0)).T
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
