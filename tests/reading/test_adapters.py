"""Adapters, wrappers and hooks beside a weight: the weight that runs is read, or the part named.

The adapters are built as PEFT builds them: a module that shows the base layer's weight as its own.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tw_lens as tw
from tests.models import as_bridge, tiny_bridge, tiny_hf

REFUSED = r"computes more than its weight .*merge_and_unload\(\)"


class LowRank(nn.Module):
    """`y = base(x) + x A B`, with the base layer's weight as `weight` (PEFT's LoRA)."""

    def __init__(self, base: Any, size: float = 0.05) -> None:
        super().__init__()
        self.base_layer = base
        generator = torch.Generator().manual_seed(1)
        shape = tuple(base.weight.shape)
        d_out, d_in = shape if isinstance(base, nn.Linear) else shape[::-1]
        self.A = nn.Parameter(torch.randn(d_in, 2, generator=generator).to(base.weight) * size)
        self.B = nn.Parameter(torch.randn(2, d_out, generator=generator).to(base.weight))

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + x @ self.A @ self.B


class Magnitude(LowRank):
    """Columns of the weight with other lengths (DoRA's magnitude)."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.1 * self.base_layer(x)


def attention_of(hf_model: Any, layer: int) -> Any:
    body = hf_model.base_model
    return body.h[layer].attn if hasattr(body, "h") else body.layers[layer].self_attn


@pytest.mark.parametrize("adapter", [LowRank, Magnitude])
@pytest.mark.parametrize(
    ("architecture", "projection"),
    [("llama", "q_proj"), ("llama", "o_proj"), ("gpt2", "c_attn"), ("gpt2", "c_proj")],
)
def test_an_adapter_beside_a_projection_is_named(
    architecture: str, projection: str, adapter: Any
) -> None:
    hf_model = tiny_hf(architecture)
    attention = attention_of(hf_model, 1)
    setattr(attention, projection, adapter(getattr(attention, projection)))
    weights = tw.read_weights(as_bridge(hf_model, "adapted"))
    assert tw.head_spectrum(weights, layer=0, n=1).singular_values.isfinite().all()
    with pytest.raises(tw.UnsupportedModelError, match=rf"blocks\.1\.attn\..*{REFUSED}"):
        tw.head_spectrum(weights, layer=1, n=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_adapter_of_five_per_cent_is_seen_in_half_precision(dtype: torch.dtype) -> None:
    for size in (0.0, 0.05):
        hf_model = tiny_hf("llama").to(dtype)
        attention = attention_of(hf_model, 0)
        base = attention.v_proj
        attention.v_proj = LowRank(base, size * float(base.weight.detach().float().std()))
        model = as_bridge(hf_model, "adapted")
        if size:
            with pytest.raises(tw.UnsupportedModelError, match=REFUSED):
                tw.read_weights(model)
        else:
            tw.read_weights(model)


def test_adapters_on_embedding_and_unembedding_are_named() -> None:
    hf_model = tiny_hf("llama")
    hf_model.lm_head = LowRank(hf_model.lm_head)
    with pytest.raises(tw.UnsupportedModelError, match=rf"unembed.*{REFUSED}"):
        tw.read_weights(as_bridge(hf_model, "adapted"))
    model = tiny_bridge("llama")
    embedding = model.original_model.get_input_embeddings()
    embedding.register_forward_hook(lambda _m, _i, out: out + 0.02 * out.roll(1, -1))
    with pytest.raises(tw.UnsupportedModelError, match="more than a multiple of W_E's rows"):
        tw.read_weights(model)


def test_an_adapter_without_effect_is_read() -> None:
    hf_model = tiny_hf("llama")
    plain = tw.read_weights(as_bridge(tiny_hf("llama"), "plain"))
    attention = attention_of(hf_model, 0)
    attention.q_proj = LowRank(attention.q_proj, size=0.0)
    model = as_bridge(hf_model, "adapted")
    assert torch.equal(tw.read_weights(model).block(0).A_Q, plain.block(0).A_Q)
    assert tw.check(model, [5, 6, 7]).passed


def test_a_hook_that_adds_is_named_and_one_that_looks_is_not() -> None:
    model = tiny_bridge("llama")
    projection = model.blocks[1].attn.k.original_component
    seen = []
    handle = projection.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    assert torch.isfinite(tw.read_weights(model).block(1).A_K).all()
    handle.remove()
    weights = tw.read_weights(model)
    projection.register_forward_hook(lambda _m, _i, out: out + 1)
    with pytest.raises(tw.UnsupportedModelError, match=rf"blocks\.1\.attn\.k.*{REFUSED}"):
        weights.block(1)


def test_a_replaced_forward_is_named() -> None:
    model = tiny_bridge("llama")
    projection = model.blocks[0].attn.v.original_component
    forward = projection.forward
    projection.forward = lambda x: forward(x) * 2
    with pytest.raises(tw.UnsupportedModelError, match=REFUSED):
        tw.read_weights(model)


class AddOne(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + 1


def test_parametrised_weights_are_those_that_run() -> None:
    model = tiny_bridge("llama")
    projection = model.blocks[1].attn.q.original_component
    before = tw.read_weights(model).block(1).W_Q
    nn.utils.parametrize.register_parametrization(projection, "weight", AddOne())
    assert torch.allclose(tw.read_weights(model).block(1).W_Q, before + 1)
    assert tw.check(model, [5, 6, 7]).passed


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_normed_weights_are_those_that_run() -> None:
    """The stored weight is that of the last run; the length was changed after it."""
    model = tiny_bridge("llama")
    projection = model.blocks[1].attn.q.original_component
    before = tw.read_weights(model).block(1).W_Q
    nn.utils.weight_norm(projection)
    projection.weight_g.data *= 2
    assert torch.allclose(tw.read_weights(model).block(1).W_Q, 2 * before, rtol=1e-5)
    assert tw.check(model, [5, 6, 7]).passed
