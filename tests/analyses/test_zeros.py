"""Heads, rows and whole parts of zeros; few dimensions, few tokens, outputs that are no tokens."""

from functools import lru_cache

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.models import tiny_bridge
from tw_lens.canonical import Weights

IDS = [5, 6, 7, 8]


@lru_cache(maxsize=1)
def pruned():
    """Return a model whose head 2 of layer 1 has neither queries nor outputs, and its weights."""
    model = tiny_bridge("llama")
    attention = model.original_model.model.layers[1].self_attn
    d_head = attention.head_dim
    attention.q_proj.weight.data[2 * d_head : 3 * d_head] = 0
    attention.o_proj.weight.data[:, 2 * d_head : 3 * d_head] = 0
    return model, tw.read_weights(model)


def test_the_model_itself_is_certified():
    model, _ = pruned()
    assert tw.check(model, IDS).passed


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("convention", ["exact", "published"])
def test_a_head_of_zeros_has_no_words(circuit, convention):
    _, weights = pruned()
    result = tw.head_spectrum(weights, layer=1, circuit=circuit, n=2, k=3, convention=convention)
    table = result.to_dataframe()
    assert not table.singular_value.isna().any()
    of_head = table[table["head"] == 2]
    assert of_head.token_string.tolist() == ["nothing"] * 4 and set(of_head.token_index) == {-1}
    assert set(of_head.score) == {0.0} and len(table[table["head"] == 1]) == 2 * 2 * 3
    assert "(1 of zeros)" in repr(result) and "nan" not in repr(result)
    if convention == "exact":
        assert of_head.coherence.isna().all() and set(of_head.exceeds_null) == {""}
        assert "of 20 token lists" in repr(result)
    other = tw.head_spectrum(weights, layer=1, circuit=circuit, n=2, k=3, convention=convention,
                             head=1).to_dataframe()  # fmt: skip
    kept = table[table["head"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(other, kept, rtol=1e-4, atol=1e-5)
    alone = tw.head_spectrum(weights, layer=1, circuit=circuit, head=2, convention=convention)
    assert "no spectrum" in repr(alone) and "nan" not in repr(alone)
    result.plot()
    alone.plot()


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_a_probe_through_a_head_of_zeros_finds_nothing(circuit):
    _, weights = pruned()
    table = tw.head_probe(weights, layer=1, words=IDS, circuit=circuit, k=3).to_dataframe()
    of_head = table[table["head"] == 2]
    assert of_head.token_string.tolist() == ["nothing"] * len(IDS)
    assert len(table[table["head"] == 1]) == 3 * len(IDS)


def test_the_atlas_and_its_tests_leave_heads_of_zeros_out():
    _, weights = pruned()
    atlas = tw.head_atlas(weights, layers=[1], n=2, k=3)
    assert "6 heads (2 circuits of zeros)" in repr(atlas) and "nan" not in repr(atlas)
    table = atlas.to_dataframe()
    assert set(table[table["head"] == 2].left_tokens) == {"nothing"}
    assert (table[table["head"] == 2].share == 0).all() and not table.share.isna().any()
    assert 0 < atlas.hubness("QK", "left") <= 1
    with pytest.raises(ValueError, match="no token that contains 'nothing' is listed"):
        atlas.only(word="nothing")
    atlas.plot()
    coherence = tw.direction_coherence(weights, layers=[1], n=2, k=3, n_null=19, n_null_within=9)
    table = coherence.to_dataframe().set_index("head")
    columns = ["coherence", "p", "q_head", "q_layer", "q_model"]
    assert table.loc[2, columns].isna().all(axis=None)
    assert table.drop(2)[columns].notna().all(axis=None)
    listed = torch.tensor([entry[1] != 2 for entry in coherence.entries])
    expected = (coherence.p[..., listed] <= 0.05).float().mean((-1, -2))
    assert torch.allclose(coherence.share_exceeding_null(), expected)
    association = tw.direction_association(weights, layers=[1], n=3, k=3)
    table = association.to_dataframe().set_index("head")
    assert table.loc[2, ["association", "p_same_head", "p_head", "q_head"]].isna().all(axis=None)
    assert table.drop(2)[["association", "p_other_heads", "q_head"]].notna().all(axis=None)


def test_directions_that_a_head_does_not_have_are_rejected():
    model, weights = pruned()
    where = {"layer": 1, "head": 2}
    for call, message in (
        (lambda: tw.direction_examples(model, [IDS], **where), "has singular value 0"),
        (lambda: tw.direction_ablation(model, [IDS], **where), "W_QK of L1H2 is zero"),
        (lambda: tw.head_ellipsoid(weights, words=[5], **where), "fewer than 3 singular values"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    result = tw.direction_degeneracy(weights, layer=1, n=3, k=3)
    assert result.sign_margin[2].isnan().all() and not result.sign_margin[:2].isnan().any()
    assert result.overlap_rounded[:, 2].isnan().all() and "nan" not in repr(result)
    empty = tw.direction_degeneracy(weights, layer=1, n=3, k=3, head=2)
    assert "nan" not in repr(empty)


def test_a_direction_beyond_the_rank_lists_nothing():
    model = tiny_bridge("llama")
    projection = model.original_model.model.layers[1].self_attn.q_proj.weight.data
    projection[:4] = projection[4:8] = 0  # head 0 keeps no query: d_head is 8
    projection[8:12] = 0  # head 1 keeps 4 of 8 dimensions
    result = tw.head_spectrum(tw.read_weights(model), layer=1, n=8, k=2, distance=0)
    strings = result.to_dataframe().groupby(["head", "direction"]).token_string.agg(set)
    assert all(strings[0, i] == {"nothing"} for i in range(8))
    assert [strings[1, i] == {"nothing"} for i in range(8)] == [False] * 4 + [True] * 4


def native(**changes):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    options = {"n_layers": 2, "d_model": 32, "n_ctx": 24, "d_head": 8, "n_heads": 4, "d_vocab": 9,
               "act_fn": "gelu", "d_mlp": 64, "normalization_type": "LN", "seed": 0}  # fmt: skip
    config = TransformerBridgeConfig(**{**options, **changes})
    return TransformerBridge.boot_native(config).eval()


@pytest.mark.parametrize("n_outputs", [2, 12])
def test_outputs_that_are_no_tokens(n_outputs: int, tmp_path):
    model = native(d_vocab_out=n_outputs)
    weights = tw.read_weights(model)
    states = tw.read_states(model, IDS)
    assert tw.check(model, IDS).passed
    assert len(tw.head_spectrum(weights, layer=0, n=1, k=3).to_dataframe()) == 4 * 2 * 3
    assert tw.attention_pattern(weights, states, layer=0).pattern.shape == (4, 4, 4)
    for call in (
        lambda: tw.trajectory(weights, states),
        lambda: tw.fit_projection(weights, states),
        lambda: tw.trajectory_alignment(model, [IDS, IDS], controls=[]),
        lambda: tw.trajectory_statistics(model, [IDS, IDS], controls=[]),
        lambda: tw.head_spectrum(weights, layer=0, circuit="OV"),
        lambda: tw.head_probe(weights, layer=0, words=[5], circuit="OV"),
        lambda: tw.head_spectrum(weights, layer=0, circuit="OV", score="standardised"),
        lambda: tw.head_atlas(weights),
        lambda: tw.token_norms(weights),
        lambda: tw.report(model, tmp_path / "page.html", prompt=IDS, layers=[0]),
    ):
        with pytest.raises(tw.UnsupportedModelError, match=f"9 tokens and has {n_outputs} outputs"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "sizes", [{"d_model": 2, "d_head": 1, "n_heads": 2}, {"d_vocab": 2}, {"d_vocab": 1}]
)
def test_narrow_streams_and_small_vocabularies(sizes):
    model = native(**sizes)
    prompt = [0, model.cfg.d_vocab - 1, 0]
    weights: Weights = tw.read_weights(model)
    states = tw.read_states(model, prompt)
    assert tw.check(model, prompt).passed
    projection = tw.fit_projection(weights, states, n_components=3)
    assert projection.state_points.shape == (3, 3, 3)
    assert torch.isfinite(projection.state_points).all()
    if sizes.get("d_model") == 2:
        assert (projection.state_points[..., 2] == 0).all() and projection.explained[2] == 0
    k = 50  # more than there are
    assert len(tw.token_norms(weights).top(k)) == weights.d_vocab
    table = tw.head_spectrum(weights, layer=0, circuit="OV", n=1, k=k, head=0).to_dataframe()
    assert len(table) == 2 * weights.d_vocab
    tw.head_atlas(weights, k=k).plot()
