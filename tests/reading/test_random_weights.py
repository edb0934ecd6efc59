"""Permuted weights: the same values in another order, certified, the model unchanged."""

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge
from tw_lens.reading import fingerprint


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma", "neox"])
def test_permuted_weights_have_the_models_values_in_another_order(architecture: str):
    model = tiny_bridge(architecture)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    permuted = tw.permute_weights(model, seed=1)
    values = dict(permuted.named_parameters())
    assert set(values) == set(before)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert torch.equal(
            values[name].flatten().sort().values, before[name].flatten().sort().values
        )
        if before[name].unique().numel() > 40:
            assert not torch.equal(values[name], before[name])
    assert tw.check(permuted, [5, 6, 7]).passed and tw.check(model, [5, 6, 7]).passed


def test_tied_weights_stay_tied():
    permuted = tw.permute_weights(tiny_bridge("gpt2"))
    hf = permuted.original_model
    assert hf.lm_head.weight.data_ptr() == hf.transformer.wte.weight.data_ptr()


def test_permuted_weights_of_a_processed_model_are_certified():
    assert tw.check(tw.permute_weights(shared_bridge("gpt2", processed=True)), [5, 6, 7]).passed


def test_the_seed_decides():
    model = shared_bridge("gpt2")
    one, again, other = (fingerprint(tw.permute_weights(model, seed=s)) for s in (1, 1, 2))
    assert one == again != other


def test_weights_that_are_not_in_memory_are_rejected():
    model = tiny_bridge("gpt2")
    model.original_model.transformer.h[0].mlp.to("meta")
    with pytest.raises(tw.UnsupportedModelError, match="permuting weights needs a copy"):
        tw.permute_weights(model)
