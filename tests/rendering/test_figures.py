"""Every result has a figure with content, and no token becomes markup."""

import math
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tests.planted import with_router
from tw_lens.analyses import CommonNouns, HeadEllipsoid
from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES
from tw_lens.rendering.export.print_layout import layout_of
from tw_lens.rendering.figures.style import (
    EYE,
    MEASURE_LABELS,
    escape_token,
    non_overlapping,
    to_screen,
    token_table,
    traces_of,
)
from tw_lens.results import Result, figure


def every_result():
    model = golden_bridge()
    weights, states = tw.read_weights(model), tw.read_states(model, "w5 w6 w7")
    rotating = tw.read_weights(shared_bridge("llama"))
    words = ["w5", "w6", 7]
    nouns = CommonNouns("tiny", True, (5, 6), ("w5", "w6"), ())
    results = [
        tw.check(model, "w5 w6 w7"),
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
        tw.head_kinds(weights, model),
        tw.score_attribution(weights, states, layer=2, head=1, query=2),
        tw.score_directions(weights, states, layer=2, head=1, rotations=2),
        tw.neuron_table(weights, layer=1),
        tw.router_table(with_router(weights), layer=1),
        tw.neuron_probe(weights, layer=1, words=[5, 6]),
        tw.neuron_examples(model, [[5, 6, 7], [9, 8]], layer=1, neurons=[3, 4]),
        tw.trajectory_attribution(weights, states, neurons=3).neurons,
        tw.neuron_ablation(model, [[5, 6, 7], [9, 8]], layer=1, neurons=[3, 4]),
        tw.source_attribution(weights, states, layer=2, head=1, query=2),
        tw.head_position_scores(weights, layer=1, n=8),
        tw.span_shares(weights, tw.position_points(weights)),
        tw.trajectory_statistics(model, ["w5 w6 w7", "w8 w9"]),
        tw.trajectory_alignment(model, ["w5 w6 w7 w8", "w8 w9 w10 w11"]),
        tw.direction_examples(model, ["w5 w6 w7 w8", "w8 w9 w10 w11"], layer=1, head=0),
        tw.direction_ablation(model, ["w5 w6 w7"], layer=1, head=0, directions=[0, (1, 2)]),
        tw.faithfulness(
            model,
            ["w5 w6 w7 w8 w9 w10", "w6 w7 w8 w9 w10"],
            vocabulary=[tw.layer_vocabulary(model, source=s) for s in ("embedding", "alone")],
        ),
        tw.sweep([model], prompts=["w5 w6 w7 w8 w9 w10", "w6 w7 w8 w9 w10"]),
        paper_tables(model),
    ]
    return weights, states, results


def paper_tables(model):
    with TemporaryDirectory() as folder:
        return tw.paper_tables(
            model, f"{folder}/paper", prompt="w5", layers=[1], words=[5], n=1, methods=["pca"]
        )


WEIGHTS, STATES, RESULTS = every_result()


def test_no_result_class_is_forgotten():
    assert {type(result) for result in RESULTS} == set(Result.__subclasses__())


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_has_a_figure(result):
    fig = result.plot()
    assert len(fig.data) > 0 and fig.layout.title.text
    assert all(trace.type for trace in fig.data)


def test_certificate_has_a_figure():
    fig = figure(tw.check(golden_bridge(), "w5 w6"))
    assert {trace.name for trace in fig.data} >= {"q", "k", "v", "attn_scores", "logits"}


@pytest.mark.parametrize("axes", [2, 3])
def test_projected_paths_show_their_quality_and_each_states_readout(axes):
    path = tw.trajectory(WEIGHTS, STATES)
    projection = tw.fit_projection(WEIGHTS, STATES, n_components=axes)
    fig = path.plot(projection)
    assert "trustworthiness" in layout_of(fig).title.text
    trace = next(trace for trace in fig.data if trace.name == "1 w5")
    assert len(trace.x) == WEIGHTS.n_layers + 1 and path.readout(3, 1)[0] in trace.text[3]


def test_a_projection_of_other_states_is_rejected():
    other = tw.read_states(golden_bridge(), "w8 w9 w10 w11")
    with pytest.raises(ValueError, match="other states"):
        tw.trajectory(WEIGHTS, STATES).plot(tw.fit_projection(WEIGHTS, other))


def test_markup_in_a_token_is_text():
    assert escape_token("<b>bold</b> ") == "&lt;b&gt;bold&lt;/b&gt;\u2423"


def test_labels_in_a_scene_are_annotations_over_the_paths_and_not_markup():
    """Paths cut through text inside a scene; annotations lie over everything."""
    projection = tw.fit_projection(WEIGHTS, STATES)
    hostile = replace(projection, words=("<b>&", *projection.words[1:]))
    for fig in (hostile.plot(), tw.trajectory(WEIGHTS, STATES).plot(hostile)):
        landmarks = next(trace for trace in fig.data if trace.name == "landmark tokens")
        assert landmarks.mode == "markers" and landmarks.hovertext[0] == "&lt;b&gt;&amp;"
        note = layout_of(fig).scene.annotations[0]
        assert note.text == "&lt;b&gt;&amp;" and not note.showarrow
        assert (note.x, note.y, note.z) == (landmarks.x[0], landmarks.y[0], landmarks.z[0])
    flat = tw.fit_projection(WEIGHTS, STATES, n_components=2)
    flat = replace(flat, words=("<b>&", *flat.words[1:])).plot()
    assert any(trace.text and trace.text[0] == "&lt;b&gt;&amp;" for trace in flat.data)


def test_labels_are_shown_only_where_they_fit():
    points = torch.tensor([[0.0, 0.0], [0.05, 0.0], [0.2, 0.0], [0.22, 0.0], [0.2, 0.3]])
    assert non_overlapping(points, width=0.1, height=0.1) == [True, False, True, False, True]


def test_points_in_a_scene_are_projected_to_the_camera():
    """Two points on the line of sight coincide; points to the right or above do not."""
    eye = torch.tensor([EYE["x"], EYE["y"], EYE["z"]])
    points = torch.stack([torch.zeros(3), eye, torch.tensor([-1.0, 1, 0]), torch.eye(3)[2]])
    screen = to_screen(points, torch.zeros(3), torch.ones(3))
    assert torch.allclose(screen[0], screen[1], atol=1e-6)
    assert torch.allclose(screen[2], torch.tensor([2**0.5, 0.0]), atol=1e-6)
    assert screen[3, 0] == 0 and screen[3, 1] > 0.8


def test_a_long_ellipsoid_stays_inside_its_panel():
    solid = next(result for result in RESULTS if type(result) is HeadEllipsoid)
    axes = torch.tensor([60.0, 1.5, 0.9])
    scene = layout_of(replace(solid, semi_axes=axes, after=solid.before * axes).plot()).scene2
    assert max(scene.aspectratio.x, scene.aspectratio.y, scene.aspectratio.z) <= 1.5
    assert scene.xaxis.range[1] >= 60


def test_position_0_is_hidden_with_a_note_only_where_there_are_others():
    single = tw.read_states(golden_bridge(), [5])
    for states, hidden in ((STATES, True), (single, False)):
        path, projection = tw.trajectory(WEIGHTS, states), tw.fit_projection(WEIGHTS, states)
        for fig in (path.plot(), path.plot(projection), projection.plot()):
            first = next(trace for trace in fig.data if (trace.name or "").startswith("0 "))
            assert (first.visible == "legendonly") == hidden
            assert ("position 0 is hidden" in layout_of(fig).title.text) == hidden


@pytest.mark.parametrize("tolerance", [1e-4, 0.0])
def test_the_tolerance_is_labelled_at_its_line(tolerance):
    fig = figure(tw.check(golden_bridge(), "w5 w6", tolerance=tolerance))
    # On a logarithmic axis an annotation's y is the exponent, a line's y the value.
    assert [note.y for note in fig.layout.annotations] == ([-4.0] if tolerance else [])


def test_the_heat_map_of_an_attribution_is_the_mean_or_one_position():
    attribution = tw.trajectory_attribution(WEIGHTS, STATES)
    for fig, share in (
        (attribution.plot(), attribution.mean_share()),
        *((attribution.plot(position=p), attribution.share[..., p]) for p in range(len(STATES))),
    ):
        (heat,) = traces_of(fig)
        assert torch.allclose(torch.tensor(heat.z), share, atol=1e-3)
        assert heat.x == attribution.components
    assert "position 0 excluded" in layout_of(attribution.plot()).title.text
    assert "w6" in layout_of(attribution.plot(position=2)).title.text
    with pytest.raises(IndexError, match="position must be between 0 and 3"):
        attribution.plot(position=4)


def test_an_attribution_without_a_tangential_step_has_a_figure():
    attribution = tw.trajectory_attribution(WEIGHTS, STATES)
    undefined = replace(attribution, share=torch.full_like(attribution.share, math.nan))
    assert traces_of(undefined.plot())[0].zmax == 1


def test_a_token_probed_twice_has_one_row():
    (heat,) = traces_of(tw.head_probe(WEIGHTS, layer=0, words=[5, 5, 6]).plot())
    assert len(heat.y) == len(set(heat.y)) == len(heat.z) == 2


def test_a_table_is_high_enough_for_wrapped_cells():
    def height(word):
        return layout_of(token_table("t", {"head": ["L0H0"] * 12, "tokens": [word] * 12})).height

    assert height("word " * 80) > height("word") > 12 * 24


def test_the_layer_slider_moves_the_states_from_layer_to_layer():
    path, projection = tw.trajectory(WEIGHTS, STATES), tw.fit_projection(WEIGHTS, STATES)
    fig = path.plot(projection)
    frames: list[Any] = list(fig.frames)
    assert [frame.name for frame in frames] == ["0", "1", "2", "3"]
    assert [step.label for step in layout_of(fig).sliders[0].steps] == ["0", "1", "2", "3"]
    (moving,) = frames[2].traces
    assert traces_of(fig)[moving].name == "states at this layer"
    for layer, frame in enumerate(frames):
        expected = projection.state_points[layer, 1:]  # position 0 is hidden
        assert torch.allclose(torch.tensor(frame.data[0].z), expected[:, 2], rtol=1e-3)


def test_several_prompts_share_a_projection_and_each_finds_its_points():
    other = tw.read_states(golden_bridge(), "w8 w9")
    projection = tw.fit_projection(WEIGHTS, [STATES, other])
    paths = [tw.trajectory(WEIGHTS, states) for states in (STATES, other)]
    assert torch.equal(projection.points_of(paths[0]), projection.state_points[:, : len(STATES)])
    assert torch.equal(projection.points_of(paths[1]), projection.state_points[:, len(STATES) :])
    fig = tw.plot_trajectories(paths, projection)
    hidden = [trace.name for trace in fig.data if trace.visible == "legendonly"]
    assert [name.split()[0] for name in hidden] == ["0", str(len(STATES))]
    with pytest.raises(ValueError, match="on other states"):
        tw.plot_trajectories(paths, tw.fit_projection(WEIGHTS, STATES))


def test_paths_are_colored_by_token_layer_or_component():
    path, projection = tw.trajectory(WEIGHTS, STATES), tw.fit_projection(WEIGHTS, STATES)
    attribution = tw.trajectory_attribution(WEIGHTS, STATES)
    by_layer = path.plot(projection, color="layer")
    assert any(trace.marker.color == (0, 1, 2, 3) for trace in by_layer.data)
    (scale,) = [trace for trace in by_layer.data if trace.marker.showscale]
    assert scale.visible is not False and scale.marker.cmax == 3  # whichever position is hidden
    assert scale.name not in {trace.name for trace in path.plot(projection).data}
    fig = path.plot(projection, color=attribution)
    legend = {trace.name for trace in fig.data if trace.name.startswith("largest share: ")}
    absent = {"largest share: attention", "largest share: rest"}  # components it does not have
    assert legend and not legend & absent
    largest = attribution.share[:, :, 1].nan_to_num(-9).argmax(1)
    texts = next(trace for trace in fig.data if trace.name.startswith("1 ")).text
    for layer, component in enumerate(largest.tolist()):
        name = attribution.label(layer, component)
        assert f"largest share of the next step: {name}<" in texts[layer]
    other = tw.trajectory_attribution(WEIGHTS, tw.read_states(golden_bridge(), "w9 w8"))
    with pytest.raises(ValueError, match="other states"):
        path.plot(projection, color=other)
    with pytest.raises(
        ValueError, match="unknown color 'nonsense'; expected 'token' or 'layer' or"
    ):
        path.plot(projection, color="nonsense")  # pyright: ignore[reportArgumentType]


def test_a_projection_is_colored_by_token_or_layer_and_nothing_else():
    projection = tw.fit_projection(WEIGHTS, STATES)
    by_token, by_layer = projection.plot(color="token"), projection.plot(color="layer")
    assert not any(trace.marker.showscale for trace in by_token.data)
    assert any(trace.marker.showscale for trace in by_layer.data)
    for unknown in ("nonsense", tw.trajectory_attribution(WEIGHTS, STATES)):
        with pytest.raises(ValueError, match=r"unknown color .*; expected 'token' or 'layer'"):
            projection.plot(color=unknown)  # pyright: ignore[reportArgumentType]


def test_every_measure_of_the_table_has_a_label_and_a_panel():
    path = tw.trajectory(WEIGHTS, STATES)
    assert tuple(MEASURE_LABELS) == TRAJECTORY_MEASURES
    assert set(TRAJECTORY_MEASURES) <= set(path.to_dataframe().columns)
    for measure in TRAJECTORY_MEASURES:
        fig = path.plot(measures=[measure])
        assert layout_of(fig).annotations[0].text == MEASURE_LABELS[measure]
        for position, trace in enumerate(traces_of(fig)):
            values = [math.nan if value is None else value for value in trace.y]
            expected = path.values[measure][:, position]
            assert torch.allclose(torch.tensor(values), expected, rtol=1e-3, equal_nan=True)
    assert len(layout_of(path.plot(measures=TRAJECTORY_MEASURES)).annotations) == 12


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ("norm", r"measures must be a list of names, e\.g\. \['norm'\]; got 'norm'\."),
        ([], "measures must hold at least one of 'norm', .*; got none"),
        (["norm", "nonsense"], "unknown measure 'nonsense'; expected one of 'norm', 'step_angle'"),
    ],
)
def test_unknown_measures_get_one_sentence(measures, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tw.plot_trajectory_measures(tw.trajectory(WEIGHTS, STATES), measures)


@pytest.mark.parametrize("measures", ["norm", [], ["nonsense"]])
def test_a_trajectory_rejects_unknown_measures_too(measures):
    with pytest.raises((ValueError, TypeError), match=r"^(unknown measure|measures must)"):
        tw.trajectory(WEIGHTS, STATES).plot(measures=measures)


def test_trajectories_of_two_models_share_a_relative_depth():
    shallow = shared_bridge("neo")
    weights = tw.read_weights(shallow)
    other = tw.trajectory(weights, tw.read_states(shallow, [5, 6, 7]))
    path = tw.trajectory(WEIGHTS, STATES)
    fig = tw.plot_trajectory_measures([path, other], ["chord"])
    assert {trace.x[-1] for trace in fig.data} == {1.0}
    assert {len(trace.x) for trace in fig.data} == {4, 3}
    assert any(path.model_name in trace.name for trace in fig.data)
    for plot in (
        tw.plot_trajectory_measures,
        partial(tw.plot_trajectories, projection=tw.fit_projection(WEIGHTS, STATES)),
    ):
        with pytest.raises(ValueError, match="paths must hold at least one"):
            plot([])
