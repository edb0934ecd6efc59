"""Every analysis in the exact convention against its slow float64 version."""

import math

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.models import BRIDGES, shared_bridge, tiny_hf
from tests.oracles import (
    RawModel,
    arccos_angle,
    assert_ranking,
    raw_model,
    signed_pair,
    turning_angle,
)
from tw_lens.canonical import Weights

WORDS = [5, 17, 901]
PROMPT = [5, 6, 7, 8, 900]


@pytest.fixture(scope="module", params=BRIDGES)
def both(request) -> tuple[RawModel, Weights]:
    model = shared_bridge(request.param)
    return raw_model(tiny_hf(request.param)), tw.read_weights(model)


def cells(table, *columns: str):
    return table.groupby(list(columns), sort=False)


def test_head_probe_qk(both):
    raw, weights = both
    table = tw.head_probe(weights, layer=1, words=WORDS, k=7).to_dataframe()
    assert len(table) == weights.n_heads * len(WORDS) * 7
    assert table["norm"].isna().all()
    for (component, word), cell in cells(table, "component", "word_index"):
        scores = raw.qk_probe(1, int(component.removeprefix("L1H")), word)
        assert_ranking(cell.token_index.tolist(), cell.score.tolist(), scores)
        assert cell["rank"].tolist() == list(range(7))


@pytest.mark.parametrize("readout", ["update", "residual"])
def test_head_probe_ov(both, readout: str):
    raw, weights = both
    options = {"words": WORDS, "circuit": "OV", "k": 7, "readout": readout}
    table = tw.head_probe(weights, layer=2, **options).to_dataframe()
    assert len(table) == (weights.n_heads + 1) * len(WORDS) * 7
    for (component, word), cell in cells(table, "component", "word_index"):
        is_layer = component == "L2"
        u = (
            raw.layer_update(2, word)
            if is_layer
            else raw.update(2, int(component.removeprefix("L2H")), word)
        )
        assert cell["norm"].tolist() == pytest.approx([float(u.norm())] * 7, rel=1e-5)
        state = u + raw.embed()[word] if readout == "residual" else u
        scores = raw.logits(state[None])[0]
        assert_ranking(cell.token_index.tolist(), cell.score.tolist(), scores, 2e-5)


def test_one_head_is_a_part_of_all(both):
    _, weights = both
    for circuit in ("QK", "OV"):
        options = {"layer": 1, "words": WORDS, "circuit": circuit}
        every = tw.head_probe(weights, **options).to_dataframe().query("component == 'L1H2'")
        one = tw.head_probe(weights, head=2, **options).to_dataframe()
        assert one.token_index.tolist() == every.token_index.tolist()
        assert one.component.unique().tolist() == ["L1H2"]
        spectra = [tw.head_spectrum(weights, layer=1, circuit=circuit, head=h) for h in (None, 2)]
        assert torch.allclose(spectra[1].singular_values[0], spectra[0].singular_values[2])


def test_one_head_of_bias_directions_and_of_the_attention_pattern(both):
    _, weights = both
    states = tw.read_states(shared_bridge(weights.model_name.removeprefix("tiny-")), PROMPT)
    patterns = [tw.attention_pattern(weights, states, layer=1, head=h) for h in (None, 2)]
    assert torch.equal(patterns[1].pattern[0], patterns[0].pattern[2])
    assert_rows_of_head_2(*(pattern.to_dataframe() for pattern in patterns))
    try:
        every = tw.bias_directions(weights, layer=1)
    except ValueError:  # a model without biases
        return
    one = tw.bias_directions(weights, layer=1, head=2)
    assert one.heads == (2,) and one.components == ("L1H2",)
    assert_rows_of_head_2(every.to_dataframe(), one.to_dataframe())


def assert_rows_of_head_2(every, one):
    expected = every.query("component == 'L1H2'").reset_index(drop=True)
    assert len(one) and one["head"].unique().tolist() == [2]
    pd.testing.assert_frame_equal(one, expected, atol=1e-5)


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_head_spectrum(both, circuit: str):
    raw, weights = both
    result = tw.head_spectrum(weights, layer=1, circuit=circuit, n=3, k=6)
    points = raw.layers[1].norm.N(raw.embed())
    written = raw.directions_of_readout().T  # relative to the mean token: logits have no origin
    written = points if circuit == "QK" else written - written.mean(0)
    table = result.to_dataframe()
    assert len(table) == weights.n_heads * 3 * 2 * 6
    for head in range(weights.n_heads):
        dense = raw.W_QK(1, head) if circuit == "QK" else raw.W_OV(1, head)
        S = torch.linalg.svdvals(dense)
        assert float(S[weights.d_head :].max()) < 1e-10 * float(S[0])
        ours = result.singular_values[head].double()
        assert float((ours - S[: weights.d_head]).abs().max()) < 1e-5 * float(S[0])
        for direction in range(3):
            u, v, value = signed_pair(dense, direction, written)
            rows = table.query(f"component == 'L1H{head}' and direction == {direction}")
            assert rows.singular_value.tolist() == pytest.approx([value] * 12, rel=1e-5)
            for side, scores in (("left", points @ u), ("right", written @ v)):
                cell = rows[rows.side == side]
                assert_ranking(cell.token_index.tolist(), cell.score.tolist(), scores, 2e-4)


def test_coverage(both):
    _, weights = both
    result = tw.head_spectrum(weights, layer=0, n=1)
    S = result.singular_values[1].tolist()
    shares = [100 * sum(S[: i + 1]) / sum(S) for i in range(len(S))]
    assert result.coverage[1].tolist() == pytest.approx(shares, rel=1e-5)
    first = next(i for i, share in enumerate(shares) if share > 99)
    assert float(result.directions_for_99[1]) == pytest.approx(100 * (first + 1) / len(S))


def test_bias_directions(both):
    raw, weights = both
    if not any(float(b.abs().max()) for L in raw.layers for b in (*L.b_Q, *L.b_K, L.norm.bias)):
        with pytest.raises(ValueError, match="has no bias on queries or keys"):
            tw.bias_directions(weights, layer=1)
        return
    table = tw.bias_directions(weights, layer=1, k=4).to_dataframe()
    assert len(table) == weights.n_heads * 4 * 4
    points = raw.layers[1].norm.N(raw.embed())
    for (component, side, sign), cell in cells(table, "component", "side", "sign"):
        direction = raw.bias_direction(1, int(component.removeprefix("L1H")), side)
        scores = points @ direction * (1 if sign == "+" else -1)
        assert_ranking(cell.token_index.tolist(), cell.score.tolist(), scores)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_token_norms(both, scale: bool, bias: bool):
    raw, weights = both
    result = tw.token_norms(weights, scale=scale, bias=bias)
    expected = raw.token_norms(scale, bias)
    assert result.score.tolist() == pytest.approx(expected, rel=1e-5)
    order = sorted(range(997), key=expected.__getitem__, reverse=True)
    assert result.top(5).token_index.tolist() == order[:5]
    assert result.bottom(5).token_index.tolist() == order[-5:]
    assert result.bottom(5)["rank"].tolist() == list(range(992, 997))
    assert result.to_dataframe().token_index.nunique() == 997


def test_token_norms_are_the_largest_logits(both):
    """Against the model's readout: no state gives a larger logit, and the best state reaches it."""
    raw, weights = both
    score = tw.token_norms(weights).score
    x = 50 * torch.randn(200, 48, generator=torch.Generator().manual_seed(0))
    assert (weights.readout.logits(x) <= score + 1e-3).all()
    best = 1e3 * raw.directions_of_readout().T[WORDS].float()
    reached = weights.readout.logits(best)
    for row, word in enumerate(WORDS):
        assert float(reached[row, word]) == pytest.approx(float(score[word]), rel=1e-3)


def test_embedding_distances(both):
    raw, weights = both
    table = tw.embedding_distances(weights).to_dataframe().set_index("setting")
    for setting, numbers in raw.embedding_distances().items():
        assert table.loc[setting].tolist() == pytest.approx(list(numbers), rel=2e-5, abs=1e-6)


@pytest.fixture(scope="module")
def trajectory_measures(both):
    raw, weights = both
    model = shared_bridge(weights.model_name.removeprefix("tiny-"))
    states = tw.read_states(model, PROMPT)
    return raw, weights, states, tw.trajectory(weights, states, k=3)


def test_trajectory(trajectory_measures):
    raw, _, states, path = trajectory_measures
    table = path.to_dataframe().set_index(["layer", "position"])
    x = states.stream.double()
    y = raw.final.N(x)
    assert len(table) == 4 * len(PROMPT)
    for p in range(len(PROMPT)):
        length = 0.0
        for layer in range(4):
            row = table.loc[(layer, p)]
            assert row.norm == pytest.approx(float(x[layer, p].norm()), rel=1e-5)
            assert row.arc_length == pytest.approx(length, rel=1e-4, abs=1e-6)
            assert row.chord == pytest.approx(arccos_angle(y[0, p], y[layer, p]), abs=1e-4)
            if layer == 3:
                assert math.isnan(row.step_angle) and math.isnan(row.radial_share)
                continue
            angle = arccos_angle(y[layer, p], y[layer + 1, p])
            assert row.step_angle == pytest.approx(angle, rel=1e-4)
            length += angle
            step = x[layer + 1, p] - x[layer, p]
            cosine = float(step @ x[layer, p]) / float(step.norm() * x[layer, p].norm())
            assert row.radial_share == pytest.approx(cosine**2, rel=1e-3, abs=1e-6)
            if layer:
                turn = turning_angle(*y[layer - 1 : layer + 2, p])
                assert row.turning_angle == pytest.approx(turn, abs=1e-3)
            else:
                assert math.isnan(row.turning_angle)


def test_trajectory_angles_to_other_vectors(trajectory_measures):
    raw, _, states, path = trajectory_measures
    table = path.to_dataframe().set_index(["layer", "position"])
    y = raw.final.N(states.stream.double())
    own = raw.final.N(raw.embed()[PROMPT])
    speak = raw.directions_of_readout().T[PROMPT]
    logits = raw.logits(states.stream.double())
    last = len(PROMPT) - 1
    for (layer, p), row in table.iterrows():
        assert row.tangential_share == pytest.approx(1 - row.radial_share, nan_ok=True)
        to = row.angle_to_embedding
        assert to == pytest.approx(arccos_angle(y[layer, p], own[p]), abs=1e-4)
        ranking = logits[layer, p].argsort(descending=True).tolist()
        assert abs(row.final_rank - ranking.index(int(logits[-1, p].argmax()))) <= 1
        if p == last:
            assert math.isnan(row.angle_to_last) and math.isnan(row.angle_to_next)
            assert math.isnan(row.angle_to_next_readout)
            continue
        here = y[layer, p]
        assert row.angle_to_last == pytest.approx(arccos_angle(here, y[layer, last]), abs=1e-4)
        assert row.angle_to_next == pytest.approx(arccos_angle(here, y[layer, p + 1]), abs=1e-4)
        to = row.angle_to_next_readout
        assert to == pytest.approx(arccos_angle(here, speak[p + 1]), abs=1e-4)


def test_trajectory_readouts(trajectory_measures):
    raw, _, states, path = trajectory_measures
    logits = raw.logits(states.stream.double())
    for layer in range(4):
        for p in range(len(PROMPT)):
            index = layer * len(PROMPT) + p
            rows = list(path.readouts.rows(index))
            ids, scores = [r["token_index"] for r in rows], [r["score"] for r in rows]
            assert_ranking(ids, scores, logits[layer, p], 2e-5)
            assert path.readout(layer, p) == tuple(f"w{i}" for i in ids)
    model = shared_bridge(path.model_name.removeprefix("tiny-"))
    with torch.no_grad():
        predicted = model(torch.tensor([PROMPT]))[0].argmax(-1)
    assert path.to_dataframe().query("layer == 3").reads_as_index.tolist() == predicted.tolist()


@pytest.mark.parametrize("layer", [0, 2])
def test_attention_pattern_is_the_models_own(trajectory_measures, layer: int):
    _, weights, states, path = trajectory_measures
    model = shared_bridge(path.model_name.removeprefix("tiny-"))
    result = tw.attention_pattern(weights, states, layer=layer)
    name = f"blocks.{layer}.attn.hook_pattern"
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([PROMPT]), names_filter=lambda n: n == name)
    theirs = cache[name][0]
    assert float((result.pattern - theirs).abs().max()) < 1e-5
    assert float((result.pattern.mean(0) - 1 / len(PROMPT)).abs().max()) > 0.1
    table = result.to_dataframe()
    assert len(table) == weights.n_heads * 15
    assert table.groupby(["component", "query"]).attention.sum().tolist() == pytest.approx(
        [1.0] * weights.n_heads * 5, rel=1e-5
    )


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_head_ellipsoid(both, circuit: str):
    """The image of the three axes, and of the words, under the dense matrix itself."""
    raw, weights = both
    result = tw.head_ellipsoid(weights, layer=1, head=1, words=WORDS, circuit=circuit)
    dense = raw.W_QK(1, 1) if circuit == "QK" else raw.W_OV(1, 1)
    U, S, Vh = torch.linalg.svd(dense)
    assert result.semi_axes.tolist() == pytest.approx(S[:3].tolist(), rel=1e-5)
    points = raw.layers[1].norm.N(raw.embed())[WORDS]
    points = points / points.norm(dim=-1, keepdim=True)
    inside = points @ U[:, :3]
    share = inside.square().sum(-1)
    onto = inside @ U[:, :3].T / share.sqrt()[:, None]  # the word within the three directions
    after = onto @ dense @ Vh[:3].T
    before = onto @ U[:, :3]
    assert torch.allclose(result.before.double().abs(), before.abs(), atol=2e-4)
    assert torch.allclose(result.after.double().abs(), after.abs(), atol=2e-4 * float(S[0]))
    assert result.share.tolist() == pytest.approx(share.tolist(), rel=1e-3)
    assert torch.allclose(result.before.norm(dim=-1), torch.ones(len(WORDS)))


def test_fit_projection(trajectory_measures):
    """PCA keeps what a float64 SVD of the centred points keeps."""
    raw, weights, states, _ = trajectory_measures
    projection = tw.fit_projection(weights, states, n_words=60, n_components=2)
    words = list(projection.word_index)
    y = torch.cat(
        [raw.final.N(states.stream.double()).flatten(0, 1), raw.final.N(raw.embed()[words])]
    )
    S = torch.linalg.svdvals(y - y.mean(0)).square()
    assert list(projection.explained) == pytest.approx((S[:2] / S.sum()).tolist(), rel=1e-4)
    flat = torch.cat([projection.state_points.flatten(0, 1), projection.word_points]).double()
    assert flat.square().sum(0).tolist() == pytest.approx(S[:2].tolist(), rel=1e-4)
    assert len(set(words)) == len(words) >= 60
    assert set(PROMPT) <= set(words[: projection.landmarks])
    assert projection.words[0] == "w5"
    again = tw.fit_projection(weights, states, n_words=60, n_components=2)
    assert torch.equal(again.word_points, projection.word_points)
    other = tw.fit_projection(weights, states, n_words=60, n_components=2, seed=1)
    assert other.word_index != projection.word_index
    assert 0 < projection.trustworthiness <= 1
