"""Weights on a second device: every call answers as on the CPU, and mixes no devices."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.fake_device import FAKE, FakeDevice, FakeTensor
from tests.models import shared_bridge, tiny_hf, tokenizer
from tests.planted import with_router
from tests.zoo import zoo_bridge
from tw_lens.devices import CPU, moved

PROMPT, TEXTS = [5, 6, 7, 8], [[5, 6, 7, 8, 9, 10], [9, 8, 7, 6, 5]]


@lru_cache(maxsize=4)
def at_hand(kind: str) -> tuple[Any, tw.Weights, tw.States, tw.LayerVocabulary]:
    """Return a model with its weights, states and vocabulary, all on the CPU."""
    model = shared_bridge(kind)
    vocabulary = tw.layer_vocabulary(model, layers=[1], prompts=TEXTS)
    return model, tw.read_weights(model), tw.read_states(model, PROMPT), vocabulary


def calls(kind: str) -> dict[str, Callable[[tw.Weights], Any]]:
    """Return one call for every public function of weights, by the function's name."""
    model, _, states, vocabulary = at_hand(kind)
    return calls_on(model, states, vocabulary)


def calls_on(
    model: Any, s: tw.States, v: tw.LayerVocabulary | None
) -> dict[str, Callable[[tw.Weights], Any]]:
    """Return one call for every public function of weights, beside a model and what it was read."""
    made: dict[str, Callable[[tw.Weights], Any]] = {
        "attention_pattern": lambda w: tw.attention_pattern(w, s, layer=1),
        "bias_directions": lambda w: tw.bias_directions(w, layer=1),
        "common_nouns": lambda w: tw.common_nouns(w),
        "direction_association": lambda w: tw.direction_association(w, n=2, n_permutations=9),
        "direction_coherence": lambda w: tw.direction_coherence(
            w, n=1, n_null=9, n_null_within=3, layers=[1], vocabulary=v
        ),
        "direction_degeneracy": lambda w: tw.direction_degeneracy(w, layer=1, n=3),
        "embedding_distances": tw.embedding_distances,
        "fit_projection": lambda w: tw.fit_projection(w, s, n_words=9),
        "head_atlas": lambda w: tw.head_atlas(w, n=1, k=2),
        "head_ellipsoid": lambda w: tw.head_ellipsoid(w, layer=1, head=0, words=[5, 6]),
        "head_kinds": lambda w: tw.head_kinds(w, model, vocabulary=None),
        "head_position_scores": lambda w: tw.head_position_scores(w, layer=1, n=4),
        "head_probe": lambda w: tw.head_probe(w, layer=1, words=[5, 6], circuit="OV"),
        "head_probe_by_distance": lambda w: tw.head_probe_by_distance(
            w, layer=1, words=[5], distances=[0]
        ),
        "head_score_by_distance": lambda w: tw.head_score_by_distance(
            w, layer=1, words=[5, 6], distances=[0, 1]
        ),
        "head_spectrum": lambda w: tw.head_spectrum(
            w, layer=1, n=2, circuit="OV", vocabulary=v, score="standardised"
        ),
        "neuron_probe": lambda w: tw.neuron_probe(w, layer=1, words=[5], n=2),
        "neuron_table": lambda w: tw.neuron_table(w, layer=1, k=2, vocabulary=v),
        "position_points": lambda w: tw.position_points(w, positions=[0, 1]),
        "router_table": lambda w: tw.router_table(with_router(w), layer=1),
        "score_attribution": lambda w: tw.score_attribution(w, s, layer=1, head=0),
        "score_directions": lambda w: tw.score_directions(w, s, layer=1, head=0, rotations=2),
        "source_attribution": lambda w: tw.source_attribution(w, s, layer=1, head=0, query=2),
        "span_shares": lambda w: tw.span_shares(w, tw.position_points(w)),
        "token_filter": tw.token_filter,
        "token_norms": tw.token_norms,
        "trajectory": lambda w: tw.trajectory(w, s),
        "trajectory_attribution": lambda w: tw.trajectory_attribution(w, s, neurons=2).neurons,
    }
    made["head_probe, published"] = lambda w: tw.head_probe(
        w, layer=1, words=[5, 6], convention="published"
    )
    made["head_spectrum, QK"] = lambda w: tw.head_spectrum(w, layer=1, n=2)
    made["head_probe, by points"] = lambda w: tw.head_probe(
        w, layer=1, words=["position 0"], points=tw.position_points(w, positions=[0, 1])
    )
    return made


NAMES = sorted(calls("gpt2"))


def test_no_call_of_weights_is_forgotten():
    public = {name: getattr(tw, name) for name in tw.__all__}
    of_weights = {
        name
        for name, call in public.items()
        if callable(call) and not isinstance(call, type) and "weights" in signature(call).parameters
    }
    assert of_weights <= {name.partition(",")[0] for name in NAMES}


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("name", NAMES)
def test_a_call_on_another_device_gives_the_same_numbers(kind: str, name: str):
    model, weights, _, _ = at_hand(kind)
    call = calls(kind)[name]
    try:
        expected = call(weights)
    except (ValueError, tw.UnsupportedModelError) as refusal:
        with FakeDevice(), pytest.raises(type(refusal)):
            call(tw.read_weights(model, device=FAKE))
        return
    with FakeDevice():
        there = tw.read_weights(model, device=FAKE)
        assert there.block(1).A_Q.device == there.vocabulary.W_E.device == FAKE
        result = call(there)
    assert not any(isinstance(t, FakeTensor) for t in tensors(result))
    require_same(result, expected)


def test_a_mixture_of_experts_on_another_device():
    model = zoo_bridge("MixtralForCausalLM")
    states = tw.read_states(model, PROMPT)
    expected = tw.trajectory_attribution(tw.read_weights(model), states, neurons=2).neurons
    with FakeDevice():
        weights = tw.read_weights(model, device=FAKE)
        require_same(tw.trajectory_attribution(weights, states, neurons=2).neurons, expected)


STUDIES: dict[str, Callable[[Any], Any]] = {
    "check": lambda m: tw.check(m, PROMPT),
    "read_states": lambda m: tw.trajectory(tw.read_weights(m), tw.read_states(m, PROMPT)),
    "head_kinds": lambda m: tw.head_kinds(tw.read_weights(m), m),
    "direction_ablation": lambda m: tw.direction_ablation(
        m, TEXTS, layer=1, head=0, directions=[0]
    ),
    "direction_examples": lambda m: tw.direction_examples(m, TEXTS, layer=1, head=0),
    "neuron_examples": lambda m: tw.neuron_examples(m, TEXTS, layer=1, neurons=[0]),
    "neuron_ablation": lambda m: tw.neuron_ablation(m, TEXTS, layer=1, neurons=[0]),
    "trajectory_statistics": lambda m: tw.trajectory_statistics(m, TEXTS, controls=[]),
    "layer_vocabulary": lambda m: tw.faithfulness(
        m,
        [[4, 5, 6, 7, 8, 3]] * 2,
        vocabulary=[tw.layer_vocabulary(m, layers=[0, 1, 2], prompts=TEXTS)],
    ),
}


@lru_cache(maxsize=1)
def model_there() -> Any:
    """Return a bridge of a model whose parameters are on the fake device."""
    from transformer_lens.model_bridge import TransformerBridge

    hf, done = tiny_hf("gpt2"), {}
    for module in hf.modules():
        for name, value in module._parameters.items():
            if value is not None:
                one = torch.nn.Parameter(value.detach().to(FAKE), requires_grad=False)
                module._parameters[name] = done.setdefault(id(value), one)
        for name, value in module._buffers.items():
            module._buffers[name] = None if value is None else value.to(FAKE)
    return TransformerBridge.boot_transformers("tiny-gpt2", hf_model=hf, tokenizer=tokenizer())


@pytest.mark.parametrize("name", STUDIES)
def test_a_model_on_another_device_is_studied_there(name: str):
    expected = STUDIES[name](shared_bridge("gpt2"))
    with FakeDevice():
        model = model_there()
        assert tw.read_weights(model).device == FAKE
        assert tw.read_weights(model, device="cpu").device == CPU
        result = STUDIES[name](model)
        assert all(parameter.device == FAKE for parameter in model.parameters())
    require_same(result, expected)


def test_the_page_of_a_model_on_another_device(tmp_path):
    with FakeDevice():
        tw.report(
            model_there(), tmp_path / "page.html", prompt=PROMPT, layers=[1], vocabulary="embedding"
        )
    assert (tmp_path / "page.html").stat().st_size > 1e6


def test_the_papers_tables_of_a_model_on_another_device(tmp_path):
    options = {"prompt": PROMPT, "layers": [1], "words": [5, 6], "n": 2, "methods": ["pca"]}
    expected = tw.paper_tables(shared_bridge("gpt2"), tmp_path / "here", **options)
    with FakeDevice():
        result = tw.paper_tables(model_there(), tmp_path / "there", **options)
    assert list(result.tables) == list(expected.tables)
    for name in set(expected.tables) - {"projection_pca"}:  # axes have no sign
        pd.testing.assert_frame_equal(
            result.table(name), expected.table(name), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_copy_of_weights_of_another_device_is_on_the_cpu(kind: str):
    model, weights, states, _ = at_hand(kind)
    with FakeDevice():
        copied = pickle.dumps(tw.read_weights(model, device=FAKE))
    again = pickle.loads(copied)
    assert again.device == CPU
    expected = tw.attention_pattern(weights, states, layer=1)
    require_same(tw.attention_pattern(again, states, layer=1), expected)


def test_subclasses_move_too():
    class MyStates(tw.States):
        pass

    model, weights, states, _ = at_hand("gpt2")
    own = MyStates(**{f.name: getattr(states, f.name) for f in fields(states)})
    with FakeDevice():
        there = tw.trajectory(tw.read_weights(model, device=FAKE), own)
    require_same(there, tw.trajectory(weights, own))


def test_random_numbers_do_not_depend_on_the_device():
    weights = at_hand("gpt2")[1]
    expected = tw.direction_coherence(weights, n=1, n_null=9, n_null_within=3).p
    with FakeDevice():
        there = tw.read_weights(shared_bridge("gpt2"), device=FAKE)
        again = tw.direction_coherence(there, n=1, n_null=9, n_null_within=3).p
    assert torch.equal(again.nan_to_num(-1), expected.nan_to_num(-1))


def test_the_fake_device_refuses_to_mix():
    with FakeDevice():
        there = torch.ones(3, 2).to(FAKE)
        for mix in (lambda: there @ torch.ones(2), lambda: there + torch.ones(2)):
            with pytest.raises(RuntimeError, match="on two devices"):
                mix()
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.randn(2, generator=torch.Generator(), device=FAKE)
        assert (there + 1)[torch.tensor([0, 2])].tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize("device", ["cuda:99", "nowhere", "meta"])
def test_a_device_that_cannot_compute_is_refused(device: str):
    with pytest.raises(ValueError, match=r"device '.*' (cannot be used here|holds no numbers)"):
        tw.read_weights(shared_bridge("gpt2"), device=device)


def test_what_is_on_the_device_already_is_not_copied():
    _, weights, states, _ = at_hand("gpt2")
    for value in (
        weights.block(1),
        weights.mlp(1),
        weights.vocabulary,
        states,
        PROMPT,
        "text",
        {"a": (1, weights)},
        weights.caveats,
    ):
        assert moved(value, CPU) is value


def tensors(value: Any) -> list[torch.Tensor]:
    """Return all tensors of a result."""
    return list(_tensors(value))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


def require_same(result: Any, expected: Any) -> None:
    """Require equal tables, and equal tensors, up to rounding."""
    if hasattr(expected, "to_dataframe"):
        pd.testing.assert_frame_equal(
            result.to_dataframe(), expected.to_dataframe(), rtol=1e-4, atol=1e-5
        )
    for one, other in zip(tensors(result), tensors(expected), strict=True):
        assert one.dtype == other.dtype
        if one.is_floating_point():
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)
        else:
            assert torch.equal(one, other)
