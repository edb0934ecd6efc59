"""Every result has a picture with something in it, and no token becomes markup."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens.analyses import CommonNouns, HeadEllipsoid
from tw_lens.rendering.figures.style import (
    EYE,
    escape_token,
    non_overlapping,
    to_screen,
    word_table,
)
from tw_lens.results import Result, figure


def every_result():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    rotating = tw.read_weights(shared_bridge("llama"))
    words = ["w5", "w6", 7]
    nouns = CommonNouns("tiny", True, (5, 6), ("w5", "w6"), ())
    results = [
        tw.embedding_distances(weights),
        tw.token_norms(weights),
        nouns,
        tw.token_filter(weights, whole_words=False, norm_band=(5, 95)),
        tw.head_probe(weights, layer=0, words=words),
        tw.head_probe(weights, layer=0, words=words, circuit="OV"),
        tw.head_spectrum(weights, layer=1, circuit="OV", n=3),
        tw.bias_directions(weights, layer=1),
        tw.head_atlas(weights, n=2),
        tw.direction_coherence(weights, n=2, n_null=99, n_null_within=19),
        tw.direction_association(weights, n=2),
        tw.direction_degeneracy(weights, layer=1, n=4),
        tw.head_ellipsoid(weights, layer=1, head=0, words=words),
        tw.attention_pattern(weights, states, layer=0),
        tw.trajectory(weights, states),
        tw.trajectory_attribution(weights, states),
        tw.fit_projection(weights, states),
        tw.fit_projection(weights, states, n_components=2),
        tw.head_probe_by_distance(rotating, layer=0, words=words, distances=[0, 1, 2]),
        tw.head_score_by_distance(rotating, layer=0, words=words),
        tw.trajectory_statistics(model, ["w5 w6 w7", "w8 w9"]),
        tw.trajectory_alignment(model, ["w5 w6 w7 w8", "w8 w9 w10 w11"]),
        tw.direction_examples(model, ["w5 w6 w7 w8", "w8 w9 w10 w11"], layer=1, head=0),
        tw.direction_ablation(model, ["w5 w6 w7"], layer=1, head=0, directions=[0, (1, 2)]),
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
    projection = tw.fit_projection(WEIGHTS, STATES, n_components=axes)
    drawn = path.plot(projection)
    assert "trustworthiness" in drawn.layout.title.text
    walk = next(trace for trace in drawn.data if trace.name == "1 w5")
    assert len(walk.x) == WEIGHTS.n_layers + 1 and path.readout(3, 1)[0] in walk.text[3]


def test_a_chart_of_other_states_is_refused():
    other = tw.read_states(golden_bridge(), "w8 w9 w10 w11")
    with pytest.raises(ValueError, match="other states"):
        tw.trajectory(WEIGHTS, STATES).plot(tw.fit_projection(WEIGHTS, other))


def test_markup_in_a_token_is_text():
    assert escape_token("<b>bold</b> ") == "&lt;b&gt;bold&lt;/b&gt;\u2423"


def test_names_in_a_scene_are_notes_over_the_paths_and_no_markup():
    """Text inside a scene is cut into by the paths before it; notes lie over everything."""
    projection = tw.fit_projection(WEIGHTS, STATES)
    hostile = replace(projection, words=("<b>&", *projection.words[1:]))
    for drawn in (hostile.plot(), tw.trajectory(WEIGHTS, STATES).plot(hostile)):
        words = next(trace for trace in drawn.data if trace.name == "words on the way")
        assert words.mode == "markers" and words.hovertext[0] == "&lt;b&gt;&amp;"
        note = drawn.layout.scene.annotations[0]
        assert note.text == "&lt;b&gt;&amp;" and not note.showarrow
        assert (note.x, note.y, note.z) == (words.x[0], words.y[0], words.z[0])
    flat = tw.fit_projection(WEIGHTS, STATES, n_components=2)
    flat = replace(flat, words=("<b>&", *flat.words[1:])).plot()
    assert any(trace.text and trace.text[0] == "&lt;b&gt;&amp;" for trace in flat.data)


def test_names_are_written_only_where_there_is_room():
    points = torch.tensor([[0.0, 0.0], [0.05, 0.0], [0.2, 0.0], [0.22, 0.0], [0.2, 0.3]])
    assert non_overlapping(points, wide=0.1, high=0.1) == [True, False, True, False, True]


def test_points_in_a_scene_are_seen_from_the_camera():
    """Along the line of sight two points fall together; to the right and upwards they do not."""
    eye = torch.tensor([EYE["x"], EYE["y"], EYE["z"]])
    points = torch.stack([torch.zeros(3), eye, torch.tensor([-1.0, 1, 0]), torch.eye(3)[2]])
    seen = to_screen(points, torch.zeros(3), torch.ones(3))
    assert torch.allclose(seen[0], seen[1], atol=1e-6)
    assert torch.allclose(seen[2], torch.tensor([2**0.5, 0.0]), atol=1e-6)
    assert seen[3, 0] == 0 and seen[3, 1] > 0.8


def test_a_long_ellipsoid_stays_inside_its_panel():
    solid = next(result for result in RESULTS if type(result) is HeadEllipsoid)
    axes = torch.tensor([60.0, 1.5, 0.9])
    drawn = replace(solid, semi_axes=axes, after=solid.before * axes).plot()
    ratio = drawn.layout.scene2.aspectratio
    assert max(ratio.x, ratio.y, ratio.z) <= 1.5
    assert drawn.layout.scene2.xaxis.range[1] >= 60


def test_position_0_is_hidden_and_said_to_be_so_only_beside_others():
    alone = tw.read_states(golden_bridge(), [5])
    for states, hidden in ((STATES, True), (alone, False)):
        path, projection = tw.trajectory(WEIGHTS, states), tw.fit_projection(WEIGHTS, states)
        for drawn in (path.plot(), path.plot(projection), projection.plot()):
            first = next(trace for trace in drawn.data if (trace.name or "").startswith("0 "))
            assert (first.visible == "legendonly") == hidden
            assert ("position 0 is hidden" in drawn.layout.title.text) == hidden


@pytest.mark.parametrize("tolerance", [1e-4, 0.0])
def test_the_tolerance_is_named_where_its_line_is(tolerance):
    drawn = figure(tw.check(golden_bridge(), "w5 w6", tolerance=tolerance))
    # On a logarithmic axis an annotation is placed by the exponent, a line by the value.
    assert [note.y for note in drawn.layout.annotations] == ([-4.0] if tolerance else [])


def test_the_heat_map_of_movers_is_the_mean_or_one_position():
    moved = tw.trajectory_attribution(WEIGHTS, STATES)
    for drawn, share in (
        (moved.plot(), moved.mean_share()),
        (moved.plot(position=2), moved.share[..., 2]),
    ):
        assert torch.allclose(torch.tensor(drawn.data[0].z), share, atol=1e-3)
        assert drawn.data[0].x == moved.components
    assert "position 0 left out" in moved.plot().layout.title.text
    assert "w6" in moved.plot(position=2).layout.title.text
    with pytest.raises(IndexError, match="positions 0 to 3"):
        moved.plot(position=4)


def test_a_word_probed_twice_is_drawn_once():
    drawn = tw.head_probe(WEIGHTS, layer=0, words=[5, 5, 6]).plot()
    assert len(drawn.data[0].y) == len(set(drawn.data[0].y)) == len(drawn.data[0].z) == 2


def test_a_table_is_high_enough_for_its_words():
    def height(word):
        return word_table("t", {"head": ["L0H0"] * 12, "words": [word] * 12}).layout.height

    assert height("word " * 80) > height("word") > 12 * 24


def test_a_player_moves_the_words_from_layer_to_layer():
    path, projection = tw.trajectory(WEIGHTS, STATES), tw.fit_projection(WEIGHTS, STATES)
    drawn = path.plot(projection)
    assert [frame.name for frame in drawn.frames] == ["0", "1", "2", "3"]
    assert [step.label for step in drawn.layout.sliders[0].steps] == ["0", "1", "2", "3"]
    (moving,) = drawn.frames[2].traces
    assert drawn.data[moving].name == "the words at this layer"
    for layer, frame in enumerate(drawn.frames):
        expected = projection.state_points[layer, 1:]  # position 0 is hidden
        assert torch.allclose(torch.tensor(frame.data[0].z), expected[:, 2], rtol=1e-3)


def test_several_prompts_share_a_chart_and_each_finds_its_points():
    other = tw.read_states(golden_bridge(), "w8 w9")
    projection = tw.fit_projection(WEIGHTS, [STATES, other])
    paths = [tw.trajectory(WEIGHTS, states) for states in (STATES, other)]
    assert torch.equal(projection.points_of(paths[0]), projection.state_points[:, : len(STATES)])
    assert torch.equal(projection.points_of(paths[1]), projection.state_points[:, len(STATES) :])
    drawn = tw.plot_trajectories(paths, projection)
    hidden = [trace.name for trace in drawn.data if trace.visible == "legendonly"]
    assert [name.split()[0] for name in hidden] == ["0", str(len(STATES))]
    with pytest.raises(ValueError, match="on other states"):
        tw.plot_trajectories(paths, tw.fit_projection(WEIGHTS, STATES))


def test_paths_are_coloured_by_what_the_reader_asks():
    path, projection = tw.trajectory(WEIGHTS, STATES), tw.fit_projection(WEIGHTS, STATES)
    movers = tw.trajectory_attribution(WEIGHTS, STATES)
    by_layer = path.plot(projection, color="layer")
    assert any(trace.marker.color == (0, 1, 2, 3) for trace in by_layer.data)
    (key,) = [trace for trace in by_layer.data if trace.marker.showscale]
    assert key.visible is not False and key.marker.cmax == 3  # whatever position is hidden
    assert key.name not in {trace.name for trace in path.plot(projection).data}
    drawn = path.plot(projection, color=movers)
    named = {trace.name for trace in drawn.data if trace.name.startswith("moved by")}
    assert named and not named & {"moved by attention", "moved by rest"}  # it has neither
    most = movers.share[:, :, 1].nan_to_num(-9).argmax(1)
    texts = next(trace for trace in drawn.data if trace.name.startswith("1 ")).text
    for layer, which in enumerate(most.tolist()):
        assert f"moved on by {movers.named(layer, which)}<" in texts[layer]
    with pytest.raises(ValueError, match="'token', 'layer' or"):
        path.plot(projection, color="nonsense")
    with pytest.raises(ValueError, match="other states"):
        path.plot(
            projection,
            color=tw.trajectory_attribution(WEIGHTS, tw.read_states(golden_bridge(), "w9 w8")),
        )


def test_walks_of_two_models_lie_over_each_other_in_relative_depth():
    shallow = shared_bridge("neo")
    weights = tw.read_weights(shallow)
    other = tw.trajectory(weights, tw.read_states(shallow, [5, 6, 7]))
    path = tw.trajectory(WEIGHTS, STATES)
    drawn = tw.plot_trajectory_measures([path, other], ["chord"])
    assert {trace.x[-1] for trace in drawn.data} == {1.0}
    assert {len(trace.x) for trace in drawn.data} == {4, 3}
    assert any(path.model_name in trace.name for trace in drawn.data)
    for asked in (["nonsense"], []):
        with pytest.raises(ValueError, match="one or more of norm"):
            path.plot(measures=asked)
    with pytest.raises(ValueError, match="paths is empty"):
        tw.plot_trajectory_measures([])
