"""Unsupported models and invalid weights are rejected by name."""

from types import SimpleNamespace

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge, tiny_hf
from tw_lens.reading.model_access import require_numbers, to_float32_cpu

UNSUPPORTED = [
    ("mamba", "no layer has attention", "MambaForCausalLM"),
]


@pytest.mark.parametrize(("architecture", "part", "name"), UNSUPPORTED)
def test_unsupported_parts_are_named(architecture: str, part: str, name: str):
    model = tiny_bridge(architecture)
    for call in (tw.read_weights, lambda m: tw.check(m, [5, 6, 7])):
        with pytest.raises(tw.UnsupportedModelError, match=part) as caught:
            call(model)
        assert caught.value.architecture == name
        assert name in str(caught.value) and caught.value.remedy in str(caught.value)
        assert isinstance(caught.value, ValueError)


def test_a_norm_of_another_kind_is_named(monkeypatch):
    model = tiny_bridge("gpt2")
    norm = model.blocks[1].ln1
    monkeypatch.setattr(norm.hook_normalized, "forward", torch.tanh)
    with pytest.raises(
        tw.UnsupportedModelError, match=r"blocks\.1\.ln1.*neither LayerNorm nor RMSNorm"
    ):
        tw.read_weights(model)


@pytest.mark.parametrize("thing", [None, "gpt2", 3, torch.nn.Linear(2, 2), SimpleNamespace(cfg=1)])
def test_objects_that_are_no_transformer_lens_model(thing):
    with pytest.raises(TypeError, match="TransformerLens model"):
        tw.read_weights(thing)


def test_a_hugging_face_model_is_no_transformer_lens_model():
    with pytest.raises(TypeError, match="GPT2LMHeadModel"):
        tw.read_weights(tiny_hf("gpt2"))


def test_a_model_without_an_embedding_is_named():
    model = SimpleNamespace(cfg=SimpleNamespace(architecture="Half", d_model=4), blocks=[])
    with pytest.raises(tw.UnsupportedModelError, match="Half: it has no embed"):
        tw.read_weights(model)


def hf_of(model):
    return model.original_model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_the_embedding(value: float):
    model = tiny_bridge("llama")
    model.embed.W_E.data[3, 3] = value
    with pytest.raises(ValueError, match="embedding W_E contains NaN or infinity"):
        tw.read_weights(model)


def test_nan_in_one_layer_leaves_the_others_readable():
    model = tiny_bridge("llama")
    hf_of(model).model.layers[1].self_attn.k_proj.weight.data[0, 0] = float("nan")
    weights = tw.read_weights(model)
    assert torch.isfinite(tw.head_spectrum(weights, layer=0, n=1).singular_values).all()
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.W_K contains NaN"):
        weights.block(1)
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.W_K contains NaN"):
        tw.head_spectrum(weights, layer=1)


def test_nan_in_a_norm():
    model = tiny_bridge("gpt2")
    hf_of(model).transformer.h[2].ln_1.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"blocks\.2\.ln1\.bias contains NaN"):
        tw.read_weights(model)


def test_meta_weights():
    model = tiny_bridge("llama")
    model.to("meta")
    with pytest.raises(ValueError, match="meta device"):
        tw.read_weights(model)


def test_quantised_weights():
    with pytest.raises(ValueError, match="quantised"):
        to_float32_cpu(torch.zeros(3, dtype=torch.int8), "W")


def test_float32_cpu_tensors_are_copies():
    original = torch.zeros(3)
    copy = to_float32_cpu(original, "W")
    copy += 1
    assert original.sum() == 0


@pytest.mark.parametrize("layer", [-1, 3, 99])
def test_layers_that_do_not_exist(layer: int):
    weights = tw.read_weights(shared_bridge("gpt2"))
    with pytest.raises(IndexError, match=f"layer {layer} does not exist: .* layers 0 to 2"):
        weights.block(layer)


@pytest.mark.parametrize("layers", [1, "1", [1.5], [[1]], None])
def test_layers_that_are_no_list_of_ints(layers):
    weights = tw.read_weights(shared_bridge("gpt2"))
    with pytest.raises(TypeError, match=r"^layers must be a list of ints, e\.g\. \[1\]; got .*\.$"):
        weights.require_layers(layers)


def test_lists_of_layers():
    weights = tw.read_weights(shared_bridge("gpt2"))
    assert weights.require_layers([2, 0, 2]) == (2, 0)
    assert weights.require_layers(range(3)) == weights.require_layers((0, 1, 2)) == (0, 1, 2)
    with pytest.raises(ValueError, match="layers is empty"):
        weights.require_layers([])
    with pytest.raises(IndexError, match="layer 3 does not exist"):
        weights.require_layers([0, 3])


@pytest.mark.parametrize("where", ["attention", "embedding"])
def test_quantised_weights_are_rejected_before_anything_runs(where):
    model = tiny_bridge("llama")
    part = model.blocks[1].attn.k if where == "attention" else model.embed
    weight = (part.original_component.weight.data * 10).to(torch.int8)
    part.original_component.weight = torch.nn.Parameter(weight, requires_grad=False)
    for call in (tw.read_weights, lambda m: tw.check(m, [3, 4])):
        with pytest.raises(ValueError, match=r"quantised \(torch.int8\).*load it in float32"):
            call(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_packed_weights_of_one_linear_are_rejected(dtype: torch.dtype):
    """Eight-bit and packed four-bit parameters, in the layouts of bitsandbytes and GGUF."""
    model = tiny_bridge("llama")
    linear = model.blocks[2].mlp.original_component.down_proj
    shape = (linear.weight.numel() // 2, 1) if dtype == torch.uint8 else linear.weight.shape
    packed = torch.nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False)
    linear = getattr(linear, "original_component", linear)
    linear.weight = packed
    for call in (tw.read_weights, lambda m: tw.check(m, [3, 4])):
        with pytest.raises(ValueError, match=rf"quantised \({dtype}\).*load it in float32"):
            call(model)


def test_numbers_that_float32_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        require_numbers(torch.tensor([1e300, 1.0], dtype=torch.float64), "W")
    require_numbers(torch.full((3, 20_000), 1e35), "W")  # its sum overflows
