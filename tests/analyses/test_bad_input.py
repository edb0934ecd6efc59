"""Errors say in one sentence what must hold and what was given."""

import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tw_lens.canonical import Weights

ANALYSES = {
    name: getattr(tw, name)
    for name in tw.__all__
    if next(iter(signature(getattr(tw, name)).parameters), "") == "weights"
}


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


def assert_rejected(call, match: str) -> None:
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
        assert_rejected(call, "circuit")


def test_conventions_readouts_and_methods(weights, states):
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
            assert_rejected(call, name)


def test_the_librarys_own_errors():
    """Without beartype: the library's own sentences."""
    from tw_lens.argument_kinds import require_choice, require_choices, require_positive

    with pytest.raises(ValueError, match=r"^unknown circuit 'VO'; expected 'QK' or 'OV'\.$"):
        require_choice("circuit", "VO", ("QK", "OV"))
    with pytest.raises(ValueError, match=r"^unknown null 'x'; expected one of 'a', 'b', 'c'\.$"):
        require_choices("nulls", ["a", "x"], ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0\.$"):
        require_positive("k", 0)
    with pytest.raises(ValueError, match=r"^k must be at least 2, got 1\.$"):
        require_positive("k", 1, at_least=2)
    require_choice("circuit", "OV", ("QK", "OV"))
    assert require_choices("nulls", ["c", "a", "c"], ("a", "b", "c")) == ("c", "a")
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
        with pytest.raises(ValueError, match=f" must be at least 1, got {k}"):
            call()


def test_more_than_there_is_gives_all(weights):
    assert len(tw.token_norms(weights).top(5000)) == 997
    result = tw.head_spectrum(weights, layer=0, n=500, k=2000, head=0)
    assert result.n == 12
    assert sorted(result.left.token_index[0].tolist()) == list(range(997))


def test_axes_of_a_projection(weights, states):
    for axes in (1, 4):
        with pytest.raises(ValueError, match=f"n_components must be 2 or 3, got {axes}"):
            tw.fit_projection(weights, states, n_components=axes)


def test_words_of_several_tokens_are_dropped_and_listed(weights):
    result = tw.head_probe(weights, layer=0, words=["w5", "w5 w6", 7])
    assert result.words == ("w5", "w7")
    assert result.word_index == (5, 7)
    assert result.dropped == ("w5 w6",)
    assert "1 dropped: 'w5 w6'" in repr(result)
    ellipsoid = tw.head_ellipsoid(weights, layer=0, head=0, words=["w5", "w5 w6"])
    assert ellipsoid.dropped == ("w5 w6",) and "1 dropped: 'w5 w6'" in repr(ellipsoid)
    by_distance = tw.head_probe_by_distance(
        weights, layer=0, words=["w5", "w5 w6"], distances=[0], k=1
    )
    assert "1 dropped: 'w5 w6'" in repr(by_distance)


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


def test_prompts_of_one_token_have_a_trajectory(weights):
    states = tw.read_states(shared_bridge("gpt2"), [5])
    path = tw.trajectory(weights, states)
    assert path.norm.shape == (4, 1)
    assert tw.attention_pattern(weights, states, layer=0).pattern.tolist() == [[[1.0]]] * 4
    assert torch.isfinite(tw.fit_projection(weights, states).state_points).all()


@pytest.mark.parametrize("name", ANALYSES)
def test_a_model_in_place_of_weights_is_rejected(name):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"^weights must be Weights; call .*\(got Linear\)\.$"):
        getattr(tw, name)(model)


def test_other_objects_are_neither_cited_nor_saved(tmp_path):
    with pytest.raises(TypeError, match="can be cited or saved; got Linear"):
        tw.save_table(torch.nn.Linear(2, 2), tmp_path / "t.csv")


NUMBERS = {"layer", "head", "k", "n", "distance", "n_words", "n_components", "n_null",
           "n_null_within", "n_permutations", "n_perturbations", "seed"}  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_numbers_and_lists_of_another_type(weights, states, name):
    parameters = signature(ANALYSES[name]).parameters
    first = (weights, states) if "states" in parameters else (weights,)
    for parameter in NUMBERS & set(parameters):
        for value in ("a", 1.5, [1]):
            with pytest.raises(TypeError, match=f"^{parameter} must be an int, got ") as caught:
                ANALYSES[name](*first, **{parameter: value})
            assert str(caught.value).endswith(f"got {value!r}.")
    for parameter in {"layers", "distances"} & set(parameters):
        for value in (1, [1.5], "1", b"1"):
            sentence = rf"^{parameter} must be a list of ints, e\.g\. \[1\]; got "
            with pytest.raises(TypeError, match=sentence):
                ANALYSES[name](*first, **{parameter: value})
    if "words" in parameters:
        for value in (5, [1.5], b"dog", None):
            with pytest.raises(TypeError, match=r"^words must be a list of strings or token ids"):
                ANALYSES[name](*first, words=value)


CASES = {
    "tw.head_ellipsoid(w, layer=1, words=[1], head=None)": "head must be an int, got None.",
    "tw.head_spectrum(w, layer=None)": "layer must be an int, got None.",
    "tw.token_norms(w, scale='no')": "scale must be True or False, got 'no'.",
    "tw.token_norms(w).top('a')": "k must be an int, got 'a'.",
    "tw.token_filter(w, leading_space=1)": "leading_space must be True or False, got 1.",
    "tw.token_filter(w, script=5)": "script must be a string, got 5.",
    "tw.token_filter(w, norm_band=5)":
        "norm_band must be two percentiles from 0 to 100, the lower first; got 5.",
    "tw.token_filter(w, id_band=(1, 2, 3))":
        "id_band must be two ids from 0 to 997, the lower first; got (1, 2, 3).",
    "tw.head_probe(w, layer=1, words=[1], token_filter=5)":
        "token_filter must be a TokenFilter; call token_filter(weights) first (got int).",
    "tw.head_probe(w, layer=1, words=[1], circuit=5)": "unknown circuit 5; expected 'QK' or 'OV'.",
    "tw.direction_coherence(w, nulls='isotropic')":
        "nulls must be a list of names, e.g. ['isotropic']; got 'isotropic'.",
    "tw.direction_coherence(w, nulls=['x'])":
        "unknown null 'x'; expected one of 'isotropic', 'vocabulary', 'within head'.",
    "tw.direction_coherence(w, measures=5)":
        "measures must be a list of names, e.g. ['embedding']; got 5.",
    "tw.trajectory(w, [5, 6])": "states must be States; call read_states(model, prompt) first (got",
    "tw.fit_projection(w, 5)": "states must be States or a list of them; call read_states(model,",
    "tw.fit_projection(w, [s, 5])": "states must be States or a list of them; call",
    "tw.fit_projection(w, s, method='tsne')": "unknown method 'tsne'; expected 'pca' or 'umap'.",
    "tw.fit_projection(w, s, n_words=9).plot('red')":
        "unknown color 'red'; expected 'token' or 'layer'.",
    "tw.trajectory(w, s).plot(measures='norm')":
        "measures must be a list of names, e.g. ['norm']; got 'norm'.",
    "tw.trajectory(w, s).plot(5)":
        "projection must be a Projection; call fit_projection(weights, states) first (got int).",
    "tw.trajectory(w, s).readout(4, 0)": "layer must be between 0 and 3, got 4.",
    "tw.trajectory(w, s).readout(0, 4)": "position must be between 0 and 3, got 4.",
    "tw.trajectory(w, s).readout('a', 0)": "layer must be an int, got 'a'.",
    "tw.trajectory_attribution(w, s).plot('a')": "position must be an int, got 'a'.",
    "tw.trajectory_attribution(w, s).plot(4)": "position must be between 0 and 3, got 4.",
    "atlas.only(layers=1)": "layers must be a list of ints, e.g. [1]; got 1.",
    "atlas.only(word=5)": "word must be a string, got 5.",
}  # fmt: skip
WITHOUT_TYPE_CHECKS = """
import sys
import tw_lens as tw
from tests.models import golden_bridge
model = golden_bridge()
w, s = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
atlas = tw.head_atlas(w, layers=[1], n=1, k=1)
for case in sys.argv[1:]:
    try:
        eval(case)
        print("nothing raised")
    except (IndexError, TypeError, ValueError) as error:
        print(error)
"""


@pytest.fixture(scope="module")
def messages() -> dict[str, str]:
    command = [sys.executable, "-c", WITHOUT_TYPE_CHECKS, *CASES]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    return dict(zip(CASES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_without_type_checks(messages: dict[str, str], case: str):
    assert messages[case].startswith(CASES[case])
