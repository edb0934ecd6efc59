"""Mutations: each part of the canonical form is removed once, and the certificate fails.

Each mutation is a function on a block, a vocabulary or a readout. Before it is applied, the model
is certified exact, so the failure is due to the removed part. Dynamic rotation and relative
positions have no row: the first equals the plain rotation within the model's context, the second
is rejected by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import EXACT, PROMPT
from tests.zoo import zoo_bridge
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.reading.certificate import certify

FAILS = 1e-3


@dataclass(frozen=True)
class Mutation:
    """One part removed in one architecture; `own` are settings that make the part matter."""

    architecture: str
    block: Callable[[Block], Block] | None = None
    whole: Callable[[Weights], Weights] | None = None
    own: dict[str, Any] = field(default_factory=dict)


def attention_scores(**parts: Any) -> Callable[[Block], Block]:
    return lambda block: replace(block, attention_scores=replace(block.attention_scores, **parts))


def attention_output(**parts: Any) -> Callable[[Block], Block]:
    return lambda block: replace(block, attention_output=replace(block.attention_output, **parts))


def vocabulary(**parts: Any) -> Callable[[Weights], Weights]:
    return lambda weights: replace(weights, vocabulary=replace(weights.vocabulary, **parts))


def readout(**parts: Any) -> Callable[[Weights], Weights]:
    return lambda weights: replace(weights, readout=replace(weights.readout, **parts))


def rotary(**parts: Any) -> Callable[[Block], Block]:
    def mutate(block: Block) -> Block:
        before = block.attention_scores.rotary
        if before is None:
            return block
        return attention_scores(rotary=replace(before, **parts))(block)

    return mutate


def interleaved_otherwise(block: Block) -> Block:
    before = block.attention_scores.rotary
    return block if before is None else rotary(interleaved=not before.interleaved)(block)


def rotated_whole(block: Block) -> Block:
    """Extend a partial rotation to the whole head."""
    partial = block.attention_scores.rotary
    pairs = block.d_head // 2

    def tables(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        rotated = partial.tables(n)
        assert rotated[0].shape[-1] < pairs
        return tuple(torch.cat([t, t], dim=-1)[:, :pairs] for t in rotated)

    return rotary(tables=tables, start=0)(block)


def unscaled(block: Block) -> Block:
    """Remove the scaling of the rotation: `base^(-i / pairs)` radians per position."""
    scaled = block.attention_scores.rotary
    pairs = scaled.tables(1)[0].shape[-1]

    def tables(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        angle = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(pairs) / pairs)
        return angle.cos(), angle.sin()

    return rotary(tables=tables)(block)


def of_one_head(block: Block) -> Block:
    """Let every query head read the first key/value head."""
    first = {n: getattr(block, n)[:1].expand_as(getattr(block, n)) for n in ("W_K", "W_V")}
    return replace(block, **first)


def turned_heads(block: Block) -> Block:
    """Assign key/value heads to the wrong groups."""
    assert block.W_K.shape[0] > 1
    return replace(block, W_K=block.W_K.roll(1, 0), W_V=block.W_V.roll(1, 0))


def without_its_norm(block: Block) -> Block:
    assert block.norm.normalises
    return replace(block, norm=Norm.none(len(block.b_O)))


def centred_otherwise(block: Block) -> Block:
    return replace(block, norm=replace(block.norm, centred=not block.norm.centred))


def a_gain(block: Block) -> Block:
    """Give a norm without gain a gain."""
    assert block.norm.folded
    return replace(block, norm=replace(block.norm, gain=1 + 0.3 * torch.ones(len(block.b_O))))


def next_attention(weights: Weights) -> Weights:
    """Shift a hybrid's attention layers by one."""
    layers = weights.attention_layers
    after = dict(zip(layers, (*layers[1:], layers[0]), strict=True))
    return replace(weights, read_block=lambda n: weights.block(after[n]))


def heads_of_the_first_width(weights: Weights) -> Weights:
    """Cut every head to the width of the first layer's."""

    def narrowed(layer: int) -> Block:
        block = weights.block(layer)
        W_Q = block.W_Q.clone()
        W_Q[..., weights.d_head :] = 0
        return replace(block, W_Q=W_Q)

    assert max(weights.block(n).d_head for n in weights.attention_layers) > weights.d_head
    return replace(weights, read_block=narrowed)


def undivided(block: Block) -> Block:
    """Remove the divisor of the bottleneck of keys and values."""
    blank = torch.zeros_like(block.bottleneck_KV.W_down)
    return replace(block, bottleneck_KV=replace(block.bottleneck_KV, W_down=blank, eps=1.0))


def of_all_experts(block: Block) -> Block:
    """Choose every attention expert for every token."""
    routing = block.attention_output.gate
    return attention_output(gate=replace(routing, n_chosen=routing.W.shape[1]))(block)


def no_bias(name: str) -> Callable[[Block], Block]:
    def mutate(block: Block) -> Block:
        bias = getattr(block, name)
        assert bias.any()
        return replace(block, **{name: torch.zeros_like(bias)})

    return mutate


def own_rope(kind: str, **more: float | list[float]) -> dict[str, Any]:
    """Return settings of a scaled rotation that differs from the plain one within the prompt."""
    values = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0} | more
    return {"rope_parameters": values, "max_position_embeddings": 64}


LONG = {"short_factor": [2.0] * 8, "long_factor": [3.0] * 8, "original_max_position_embeddings": 32}
LLAMA3 = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8,
}  # fmt: skip
Q_K = {"q_norm": None, "k_norm": None}

MUTATIONS = {
    "learned positions": Mutation("GPT2LMHeadModel"),
    "rotary, half-split": Mutation("LlamaForCausalLM", attention_scores(rotary=None)),
    "rotary, not interleaved": Mutation("LlamaForCausalLM", interleaved_otherwise),
    "rotary, interleaved": Mutation("GPTJForCausalLM", interleaved_otherwise),
    "rotary, partial": Mutation("GPTNeoXForCausalLM", rotated_whole),
    "rotary, linear": Mutation("LlamaForCausalLM", unscaled, own=own_rope("linear")),
    "rotary, llama3": Mutation("LlamaForCausalLM", unscaled, own=own_rope("llama3", **LLAMA3)),
    "rotary, YaRN": Mutation(
        "LlamaForCausalLM", unscaled, own=own_rope("yarn", original_max_position_embeddings=8)
    ),
    "rotary, long": Mutation("LlamaForCausalLM", unscaled, own=own_rope("longrope", **LONG)),
    "ALiBi": Mutation("BloomForCausalLM", attention_scores(slopes=None)),
    "ALiBi, MPT": Mutation("MptForCausalLM", attention_scores(slopes=None)),
    "grouped heads": Mutation("LlamaForCausalLM", turned_heads),
    "grouped heads as one": Mutation("LlamaForCausalLM", of_one_head),
    "query-key norm": Mutation("Qwen3ForCausalLM", attention_scores(**Q_K)),
    "query-key norm across heads": Mutation("Olmo2ForCausalLM", attention_scores(**Q_K)),
    "query-key norm after the rotation": Mutation(
        "HunYuanDenseV1ForCausalLM", attention_scores(norm_after_rotary=False)
    ),
    "query-key norm, one module per head": Mutation("StableLmForCausalLM", attention_scores(**Q_K)),
    "attention soft-cap": Mutation("Gemma2ForCausalLM", attention_scores(softcap=None)),
    "logit soft-cap": Mutation("Gemma2ForCausalLM", whole=readout(softcap=None)),
    "attention sinks": Mutation("GptOssForCausalLM", attention_scores(sinks=None)),
    "local window": Mutation("GPTNeoForCausalLM", attention_scores(window=None)),
    "sliding window": Mutation("MistralForCausalLM", attention_scores(window=None)),
    "chunks": Mutation("Llama4ForCausalLM", attention_scores(chunk=None)),
    "temperature": Mutation("Llama4ForCausalLM", attention_scores(temperature=None)),
    "both ways": Mutation("BertForMaskedLM", attention_scores(causal=True)),
    "scale": Mutation("GPTNeoForCausalLM", attention_scores(scale=0.1)),
    # Parallel blocks differ in their MLP's input only, which the certificate takes from the model.
    "norm before parallel attention and MLP": Mutation("GPTJForCausalLM", without_its_norm),
    "norm's own kind": Mutation("LlamaForCausalLM", centred_otherwise),
    "post-attention norm": Mutation("Olmo2ForCausalLM", attention_output(norm=None)),
    "sandwich norm": Mutation("Gemma2ForCausalLM", attention_output(norm=None)),
    "post-LayerNorm, BERT": Mutation(
        "BertForMaskedLM", lambda block: replace(block, stream_norms=None)
    ),
    "post-LayerNorm, OpenAI GPT": Mutation(
        "OpenAIGPTLMHeadModel", lambda block: replace(block, stream_norms=None)
    ),
    "embedding scale": Mutation("GemmaForCausalLM", whole=vocabulary(scale=1.0)),
    "embedding norm": Mutation("BloomForCausalLM", whole=vocabulary(norm=None)),
    "embedding norm without a module": Mutation("NanoChatForCausalLM", whole=vocabulary(norm=None)),
    "token types": Mutation("BertForMaskedLM", whole=vocabulary(token_type=None)),
    "embedding multiplier": Mutation("GraniteForCausalLM", whole=vocabulary(scale=1.0)),
    "residual multiplier": Mutation("GraniteForCausalLM", attention_output(multiplier=1.0)),
    "logit scale": Mutation("CohereForCausalLM", whole=readout(scale=1.0)),
    "logit divisor": Mutation("GraniteForCausalLM", whole=readout(scale=1.0)),
    "language head": Mutation("BertForMaskedLM", whole=readout(head=None)),
    "gate": Mutation("Qwen3NextForCausalLM", attention_output(gate=None)),
    "gate per head": Mutation("LagunaForCausalLM", attention_output(gate=None)),
    "routed heads": Mutation("JetMoeForCausalLM", attention_output(gate=None)),
    "routed heads, how many": Mutation("JetMoeForCausalLM", of_all_experts),
    "routed heads, shared keys and values": Mutation("JetMoeForCausalLM", turned_heads),
    "norm of the mixed values": Mutation("BitNetForCausalLM", attention_output(z_norm=None)),
    "norm of the values": Mutation("Gemma4ForCausalLM", lambda block: replace(block, v_norm=None)),
    "scale of the stream": Mutation(
        "Gemma4ForCausalLM", lambda block: replace(block, stream_scale=1.0)
    ),
    "latent queries": Mutation(
        "DeepseekV3ForCausalLM", lambda block: replace(block, bottleneck_Q=None)
    ),
    "latent keys and values": Mutation("DeepseekV3ForCausalLM", undivided),
    "norm without gain": Mutation("OlmoForCausalLM", a_gain),
    "query bias": Mutation("Qwen2ForCausalLM", no_bias("b_Q")),
    "key bias": Mutation("Qwen2ForCausalLM", no_bias("b_K")),
    "value bias": Mutation("GPT2LMHeadModel", no_bias("b_V")),
    "output bias": Mutation("GPT2LMHeadModel", no_bias("b_O")),
    "hybrid's layer numbers": Mutation("Qwen3NextForCausalLM", whole=next_attention),
    "per-layer head shapes": Mutation("Gemma4ForCausalLM", whole=heads_of_the_first_width),
    "attention beside experts": Mutation(
        "MixtralForCausalLM", lambda block: replace(block, W_O=block.W_O.roll(1, 0))
    ),
    "multi-query": Mutation("GPTBigCodeForCausalLM", lambda block: replace(block, W_V=-block.W_V)),
}


def error(model: Any, weights: Weights) -> float:
    return certify(model, weights, PROMPT).max_rel_error


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_removed_part_fails_the_certificate(name: str, monkeypatch):
    mutation = MUTATIONS[name]
    model = zoo_bridge(mutation.architecture, **mutation.own)
    weights = tw.read_weights(model)
    assert error(model, weights) < EXACT
    if mutation.whole is not None:
        mutated = mutation.whole(weights)
    elif mutation.block is not None:
        mutated = replace(weights, read_block=lambda n: mutation.block(weights.block(n)))
    else:  # the table of learned positions belongs to the model, not to the weights
        mutated = weights
        monkeypatch.setattr("tw_lens.reading.embeddings._learned_positions", lambda *_: None)
    assert error(model, mutated) > FAILS


def test_a_dynamic_rotation_is_the_plain_one_within_the_context_and_rejected_beyond():
    """Dynamic scaling changes with the length of the prompt, and only beyond the context."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = zoo_bridge("LlamaForCausalLM", rope_parameters=rope, max_position_embeddings=12)
    weights = tw.read_weights(model)
    assert error(model, weights) < EXACT
    plain = replace(weights, read_block=lambda n: unscaled(weights.block(n)))
    assert error(model, plain) < EXACT
    with pytest.raises(ValueError, match="13 tokens and the model's context 12"):
        tw.check(model, [*PROMPT, 5])
    with pytest.raises(ValueError, match="distance=12 is beyond the 12 positions"):
        tw.head_probe(weights, layer=0, words=[5], distance=12)


def test_layers_may_have_heads_of_different_widths():
    weights = tw.read_weights(zoo_bridge("Gemma4ForCausalLM"))
    assert {weights.block(n).d_head for n in weights.attention_layers} == {16, 24}
    assert tw.head_atlas(weights, n=1).entries[-1][0] == 2


def test_a_norm_of_the_values_has_a_caveat():
    weights = tw.read_weights(zoo_bridge("Gemma4ForCausalLM"))
    assert "value norm" in {caveat.name for caveat in weights.caveats}
