"""A mixture of attention experts: every expert's heads, weighed by the router at the query."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import PROMPT
from tests.models import as_bridge
from tests.zoo import tiny, zoo_bridge
from tw_lens.canonical import HeadRouting
from tw_lens.reading.attention_quantities import ROUTER
from tw_lens.reading.certificate import certify
from tw_lens.reading.forward import run

LAYER = 1


@pytest.fixture(scope="module")
def model():
    return zoo_bridge("JetMoeForCausalLM")


@pytest.fixture(scope="module")
def stream(model):
    return tw.read_states(model, PROMPT).stream[LAYER]


def test_heads_are_weighed_as_the_models_router_weighs_its_experts(model, stream):
    block = tw.read_weights(model).block(LAYER)
    routing = block.attention_output.gate
    assert isinstance(routing, HeadRouting)
    factor = routing(block.norm(stream))[..., 0]
    experts = model.original_model.model.layers[LAYER].self_attention.experts
    router = experts.router.original_component
    with torch.no_grad():
        order, token, weight, sizes, _ = router(block.norm(stream))
    expected = torch.zeros(len(PROMPT), experts.num_experts)
    expert = torch.repeat_interleave(torch.arange(experts.num_experts), torch.tensor(sizes))
    expected[token, expert] = weight
    assert len(order) == len(PROMPT) * routing.n_chosen
    for head in range(block.n_heads):
        torch.testing.assert_close(factor[:, head], expected[:, head % experts.num_experts])
    assert (expected == 0).any(0).all() and (expected > 0).any(0).all()


def test_one_head_against_loops_over_the_models_own_parameters(model, stream):
    """Float64, head 6 of 8: expert 2, key/value head 1."""
    block = tw.read_weights(model).block(LAYER)
    module = model.original_model.model.layers[LAYER].self_attention
    d, n_experts, head = module.head_dim, module.experts.num_experts, 6
    expert, group = head % n_experts, head // n_experts
    y = block.norm(stream).double()
    rows = slice(group * d, (group + 1) * d)
    W_Q = module.experts.input_linear.weight[expert, rows].detach().double()
    W_K, W_V = (W[rows].detach().double() for W in module.kv_proj.weight.chunk(2))
    W_O = module.experts.output_linear.weight[expert][:, rows].detach().double()
    inv_freq = 10000.0 ** (-torch.arange(0, d, 2).double() / d)

    def turned(vector, position):
        angle = position * inv_freq
        first, second = vector[: d // 2], vector[d // 2 :]
        return torch.cat([first * angle.cos() - second * angle.sin(),
                          second * angle.cos() + first * angle.sin()])  # fmt: skip

    found = block.head_outputs(block.attention_pattern(stream), block.values(stream), stream)[head]
    weight = block.attention_output.gate(block.norm(stream))[:, head, 0]
    for i in range(len(PROMPT)):
        scores = torch.stack(
            [turned(W_Q @ y[i], i) @ turned(W_K @ y[j], j) / d**0.5 for j in range(i + 1)]
        )
        z = sum(p * (W_V @ y[j]) for j, p in enumerate(scores.softmax(0)))
        torch.testing.assert_close(found[i].double(), weight[i] * (W_O @ z), atol=1e-5, rtol=1e-4)


def test_rounding_that_changes_the_choice_of_experts_is_no_error():
    """In bfloat16 the router chooses by rounded logits: with this seed otherwise than by ours."""
    model = as_bridge(tiny("JetMoeForCausalLM", seed=1).bfloat16(), "tiny")
    block, x = tw.read_weights(model).block(0), tw.read_states(model, PROMPT).stream[0]
    routing = block.attention_output.gate
    name = f"blocks.0.attn.{ROUTER}"
    theirs = run(model, torch.tensor(PROMPT), [name])[1][name].topk(routing.n_chosen).indices
    ours = routing.chosen_heads(block.norm(x))[:, :: routing.n_kv_heads]
    assert not theirs.equal(ours)
    assert tw.check(model, PROMPT).passed


def test_in_bfloat16_too_few_experts_fail():
    model = as_bridge(tiny("JetMoeForCausalLM", seed=1).bfloat16(), "tiny")
    weights = tw.read_weights(model)

    def mutated(layer: int):
        block = weights.block(layer)
        routing = replace(block.attention_output.gate, n_chosen=1)
        return replace(block, attention_output=replace(block.attention_output, gate=routing))

    assert not certify(model, replace(weights, read_block=mutated), PROMPT).passed


def test_its_heads_have_a_caveat_of_their_own(model):
    names = {caveat.name for caveat in tw.read_weights(model).caveats}
    assert "routed heads" in names and "output gate" not in names
