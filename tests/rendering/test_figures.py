"""Every result has a picture with something in it, and no token becomes markup."""

import pytest

import tw_lens as tw
from tests.models import golden_bridge
from tw_lens.analyses import NounList, Result, figure
from tw_lens.rendering.style import shown


def every_result():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    words = ["w5", "w6", 7]
    nouns = NounList("tiny", True, (5, 6), ("w5", "w6"), ())
    results = [
        tw.embedding_distances(weights),
        tw.token_norms(weights),
        nouns,
        tw.head_probe(weights, layer=0, words=words),
        tw.head_probe(weights, layer=0, words=words, circuit="OV"),
        tw.head_spectrum(weights, layer=1, circuit="OV", n=3),
        tw.bias_directions(weights, layer=1),
        tw.head_ellipsoid(weights, layer=1, head=0, words=words),
        tw.attention_pattern(weights, states, layer=0),
        tw.trajectory(weights, states),
        tw.fit_map(weights, states),
        tw.fit_map(weights, states, n_components=2),
    ]
    return weights, states, results


WEIGHTS, STATES, RESULTS = every_result()


def test_no_result_class_is_forgotten():
    assert {type(result) for result in RESULTS} == set(Result.__subclasses__())


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_has_a_picture(result):
    drawn = result.plot()
    assert len(drawn.data) > 0 and drawn.layout.title.text
    assert all(trace.type for trace in drawn.data)


def test_certificate_has_a_picture():
    drawn = figure(tw.check(golden_bridge(), "w5 w6"))
    assert {trace.name for trace in drawn.data} >= {"q", "k", "v", "attn_scores", "logits"}


@pytest.mark.parametrize("axes", [2, 3])
def test_paths_say_how_far_they_can_be_believed_and_what_each_state_reads(axes):
    path = tw.trajectory(WEIGHTS, STATES)
    chart = tw.fit_map(WEIGHTS, STATES, n_components=axes)
    drawn = path.plot(chart)
    assert "trustworthiness" in drawn.layout.title.text
    walk = next(trace for trace in drawn.data if trace.name == "1 w5")
    assert len(walk.x) == WEIGHTS.n_layers + 1 and path.reading(3, 1)[0] in walk.text[3]


def test_a_chart_of_other_states_is_refused():
    other = tw.read_states(golden_bridge(), "w8 w9 w10 w11")
    with pytest.raises(ValueError, match="other states"):
        tw.trajectory(WEIGHTS, STATES).plot(tw.fit_map(WEIGHTS, other))


def test_markup_in_a_token_is_text():
    assert shown("<b>bold</b> ") == "&lt;b&gt;bold&lt;/b&gt;\u2423"
