"""What a source brings: sums to the head, and is what its removal from the pattern takes away."""

from __future__ import annotations

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.zoo import zoo_bridge

PROMPT = [5, 9, 7, 30, 11, 12]
QUERY = 4


@pytest.mark.parametrize(
    "architecture",
    ["GPT2LMHeadModel", "LlamaForCausalLM", "Gemma2ForCausalLM", "GraniteForCausalLM",
     "GPTNeoXForCausalLM", "Qwen3NextForCausalLM"],
)  # fmt: skip
def test_sources_sum_to_the_head(architecture: str):
    model = zoo_bridge(architecture)
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    layer = weights.attention_layers[-1]
    whole = tw.trajectory_attribution(weights, states)
    for head in (0, 1):
        result = tw.source_attribution(weights, states, layer=layer, head=head, query=QUERY)
        assert float(result.share_of_output.sum()) == pytest.approx(1, abs=1e-4)
        own = float(whole.share[layer, head, QUERY])
        assert float(result.share_of_step.sum()) == pytest.approx(own, abs=1e-4)
        seen = result.attention > 0
        assert not result.length[~seen].any() and result.length[seen].all() and int(seen.sum()) > 2
        pattern = tw.attention_pattern(weights, states, layer=layer).pattern[head, QUERY]
        assert torch.allclose(result.attention, pattern, atol=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_a_source_taken_out_of_the_pattern_takes_its_part_out_of_the_stream(kind: str):
    model, layer, head, source = shared_bridge(kind), 2, 1, 2
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.source_attribution(weights, states, layer=layer, head=head, query=QUERY)
    out = {}

    def blind(pattern, hook):
        pattern = pattern.clone()
        pattern[0, head, QUERY, source] = 0
        return pattern

    def keep(value, hook):
        out["attn"] = value.detach()[0, QUERY]

    base = f"blocks.{layer}"
    found = []
    for hooks in ([], [(f"{base}.attn.hook_pattern", blind)]):
        with torch.no_grad():
            model.run_with_hooks(
                torch.tensor([PROMPT]), fwd_hooks=[*hooks, (f"{base}.hook_attn_out", keep)]
            )
        found.append(out["attn"])
    removed = found[0] - found[1]
    assert float(removed.norm()) == pytest.approx(float(result.length[source]), rel=1e-3)
    assert float(removed.norm()) > 1e-4


def test_tables_headline_and_refusals():
    model = shared_bridge("gpt2")
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    result = tw.source_attribution(weights, states, layer=1, head=2, query=QUERY)
    table = result.to_dataframe()
    assert table.share_of_output.tolist() == pytest.approx(result.share_of_output.tolist())
    assert table.length.tolist() == pytest.approx(result.length.tolist())
    top = int(result.share_of_output.argmax())
    assert f"(position {top}) brings" in result.headline() and len(result.plot().data) == 3
    with pytest.raises(IndexError, match="query"):
        tw.source_attribution(weights, states, layer=1, head=2, query=6)
    bert = zoo_bridge("BertForMaskedLM")
    with pytest.raises(tw.UnsupportedModelError, match="no part of its own"):
        tw.source_attribution(
            tw.read_weights(bert), tw.read_states(bert, PROMPT), layer=1, head=0, query=2
        )
