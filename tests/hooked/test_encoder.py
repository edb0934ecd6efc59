"""HookedEncoder (BERT in TransformerLens 3.9): the same model as the bridge of BertForMaskedLM."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.hooked.test_settings import MORE, READ, REFUSED
from tests.models import _quietly, as_bridge, perturbed, tokenizer
from tw_lens.reading.model_parts import is_hooked_encoder

PROMPT = list(range(5, 17))
PROMPTS = [PROMPT, [7, 9, 11, 13, 15], [40, 30, 20, 10]]
HELD_OUT = [[5, 7, 9, 11, 12], [16, 14, 30, 20]]
# Settings with which a HookedEncoder itself cannot be built or run.
NOT_BUILT = {
    "attn_only", "scale_attn_by_inverse_layer_idx", "use_attn_in", "no norm and no MLP", "OLMo 3",
}  # fmt: skip
TWO_NORMS = {name for name, own in (READ | MORE).items() if "post_embedding_ln" in own}


def encoder(**settings: Any) -> Any:
    """Return a HookedEncoder with two layers, gains around 1 and everything else around 0."""
    from transformer_lens import HookedEncoder, HookedTransformerConfig

    sizes = {
        "n_layers": 2, "d_model": 32, "n_ctx": 24, "d_head": 8, "n_heads": 4, "d_vocab": 50,
        "act_fn": "gelu", "d_mlp": 64, "normalization_type": "LN", "seed": 0, "device": "cpu",
        "attention_dir": "bidirectional",
    }  # fmt: skip
    model = _quietly(HookedEncoder, HookedTransformerConfig(**(sizes | settings)))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():  # the head's W is not initialised
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise + name.endswith(".w"))
    return model.eval()


def one_bert() -> tuple[Any, Any]:
    """Return one BERT as a HookedEncoder and as a bridge of BertForMaskedLM."""
    from transformer_lens import HookedEncoder, HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_bert_weights
    from transformers import BertConfig, BertForMaskedLM, BertForPreTraining

    settings = BertConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        vocab_size=997, max_position_embeddings=32, architectures=["BertForMaskedLM"],
    )  # fmt: skip
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    bert = perturbed(BertForPreTraining(settings).eval(), 0)
    for parameter in bert.parameters():
        parameter.data.mul_(3 if parameter.ndim == 2 else 1)
    masked = BertForMaskedLM(settings).eval()
    masked.load_state_dict(bert.state_dict(), strict=False)
    config = HookedTransformerConfig(
        n_layers=3, d_model=32, n_ctx=32, d_head=8, n_heads=4, d_vocab=997, act_fn="gelu", d_mlp=64,
        normalization_type="LN", eps=settings.layer_norm_eps, attention_dir="bidirectional",
        original_architecture="BertForMaskedLM", model_name="tiny-bert", device="cpu",
    )  # fmt: skip
    hooked = _quietly(HookedEncoder, config, tokenizer=tokenizer())
    hooked.load_state_dict(convert_bert_weights(bert, config), strict=False)
    return hooked.eval(), as_bridge(masked, "tiny-bert")


shared = lru_cache(maxsize=1)(one_bert)


def gap(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.mark.parametrize("name", sorted((READ | MORE).keys() - NOT_BUILT - TWO_NORMS))
def test_the_certificate_passes_under_every_setting(name: str):
    """Those that only a HookedTransformer obeys have no effect on an encoder's reading either."""
    certificate = tw.check(encoder(**(READ | MORE)[name]), PROMPT)
    assert certificate.max_rel_error < 1e-5
    names = {"q", "k", "v", "attn_scores", "attn_out", "resid", "logits"}
    if not {"num_experts", "experts_per_token"} & (READ | MORE)[name].keys():  # refused by name
        names |= {"mlp_pre", "mlp_out"}
    assert {comparison.quantity for comparison in certificate.comparisons} == names


@pytest.mark.parametrize("name", [*REFUSED, *sorted(TWO_NORMS)])
def test_settings_that_are_rejected(name: str):
    two_norms = "its embedding is normalised before and after positions are added"
    settings, part = REFUSED[name] if name in REFUSED else ((READ | MORE)[name], two_norms)
    model = encoder(**settings)
    for call in (tw.read_weights, lambda m: tw.check(m, PROMPT)):
        with pytest.raises(tw.UnsupportedModelError, match=part):
            call(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype):
    assert tw.check(encoder().to(dtype), PROMPT).passed


def test_encoder_and_bridge_are_one_model():
    model, bridge = shared()
    assert is_hooked_encoder(model) and not is_hooked_encoder(bridge)
    ours, theirs = tw.read_weights(model), tw.read_weights(bridge)
    assert [c.name for c in ours.caveats] == [c.name for c in theirs.caveats]
    assert ours.processed == theirs.processed == ()
    for layer in range(3):
        a, b = ours.block(layer), theirs.block(layer)
        for name in ("A_Q", "a_Q", "A_K", "a_K", "A_V", "a_V", "A_O", "b_O"):
            assert gap(getattr(a, name), getattr(b, name)) < 1e-6, (layer, name)
        assert a.stream_norms is not None and b.stream_norms is not None
        for one, other in zip(a.stream_norms, b.stream_norms, strict=True):
            assert torch.equal(one.gain, other.gain) and torch.equal(one.bias, other.bias)
    ids = torch.arange(997)
    assert gap(ours.vocabulary.embed(ids), theirs.vocabulary.embed(ids)) < 1e-6
    x = tw.read_states(bridge, PROMPT).stream[-1]
    with torch.no_grad():
        logits = bridge(torch.tensor([PROMPT]))[0]
    assert gap(ours.readout.logits(x), logits) < 1e-5
    assert gap(theirs.readout.logits(x), logits) < 1e-5


def test_states_are_the_bridges():
    model, bridge = shared()
    ours, theirs = tw.read_states(model, PROMPT), tw.read_states(bridge, PROMPT)
    for name in ("stream", "attn_out", "mlp_out"):
        assert gap(getattr(ours, name), getattr(theirs, name)) < 1e-5
    with torch.no_grad():  # the last state is what encoder_output returns
        assert torch.equal(ours.stream[-1], model.encoder_output(torch.tensor([PROMPT]))[0])


def test_text_is_tokenized_as_the_encoder_does():
    model, _ = shared()
    states = tw.read_states(model, "w5 w6 w7")
    assert states.tokens.tolist() == tokenizer()("w5 w6 w7").input_ids
    assert tw.check(model, "w5 w6 w7").tokens == tuple(states.tokens.tolist())


@pytest.mark.parametrize("only_embeddings", [False, True])
def test_a_cache_is_read(only_embeddings: bool):
    model, _ = shared()
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]))
    if not only_embeddings:
        del cache.cache_dict["embed.hook_embed"]
        with pytest.raises(ValueError, match="does not tell which tokens"):
            tw.read_states(model, cache)
    states = tw.read_states(model, cache, tokens=None if only_embeddings else PROMPT)
    assert states.tokens.tolist() == PROMPT
    assert torch.equal(states.stream, tw.read_states(model, PROMPT).stream)
    last = "blocks.2.hook_normalized_resid_post"
    cache.cache_dict.pop(last)
    with pytest.raises(ValueError, match=f"does not hold {last}.*, the last hook_normalized_resid"):
        tw.read_states(model, cache, tokens=PROMPT)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_weights_travel(copied: Callable):
    weights = tw.read_weights(shared()[0])
    x = tw.read_states(shared()[0], PROMPT).stream[-1]
    assert torch.equal(copied(weights).readout.logits(x), weights.readout.logits(x))


def head_results(model: Any) -> list[Any]:
    weights = tw.read_weights(model)
    where = {"layer": 1, "head": 2}
    return [
        tw.embedding_distances(weights),
        tw.token_norms(weights),
        tw.head_probe(weights, layer=1, words=[5, 6], circuit="QK"),
        tw.head_probe(weights, layer=1, words=[5, 6], circuit="OV"),
        tw.head_spectrum(weights, **where, n=2, k=3),
        tw.bias_directions(weights, layer=1),
    ]


def prompt_results(model: Any) -> list[Any]:
    weights, states = tw.read_weights(model), tw.read_states(model, PROMPT)
    return [
        tw.trajectory(weights, states),
        tw.trajectory_attribution(weights, states),
        tw.attention_pattern(weights, states, layer=1),
    ]


def study_results(model: Any) -> list[Any]:
    vocabulary = tw.layer_vocabulary(model, prompts=PROMPTS, min_count=1, unseen="omitted")
    weights = tw.read_weights(model)
    return [
        tw.head_spectrum(weights, layer=2, head=1, n=2, k=3, vocabulary=vocabulary),
        tw.faithfulness(model, HELD_OUT, layers=[1], vocabulary=vocabulary),
        tw.direction_examples(model, PROMPTS, layer=1, head=0, direction=0),
        tw.trajectory_statistics(model, PROMPTS, controls=["shuffled layers"]),
        tw.direction_ablation(model, PROMPTS, layer=1, head=0, directions=[0, 1]),
    ]


@pytest.mark.parametrize("call", [head_results, prompt_results, study_results])
def test_results_are_the_bridges(call: Callable):
    for ours, theirs in zip(*map(call, shared()), strict=True):
        a, b = ours.to_dataframe(), theirs.to_dataframe()
        numbers = a.select_dtypes("float").columns
        words = a.columns.difference(numbers)
        pd.testing.assert_frame_equal(a[words], b[words])
        for name in numbers:
            assert np.allclose(a[name], b[name], rtol=1e-3, atol=1e-4, equal_nan=True), name


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_ablating_a_whole_map_equals_setting_its_weights_to_zero(circuit: str):
    """W_Q or W_O is set to zero by hand; blocks have no norm before attention to correct for."""
    (model, _), (other, _) = one_bert(), one_bert()
    attention = other.blocks[1].attn
    if circuit == "QK":
        attention.W_Q.data[2] = 0
    else:
        block = tw.read_weights(model).block(1)
        attention.b_O.data += block.a_V[2] @ attention.W_O.data[2]
        attention.W_O.data[2] = 0
    result = tw.direction_ablation(
        model, [PROMPT], layer=1, head=2, circuit=circuit, directions=[range(8)]
    )
    with torch.no_grad():
        p, q = (m(torch.tensor([PROMPT]))[0].double().log_softmax(-1) for m in (model, other))
    kl = (p.exp() * (p - q)).sum(-1)[1:].mean()
    assert float(result.effect.value[0, 0, 2]) == pytest.approx(float(kl), rel=1e-3, abs=1e-7)
    assert float(kl) > 1e-4 and result.residual_error < 1e-5


def test_nothing_is_changed():
    model, _ = one_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tw.check(model, PROMPT)
    tw.direction_ablation(model, PROMPTS, layer=1, head=0, directions=[0])
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(not p.fwd_hooks and not p._forward_hooks for p in model.hook_dict.values())
    assert all(not module._forward_hooks for module in model.modules())


def test_changing_hooks_are_named():
    model, _ = one_bert()
    model.add_hook("blocks.1.hook_mlp_out", lambda value, hook: 0.5 * value)
    with pytest.raises(ValueError, match=r"hooks that change its activations \(blocks.1.hook_mlp"):
        tw.read_states(model, PROMPT)


def test_positions_and_kinds_are_the_bridges():
    ours, theirs = (tw.read_weights(model) for model in one_bert())
    assert gap(ours.positions, theirs.positions) < 1e-5
    a, b = tw.head_kinds(ours), tw.head_kinds(theirs)
    assert gap(a.from_weights.nan_to_num(), b.from_weights.nan_to_num()) < 1e-5
    assert tw.head_kinds(ours, one_bert()[0]).from_use.isfinite().all()
    points = tw.position_points(ours, positions=range(6))
    table = tw.head_spectrum(ours, layer=1, points=points, n=2, k=2).to_dataframe()
    assert table.token_string.str.startswith("position ").all()
