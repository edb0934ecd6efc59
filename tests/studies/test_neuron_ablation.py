"""Neuron ablation: the running model without a neuron, by its own hooks, and planted effects."""

from __future__ import annotations

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.zoo import zoo_bridge
from tw_lens.studies.neuron_ablation import NEAREST, _random_like

TEXTS = [[5, 9, 7, 30, 11, 12], [8, 21, 7, 33], [50, 5, 61, 9, 70, 71, 5]]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox", "gemma"])
def test_the_effect_is_that_of_zeroing_the_models_own_hook(kind: str):
    model = shared_bridge(kind)
    result = tw.neuron_ablation(model, TEXTS, layer=1, neurons=[3, (3, 40), ()])
    zeroed: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for members in ((), (3,), (3, 40)):

        def zero(value, hook, members=members):
            value = value.clone()
            value[..., list(members)] = 0
            return value

        zeroed[members] = []
        for text in TEXTS:
            with torch.no_grad():
                logits = model.run_with_hooks(
                    torch.tensor([text]), fwd_hooks=[("blocks.1.mlp.hook_post", zero)]
                )
            zeroed[members].append(logits[0, 1:].double().log_softmax(-1))
    for i, members in enumerate(((3,), (3, 40))):
        kl = torch.cat(
            [
                (own.exp() * (own - without)).sum(-1)
                for own, without in zip(zeroed[()], zeroed[members], strict=True)
            ]
        ).mean()
        assert float(result.effect.value[0, i, 1]) == pytest.approx(float(kl), rel=1e-3)
        assert float(kl) > 1e-6
    assert result.effect.value[:, 2].abs().max() == 0 and result.residual_error < 1e-5
    assert result.names == ("L1N3", "L1N3+40", "none")
    table = result.to_dataframe()
    assert len(table) == 6 and set(table.vs_control) <= {"above", "below", "level"}


@pytest.mark.parametrize(
    "architecture",
    ["BertForMaskedLM", "Gemma2ForCausalLM", "GraniteForCausalLM", "BitNetForCausalLM",
     "OPTForCausalLM", "BloomForCausalLM", "MixtralForCausalLM", "DeepseekV3ForCausalLM",
     "Glm4ForCausalLM", "AfmoeForCausalLM", "ModernBertDecoderForCausalLM", "GptOssForCausalLM",
     "Llama4ForCausalLM", "GraniteMoeHybridForCausalLM", "RecurrentGemmaForCausalLM"],
)  # fmt: skip
def test_the_stream_under_ablation_is_the_canonical_forms(architecture: str):
    model = zoo_bridge(architecture)
    before = {name: p.clone() for name, p in model.named_parameters()}
    d_mlp = tw.read_weights(model).mlp(1).d_mlp
    result = tw.neuron_ablation(model, TEXTS, layer=1, neurons=[range(0, min(90, d_mlp), 7)])
    assert result.residual_error < 2e-5 and float(result.effect.value[0, 0, 0]) > 1e-4
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_block_that_is_an_mlp_is_ablated():
    model = zoo_bridge("NemotronHForCausalLM")
    result = tw.neuron_ablation(model, TEXTS, layer=2, neurons=[range(0, 90, 7)])
    assert result.residual_error < 2e-5 and float(result.effect.value[0, 0, 1]) > 1e-5


def test_the_effect_does_not_depend_on_processing():
    """After TransformerLens' own processing the last map is no module that is called."""
    raw, processed = (
        tw.neuron_ablation(shared_bridge("llama", own), TEXTS, layer=1, neurons=[3, (3, 40)])
        for own in (False, True)
    )
    assert torch.allclose(raw.effect.value[0], processed.effect.value[0], rtol=1e-3)


def test_random_neurons_are_others_of_nearly_the_same_write_norm():
    g = torch.Generator().manual_seed(1)
    size = torch.rand(400, generator=torch.Generator().manual_seed(0)).sort(descending=True).values
    for members in ((3, 4, 5), tuple(range(100)), tuple(range(200))):
        chosen = _random_like(members, size, None, g)
        assert len(set(chosen)) == len(members) and not set(members) & set(chosen)
    drawn = {_random_like((50,), size, None, g)[0] for _ in range(500)}
    assert drawn <= set(range(50 - NEAREST, 51 + NEAREST)) and len(drawn) == NEAREST
    assert _random_like(tuple(range(201)), size, None, g) is None
    experts = ("0",) * 200 + ("1",) * 200
    chosen = _random_like((3, 250), size, experts, g)
    assert chosen[0] < 200 <= chosen[1]
    assert _random_like(tuple(range(150)), size, experts, g) is None


def test_a_set_without_enough_others_has_no_control():
    model = shared_bridge("gpt2")
    n = tw.read_weights(model).mlp(1).d_mlp
    result = tw.neuron_ablation(model, TEXTS, layer=1, neurons=[range(n), 3])
    assert result.effect.value[1, 0].isnan().all() and not result.effect.value[:, 1].isnan().any()
    assert float(result.effect.value[0, 0, 0]) > 0.1
    assert "no control" in {caveat.name for caveat in result.caveats}
    table = result.to_dataframe()
    assert table.vs_control.tolist()[:2] == ["", ""] and "1 of 2" not in result.headline()[-200:]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"neurons": []}, ValueError, "neurons must not be empty"),
        ({"neurons": [999]}, IndexError, "neuron 999 does not exist: the layer has 0 to"),
        ({"n_random": 0}, ValueError, "n_random must be at least 1"),
        ({"prompts": [[5]]}, ValueError, "no prompt has a position"),
    ],
)
def test_bad_input(options: dict, error: type, message: str):
    settings = {"prompts": TEXTS, "layer": 1, "neurons": [0]} | options
    with pytest.raises(error, match=message):
        tw.neuron_ablation(shared_bridge("gpt2"), settings.pop("prompts"), **settings)
