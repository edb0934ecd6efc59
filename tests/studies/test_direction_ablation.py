"""Ablation of directions: against edited weights, calculations by hand, and properties."""

import math
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge, shared_bridge, tiny_bridge, tiny_hf
from tests.oracles import raw_model
from tests.zoo import zoo_bridge
from tw_lens.analyses.head_directions import head_svd
from tw_lens.reading import read_resid_pre
from tw_lens.studies import Estimate
from tw_lens.studies.ablation_pieces import (
    energy_ratio_at_distance,
    kl_divergence,
    rank_one_pieces,
    rounding_kl,
    to_float64,
)
from tw_lens.studies.ablation_sets import ablation_sets
from tw_lens.studies.prompts import seeded_generator

PROMPTS = [[5, 6, 7, 8, 900], [9, 10, 11], [700, 3, 3, 41]]
LAYER, HEAD = 1, 2
ALL = "all"


def head_width(hf_model) -> int:
    return raw_model(hf_model).d_head


def left_vectors(raw, circuit: str, members) -> torch.Tensor:
    """Left singular vectors of the dense matrix, `[d, k]`, float64."""
    W = raw.W_QK(LAYER, HEAD) if circuit == "QK" else raw.W_OV(LAYER, HEAD)
    U = torch.linalg.svd(W)[0]
    return U[:, list(range(raw.d_head)) if members == ALL else list(members)]


def edited(architecture: str, hf_model, circuit: str, members):
    """Return a second model whose weights lack the directions, with the same constants."""
    raw, copied = raw_model(hf_model), tiny_hf(architecture)
    layer, h = raw.layers[LAYER], raw.d_head
    u = left_vectors(raw, circuit, members)
    at = slice(HEAD * h, (HEAD + 1) * h)
    W = layer.W_Q[HEAD] if circuit == "QK" else layer.W_V[HEAD]
    lost = torch.diag(1 / layer.norm.gain) @ u @ u.T @ layer.norm.fold(W)
    kind = hf_model.config.model_type
    if kind == "gpt2":
        attention, d = copied.transformer.h[LAYER].attn, hf_model.config.n_embd
        start = (0 if circuit == "QK" else 2 * d) + HEAD * h
        attention.c_attn.weight.data[:, start : start + h] -= lost.float()
        attention.c_attn.bias.data[start : start + h] += (layer.norm.bias @ lost).float()
    elif circuit == "QK":
        copied.model.layers[LAYER].self_attn.q_proj.weight.data[at] -= lost.T.float()
    else:  # heads of a group share W_V: the same change of W_OV, made on the side of W_O
        A, W_O = layer.norm.fold(W), layer.W_O[HEAD]
        change = torch.linalg.pinv(A) @ u @ u.T @ A @ W_O
        copied.model.layers[LAYER].self_attn.o_proj.weight.data[:, at] -= change.T.float()
    return copied


def run(hf_model, prompt) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    hf_model.set_attn_implementation("eager")
    with torch.no_grad():
        out = hf_model(torch.tensor([prompt]), output_attentions=True, output_hidden_states=True)
    pattern = out.attentions[LAYER][0, HEAD].double()
    return out.logits[0].double(), pattern, out.hidden_states[LAYER][0].double()


def write(hf_model, prompt) -> torch.Tensor:
    """Return the output of the head, by hand."""
    raw = raw_model(hf_model)
    layer = raw.layers[LAYER]
    _, pattern, x = run(hf_model, prompt)
    v = layer.norm.N(x) @ layer.norm.fold(layer.W_V[HEAD])
    v = v + layer.norm.bias @ layer.W_V[HEAD] + layer.b_V[HEAD]
    return pattern @ v @ layer.W_O[HEAD]


def expected(hf_model, without) -> list[float]:
    """Means of the three measures over all positions but the first of every prompt."""
    attention, writes, kl = [], [], []
    for prompt in PROMPTS:
        (logits, pattern, _), (other, changed, _) = run(hf_model, prompt), run(without, prompt)
        was, now = write(hf_model, prompt), write(without, prompt)
        for i in range(1, len(prompt)):
            attention.append(float((pattern[i] - changed[i]).abs().sum()) / 2)
            writes.append(float((was[i] - now[i]).norm() / was[i].norm()))
            p, q = logits[i].softmax(-1), other[i].softmax(-1)
            kl.append(sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=1)))
    return [sum(values) / len(values) for values in (attention, writes, kl)]


@pytest.mark.parametrize("members", [(0,), (1, 3), ALL], ids=str)
@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_removal_is_what_edited_weights_do(architecture: str, circuit: str, members):
    hf_model = tiny_hf(architecture)
    requested = range(head_width(hf_model)) if members == ALL else members
    oracle = expected(hf_model, edited(architecture, hf_model, circuit, members))
    result = tw.direction_ablation(
        as_bridge(hf_model, "tiny"), PROMPTS, layer=LAYER, head=HEAD, circuit=circuit,
        directions=[requested],
    )  # fmt: skip
    assert oracle[2] > 1e-6 and oracle[1] > 1e-2
    assert result.effect.value[0, 0].tolist() == pytest.approx(oracle, abs=1e-5, rel=1e-4)
    assert result.residual_error < 1e-5


def rotation(d_head: int, turned: int, distance: int) -> torch.Tensor:
    """`R(distance)` as a dense matrix, half-split pairs (rotary base 10,000)."""
    R, half = torch.eye(d_head, dtype=torch.float64), -(-turned // 2)
    for i in range(half):
        angle = distance * 10_000 ** (-2 * i / turned)
        a, b = i, i + half
        R[a, a] = R[b, b] = math.cos(angle)
        R[a, b], R[b, a] = math.sin(angle), -math.sin(angle)
    return R


def test_a_direction_of_a_rotating_head_with_biases_by_hand():
    """Subtract the direction's contribution at every distance from the running model's scores."""
    hf_model = tiny_hf("neox")
    raw, layer = raw_model(hf_model), raw_model(hf_model).layers[LAYER]
    u = left_vectors(raw, "QK", (0, 2))
    turned = int(raw.d_head * 0.25)
    A_Q, A_K = layer.norm.fold(layer.W_Q[HEAD]), layer.norm.fold(layer.W_K[HEAD])
    moved = []
    for prompt in PROMPTS:
        _, pattern, x = run(hf_model, prompt)
        y = layer.norm.N(x)
        for i in range(1, len(prompt)):
            lost = torch.tensor(
                [
                    float(y[i] @ u @ u.T @ A_Q @ rotation(raw.d_head, turned, i - j) @ A_K.T @ y[j])
                    for j in range(i + 1)
                ]
            ) / math.sqrt(raw.d_head)
            now = (pattern[i, : i + 1].log() - lost).softmax(-1)
            moved.append(float((now - pattern[i, : i + 1]).abs().sum()) / 2)
    result = tw.direction_ablation(
        as_bridge(hf_model, "tiny"), PROMPTS, layer=LAYER, head=HEAD, directions=[(0, 2)]
    )
    assert float(result.effect.value[0, 0, 0]) == pytest.approx(sum(moved) / len(moved), abs=1e-5)
    (sentence,) = (str(c) for c in result.caveats if c.name == "energy at distance 0")
    assert "random pieces have the energy of their direction at distance 0" in sentence


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "neox"])
def test_energy_of_pieces_at_a_distance(architecture: str):
    """The ratio is 1 at distance 0; at other distances it follows from the dense matrix there."""
    block = tw.read_weights(shared_bridge(architecture)).block(LAYER)
    svd, sets = head_svd(block, [HEAD], "QK"), ((0,), (1, 2), ())
    now = energy_ratio_at_distance(block, HEAD, svd, sets, 0, seeded_generator("", 0, 0))
    assert torch.allclose(now[:2], torch.ones(2), atol=1e-4) and now[2].isnan()
    behind = energy_ratio_at_distance(block, HEAD, svd, sets, 5, seeded_generator("", 0, 0))
    L, R = (part.double() for part in block.qk_factors(5))
    W = L[HEAD] @ R[block.kv_head[HEAD]].T
    pieces = rank_one_pieces(
        svd, block.A_Q[HEAD], sets, keep=False, n_random=16, generator=seeded_generator("", 0, 0)
    )
    scale = (pieces.sends / (pieces.reads @ block.A_Q[HEAD])).nanmedian(-1, keepdim=True).values
    dense = (scale * pieces.reads).double().nan_to_num(0.0).mT @ (pieces.reads.double() @ W)
    energy = dense.square().sum((-1, -2)).view(3, 17)
    assert torch.allclose(
        behind[:2].double(), (energy[:2, 0] / energy[:2, 1:].mean(1)).sqrt(), rtol=1e-3
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_caveat_on_half_precision_quotes_this_models_rounding(dtype):
    model = as_bridge(tiny_hf("gpt2").to(dtype), "tiny")
    result = tw.direction_ablation(model, PROMPTS, layer=LAYER, head=HEAD, directions=[0])
    caveats = [caveat.sentence for caveat in result.caveats if caveat.name == "half precision"]
    if dtype == torch.float32:
        assert caveats == []
        return
    rounding = float(rounding_of(model)[1:].mean())
    assert caveats[0].startswith(f"rounding in {str(dtype).removeprefix('torch.')} alone moves kl")
    assert f" by {rounding:.1g} nats on the first prompt" in caveats[0]


def rounding_of(model) -> torch.Tensor:
    block, tokens = tw.read_weights(model).block(LAYER), torch.tensor(PROMPTS[0])
    return rounding_kl(model, block, tokens, read_resid_pre(model, tokens[None], LAYER)[0])


def test_rounding_grows_with_the_square_of_the_step():
    """A divergence is quadratic in small changes; bfloat16's step is 8 times float16's."""
    bfloat16, float16, float32 = (
        float(rounding_of(as_bridge(tiny_hf("gpt2").to(dtype), "tiny")).mean())
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
    )
    assert 16 < bfloat16 / float16 < 256
    assert 0 <= float32 < 1e-4 * float16


def test_a_filter_restricts_the_tokens_and_nothing_else():
    model, where = shared_bridge("gpt2"), {"layer": LAYER, "head": HEAD, "directions": [0, 1]}
    weights = tw.read_weights(model)
    subset = tw.token_filter(weights, whole_words=False, norm_band=(10, 60))
    whole = tw.direction_ablation(model, PROMPTS, **where)
    result = tw.direction_ablation(model, PROMPTS, token_filter=subset, **where)
    allowed = {weights.tokens.string(int(i)) for i in subset.keep.nonzero()}
    listed = " ".join([*result.left_tokens, *result.right_tokens]).split()
    assert len(listed) == 20 and set(listed) <= allowed
    assert not set(" ".join(whole.left_tokens).split()) <= allowed
    assert torch.equal(result.effect.value, whole.effect.value)
    assert "token filter" in {caveat.name for caveat in result.caveats}


def test_a_caveat_tells_where_kl_is_not_of_the_next_token():
    encoder = zoo_bridge("BertForMaskedLM")
    result = tw.direction_ablation(encoder, PROMPTS, layer=1, head=1, directions=[0])
    assert "no next token" in {caveat.name for caveat in result.caveats}
    no_words = replace(result, effect=Estimate(*(part.clone() for part in result.effect)))
    no_words.effect.value[..., 2] = math.nan
    assert "changes its output most, 0." in no_words.headline()
    assert "nan" not in no_words.headline()


@pytest.mark.parametrize("size", [1e-3, 1e-1, 1.0, 10.0])
def test_divergence_is_exact_for_small_and_large_changes(size: float):
    g = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(1, 5, 3000, generator=g) + 3
    rows = torch.cat([logits, logits + size * torch.randn(2, 5, 3000, generator=g)])
    p = rows.double().log_softmax(-1)
    expected = (p[0].exp() * (p[0] - p[1:])).sum(-1)
    assert torch.allclose(kl_divergence(rows).double(), expected, rtol=1e-3, atol=1e-12)


def test_divergence_is_measured_where_a_token_turns_from_impossible_to_certain():
    """Also where a model excludes tokens: neither case may be skipped as unmeasured."""
    rows = torch.zeros(3, 2, 6)
    rows[:, :, 3] = torch.tensor([-200.0, 100.0, -50.0])[:, None]
    rows[:, 1, 5] = -torch.inf
    p = rows.double().log_softmax(-1)
    expected = (p[0].exp() * (p[0] - p[1:])).nan_to_num(0.0).sum(-1)
    assert torch.allclose(kl_divergence(rows).double(), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_to_isolate_directions_is_to_ablate_the_others(circuit: str):
    model, where = shared_bridge("gpt2"), {"layer": LAYER, "head": HEAD, "circuit": circuit}
    others = [i for i in range(12) if i not in (0, 4)]
    isolated = tw.direction_ablation(
        model, PROMPTS, directions=[(0, 4), ()], action="isolate", **where
    )
    removed = tw.direction_ablation(model, PROMPTS, directions=[others, range(12)], **where)
    assert torch.allclose(isolated.effect.value[0], removed.effect.value[0], atol=1e-6)
    everything = tw.direction_ablation(
        model, PROMPTS, directions=[range(12)], action="isolate", **where
    )
    assert float(everything.effect.value.abs().max()) < 1e-5


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_to_ablate_none_changes_nothing(circuit: str):
    result = tw.direction_ablation(
        shared_bridge("llama"), PROMPTS, layer=LAYER, head=HEAD, circuit=circuit, directions=[()]
    )
    assert float(result.effect.value.abs().max()) < 1e-12
    assert result.names == ("none",) and float(result.energy[0]) == 0


def test_a_set_named_twice_is_measured_once():
    where = {"layer": LAYER, "head": HEAD, "directions": [1, (2, 0), [0, 2], 1]}
    assert tw.direction_ablation(shared_bridge("gpt2"), PROMPTS, **where).names == ("1", "0+2")


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_random_pieces_have_the_same_energy_and_rank(architecture: str, circuit: str):
    block = to_float64(tw.read_weights(shared_bridge(architecture)).block(LAYER))
    svd = head_svd(block, [HEAD], circuit)
    A = (block.A_Q if circuit == "QK" else block.A_V[block.kv_head])[HEAD]
    sets = ((0,), (3, 1, 2))
    pieces = rank_one_pieces(
        svd, A, sets, keep=False, n_random=2, generator=seeded_generator("", 0, 0)
    )
    _, K = block.qk_factors()
    if circuit == "QK":
        L, _ = block.qk_factors()
        gains = (L[HEAD] / A).nan_to_num(1.0).median(0).values  # of query-key norms, and rotation 0
        right = block.attention_scores.scale * (gains[:, None] * K[block.kv_head[HEAD]].T)
    else:
        right = block.A_O[HEAD]
    dense = pieces.reads.mT.double() @ (pieces.sends.double() @ right.double())
    for row, members in enumerate(h for h in sets for _ in range(3)):
        S = torch.linalg.svdvals(dense[row])[: len(members)]
        requested = svd.S[0, sorted(members)].double()
        assert torch.allclose(S, requested, rtol=1e-6)
        energy = float(dense[row].norm())
        assert energy == pytest.approx(float(requested.norm()), rel=1e-6)
    own, *random = dense[:3]
    assert all(float((own - piece).norm()) > 0.1 * float(own.norm()) for piece in random)
    span = torch.linalg.qr(block.A_Q[HEAD] if circuit == "QK" else A)[0].double()
    outside = pieces.reads.double() - pieces.reads.double() @ span @ span.T
    assert float(outside.abs().max()) < 1e-5


def test_passes_of_another_size_and_other_prompts_first_change_nothing(monkeypatch):
    model, where = shared_bridge("gpt2"), {"layer": LAYER, "head": HEAD, "directions": [0, 1, 2]}
    result = tw.direction_ablation(model, PROMPTS, **where)
    monkeypatch.setattr(sys.modules["tw_lens.studies.ablation_pieces"], "MAX_POSITIONS", 9)
    again = tw.direction_ablation(model, PROMPTS, **where)
    for one, other in zip(result.effect, again.effect, strict=True):
        assert torch.allclose(one, other, atol=1e-6, equal_nan=True)


def test_the_model_is_not_changed():
    model = tiny_bridge("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = len(model.blocks[LAYER].attn.o._forward_hooks)
    tw.direction_ablation(model, PROMPTS, layer=LAYER, head=HEAD, directions=[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(model.blocks[LAYER].attn.o._forward_hooks) == hooks


def test_an_output_projection_that_is_not_reached_is_rejected(monkeypatch):
    """A change without effect on the run must not look like a direction without effect."""
    edited_module = sys.modules["tw_lens.reading.intervention"]
    monkeypatch.setattr(
        edited_module, "output_projection", lambda model, layer: torch.nn.Linear(1, 1)
    )
    with pytest.raises(tw.UnsupportedModelError, match="no output projection of its own"):
        tw.direction_ablation(
            shared_bridge("gpt2"), PROMPTS, layer=LAYER, head=HEAD, directions=[0]
        )


def test_an_attention_that_is_not_the_canonical_one_is_rejected(monkeypatch):
    block_class = sys.modules["tw_lens.canonical.attention_heads"].Block
    was = block_class.head_outputs
    monkeypatch.setattr(block_class, "head_outputs", lambda *args: 1.01 * was(*args))
    with pytest.raises(tw.UnsupportedModelError, match=r"layer 1 has a residual stream .* off by"):
        tw.direction_ablation(
            shared_bridge("gpt2"), PROMPTS, layer=LAYER, head=HEAD, directions=[0]
        )


@pytest.mark.parametrize(
    "directions", [torch.tensor([0, 3]), [torch.tensor(0), torch.tensor([3])], np.arange(0, 4, 3)]
)
def test_directions_may_be_an_array_or_a_tensor(directions):
    assert ablation_sets(directions, 12) == ((0,), (3,))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": 9}, IndexError, "layer 9 does not exist"),
        ({"head": 4}, IndexError, "head 4 does not exist"),
        ({"directions": []}, ValueError, "directions must not be empty"),
        ({"directions": [12]}, IndexError, "direction 12 does not exist: the head has 0 to 11"),
        ({"n_random": 0}, ValueError, "n_random must be at least 1, got 0"),
        ({"first_position": -1}, ValueError, "first_position must be at least 0, got -1"),
        ({"first_position": 9}, ValueError, "no prompt has a position to measure"),
    ],
)
def test_bad_input_is_rejected(options: dict, error: type, message: str):
    where = {"layer": LAYER, "head": HEAD, "directions": [0]} | options
    with pytest.raises(error, match=message):
        tw.direction_ablation(shared_bridge("gpt2"), PROMPTS, **where)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize(
    ("make", "architecture"),
    [
        (tiny_bridge, "gpt2"),
        (tiny_bridge, "llama"),
        (zoo_bridge, "GraniteForCausalLM"),  # multiplies what attention adds
        (zoo_bridge, "GraniteMoeForCausalLM"),
        (zoo_bridge, "FalconH1ForCausalLM"),
    ],
)
def test_the_sum_over_heads_may_be_explicit(make: Any, architecture: str, circuit: Any):
    """`use_attn_result`: the same computation in another order, and the same effect."""
    model = make(architecture)
    if make is zoo_bridge:  # Granite's own scale leaves its attention almost uniform
        for block in model.blocks:
            block.attn.q.original_component.weight.data *= 12
    where = {"layer": LAYER, "head": HEAD, "circuit": circuit}
    plain = tw.direction_ablation(model, PROMPTS, **where)
    model.set_use_attn_result(True)
    explicit = tw.direction_ablation(model, PROMPTS, **where)
    assert explicit.residual_error < 1e-5
    assert model.cfg.use_attn_result
    assert not model.blocks[LAYER].attn.hook_result._forward_hooks
    ours, expected = explicit.effect.value, plain.effect.value
    assert torch.allclose(ours, expected, rtol=1e-3, atol=1e-5, equal_nan=True)
    assert float(expected.nan_to_num().abs().max()) > 1e-3
