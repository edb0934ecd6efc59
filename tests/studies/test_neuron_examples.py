"""Neuron examples against the running model's own activations."""

from __future__ import annotations

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.zoo import zoo_bridge

TEXTS = [[5, 9, 7, 30, 11, 12, 5, 40], [8, 21, 7, 33, 2], [50, 5, 61, 9, 70, 71, 5]]


def own_activations(model, layer: int) -> list[torch.Tensor]:
    found = []
    for text in TEXTS:
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([text]))
        found.append(cache[f"blocks.{layer}.mlp.hook_post"][0].double())
    return found


@pytest.mark.parametrize("kind", ["gpt2", "llama", "neox"])
def test_examples_are_the_models_own_maxima(kind: str):
    model = shared_bridge(kind)
    weights = tw.read_weights(model)
    own = own_activations(model, 1)
    result = tw.neuron_examples(
        model, TEXTS, layer=1, neurons=[3, 40], n_examples=2, context=1, first_position=1
    )
    assert (result.n_prompts, result.n_positions) == (3, 17)
    for i, n in enumerate((3, 40)):
        best = max(
            ((abs(float(a[p, n])), t, p) for t, a in enumerate(own) for p in range(1, len(a))),
        )
        first = result.examples[i][0]
        assert (first.prompt, first.position) == best[1:]
        assert first.activation == pytest.approx(float(own[best[1]][best[2], n]), abs=1e-4)
        assert first.token_index == TEXTS[best[1]][best[2]]
        assert (*first.before, first.token_string) == tuple(
            weights.tokens.strings(TEXTS[best[1]][max(0, best[2] - 1) : best[2] + 1])
        )
        real = torch.cat([a[1:, n] for a in own])
        assert float(result.mean[i]) == pytest.approx(float(real.mean()), abs=1e-4)
        assert float(result.positive[i]) == pytest.approx(float((real > 0).double().mean()))
        mlp = weights.mlp(1)
        ids = torch.tensor([token for text in TEXTS for token in text[1:]])
        y = mlp.norm.sphere(weights.vocabulary.embeddings(ids))
        predicted = mlp.activations(mlp.pre_activations_of_points(y), y)[:, n].double()
        r = float(torch.corrcoef(torch.stack([predicted, real]))[0, 1])
        assert float(result.r[i]) == pytest.approx(r, abs=1e-4)
        assert float(result.r_embedding[i]) == pytest.approx(r, abs=1e-4)
    table = result.to_dataframe()
    assert len(table) == sum(map(len, result.examples)) and set(table.component) <= {
        "L1N3",
        "L1N40",
    }
    assert f"r = {float(result.r.mean()):.2f}" in result.headline()


def test_points_of_a_vocabulary_predict_what_the_neuron_reads():
    """In a parallel block, a token that occurs once is its own point: r = 1."""
    model = shared_bridge("neox")
    texts = [[3, token] for token in (5, 9, 7, 30, 11)]
    vocabulary = tw.layer_vocabulary(
        model, prompts=texts, min_count=1, unseen="omitted", prior_count=0
    )
    result = tw.neuron_examples(model, texts, layer=1, neurons=range(20), vocabulary=vocabulary)
    assert (result.r > 0.999).all() and result.n_tested == 5
    assert float(result.r_embedding.mean()) < 0.9


@pytest.mark.parametrize(
    "architecture", ["BertForMaskedLM", "MixtralForCausalLM", "JambaForCausalLM"]
)
def test_post_norms_mixtures_and_hybrids(architecture: str):
    model = zoo_bridge(architecture)
    result = tw.neuron_examples(model, TEXTS, layer=1, neurons=[0, 1], n_examples=1)
    states, weights = tw.read_states(model, TEXTS[0]), tw.read_weights(model)
    mlp = weights.mlp(1)
    y = mlp.norm.sphere(mlp.resid_mid(states.stream[1], states.attn_out[1]))
    own = mlp.activations(mlp.pre_activations_of_points(y), y)[1:, :2].abs().amax(0)
    for found, size in zip(result.examples, own, strict=True):
        assert not found or abs(found[0].activation) >= float(size) - 1e-4


def test_a_prompt_without_known_tokens_and_equal_activations():
    model = zoo_bridge("MixtralForCausalLM")
    vocabulary = tw.layer_vocabulary(model, prompts=[[5, 6, 7, 8, 9]], unseen="omitted")
    result = tw.neuron_examples(
        model, [[20, 21, 22, 23]], layer=1, neurons=[0, 1], vocabulary=vocabulary
    )
    assert result.n_tested == 0 and result.r.isnan().all()
    equal = tw.neuron_examples(
        shared_bridge("gpt2"), [[5] * 40, [5] * 23, [5] * 11], layer=1, neurons=range(8)
    )
    assert equal.r.isnan().all() and "r not defined" in equal.headline()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"neurons": []}, ValueError, "neurons is empty"),
        ({"neurons": [999]}, IndexError, "neuron 999 does not exist"),
        ({"n_examples": 0}, ValueError, "n_examples must be at least 1"),
        ({"prompts": [[5]]}, ValueError, "no prompt has a position"),
        ({"layer": 7}, IndexError, "layer 7 does not exist"),
    ],
)
def test_bad_input(options: dict, error: type, message: str):
    settings = {"prompts": TEXTS, "layer": 1, "neurons": [0]} | options
    with pytest.raises(error, match=message):
        tw.neuron_examples(shared_bridge("gpt2"), settings.pop("prompts"), **settings)
