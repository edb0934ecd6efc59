"""Refusals say what was given and what fits."""

from inspect import signature

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tw_lens.canonical import Weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return tw.read_weights(shared_bridge("gpt2"))


@pytest.fixture(scope="module")
def states():
    return tw.read_states(shared_bridge("gpt2"), [5, 6, 7])


@pytest.mark.parametrize("layer", [-1, 3])
def test_layers(weights, states, layer: int):
    calls = [
        lambda: tw.head_probe(weights, layer=layer, words=[1]),
        lambda: tw.head_spectrum(weights, layer=layer),
        lambda: tw.bias_directions(weights, layer=layer),
        lambda: tw.head_ellipsoid(weights, layer=layer, head=0, words=[1]),
        lambda: tw.attention_pattern(weights, states, layer=layer),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=f"layer {layer} does not exist"):
            call()


@pytest.mark.parametrize("head", [-1, 4])
def test_heads(weights, head: int):
    calls = [
        lambda: tw.head_probe(weights, layer=0, words=[1], head=head),
        lambda: tw.head_spectrum(weights, layer=0, head=head),
        lambda: tw.head_ellipsoid(weights, layer=0, head=head, words=[1]),
    ]
    for call in calls:
        with pytest.raises(IndexError, match=f"head {head} does not exist: .* heads 0 to 3"):
            call()


def refused_by_name(call, match: str) -> None:
    with pytest.raises(Exception, match=match) as caught:
        call()
    beartype = type(caught.value).__module__.startswith(("beartype", "jaxtyping"))
    assert beartype or isinstance(caught.value, ValueError)


@pytest.mark.parametrize("bad", ["VO", "qk", ""])
def test_circuits(weights, bad: str):
    calls = [
        lambda: tw.head_probe(weights, layer=0, words=[1], circuit=bad),
        lambda: tw.head_spectrum(weights, layer=0, circuit=bad),
        lambda: tw.head_ellipsoid(weights, layer=0, head=0, words=[1], circuit=bad),
    ]
    for call in calls:
        refused_by_name(call, "circuit")


def test_conventions_readings_and_methods(weights, states):
    bad = {"convention": "folded"}
    calls = {
        "convention": [
            lambda: tw.head_probe(weights, layer=0, words=[1], **bad),
            lambda: tw.head_spectrum(weights, layer=0, **bad),
            lambda: tw.bias_directions(weights, layer=0, **bad),
            lambda: tw.token_norms(weights, **bad),
        ],
        "readout": [lambda: tw.head_probe(weights, layer=0, words=[1], readout="x")],
        "method": [lambda: tw.fit_projection(weights, states, method="tsne")],
    }
    for name, group in calls.items():
        for call in group:
            refused_by_name(call, name)


def test_the_calls_own_refusals():
    """Without beartype: the library's own sentences."""
    from tw_lens.results.arguments import require_choice, require_positive

    with pytest.raises(ValueError, match="circuit='VO' is unknown: 'QK' or 'OV' fits"):
        require_choice("circuit", "VO", ("QK", "OV"))
    with pytest.raises(ValueError, match="k=0 is no count: give at least 1"):
        require_positive("k", 0)
    require_choice("circuit", "OV", ("QK", "OV"))
    require_positive("k", 1)


@pytest.mark.parametrize("k", [0, -3])
def test_counts(weights, states, k: int):
    calls = [
        lambda: tw.head_probe(weights, layer=0, words=[1], k=k),
        lambda: tw.head_spectrum(weights, layer=0, k=k),
        lambda: tw.head_spectrum(weights, layer=0, n=k),
        lambda: tw.bias_directions(weights, layer=0, k=k),
        lambda: tw.trajectory(weights, states, k=k),
        lambda: tw.token_norms(weights).top(k),
        lambda: tw.token_norms(weights).bottom(k),
        lambda: tw.fit_projection(weights, states, n_words=k),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"={k} is no count"):
            call()


def test_more_than_there_is_gives_all(weights):
    assert len(tw.token_norms(weights).top(5000)) == 997
    result = tw.head_spectrum(weights, layer=0, n=500, k=2000, head=0)
    assert result.n == 12
    assert sorted(result.left.token_index[0].tolist()) == list(range(997))


def test_axes_of_a_map(weights, states):
    for axes in (1, 4):
        with pytest.raises(ValueError, match=f"n_components={axes}: a map has 2 or 3 axes"):
            tw.fit_projection(weights, states, n_components=axes)


def test_words_of_several_tokens_are_dropped_and_named(weights):
    result = tw.head_probe(weights, layer=0, words=["w5", "w5 w6", 7])
    assert result.words == ("w5", "w7")
    assert result.word_index == (5, 7)
    assert result.dropped == ("w5 w6",)
    assert "1 dropped: 'w5 w6'" in repr(result)


@pytest.mark.parametrize("words", [["w5 w6"], [], ["w5 w6", "w1 w2 w3"], [""], ["unheard"]])
def test_no_word_left(weights, words: list[str]):
    for call in (
        lambda: tw.head_probe(weights, layer=0, words=words),
        lambda: tw.head_ellipsoid(weights, layer=0, head=0, words=words),
    ):
        with pytest.raises(ValueError, match="none of the words is a single token"):
            call()


@pytest.mark.parametrize("bad", [-1, 997])
def test_word_ids_outside_the_vocabulary(weights, bad: int):
    with pytest.raises(IndexError, match=f"token id {bad} does not exist: .* ids 0 to 996"):
        tw.head_probe(weights, layer=0, words=[1, bad])


def test_states_of_another_model(weights):
    other = tw.read_states(shared_bridge("neo"), [5, 6])
    for call in (
        lambda: tw.trajectory(weights, other),
        lambda: tw.fit_projection(weights, other),
        lambda: tw.attention_pattern(weights, other, layer=0),
    ):
        with pytest.raises(ValueError, match="are not of the weights' model"):
            call()


def test_a_head_of_two_dimensions_has_no_ellipsoid(weights):
    from dataclasses import replace

    with pytest.raises(ValueError, match="at least 3 dimensions"):
        tw.head_ellipsoid(replace(weights, d_head=2), layer=0, head=0, words=[1])


def test_one_token_prompts_travel(weights):
    states = tw.read_states(shared_bridge("gpt2"), [5])
    path = tw.trajectory(weights, states)
    assert path.norm.shape == (4, 1)
    assert tw.attention_pattern(weights, states, layer=0).pattern.tolist() == [[[1.0]]] * 4
    assert torch.isfinite(tw.fit_projection(weights, states).state_points).all()


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in tw.__all__
        if next(iter(signature(getattr(tw, name)).parameters), "") == "weights"
    ],
)
def test_a_model_in_the_weights_place_is_named(name):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=rf"{name} expects Weights;.*\(got Linear\)\."):
        getattr(tw, name)(model)


def test_what_is_no_result_is_neither_cited_nor_saved(tmp_path):
    with pytest.raises(TypeError, match="can be cited and saved, not Linear"):
        tw.save_table(torch.nn.Linear(2, 2), tmp_path / "t.csv")
