"""A token filter selects the tokens that are listed, and changes nothing else."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.test_tokens import TableTokenizer
from tw_lens.analyses.token_filter import _is_word
from tw_lens.tokens import TokenStrings

TEXTS = [
    "<s>", " house", "ing", " Ho\u0308he", " well-known", " don't", " \u0434\u043e\u043c",
    "\u5bb6", " x", " 42", "_id", " a-", "\n\n", "House", "\u0928\u092e\u0938\u094d\u0924\u0947",
    " caf\u00e9",
]  # fmt: skip
WHOLE = [" house", " Ho\u0308he", " well-known", " don't", " \u0434\u043e\u043c", " caf\u00e9"]


def weights_of(architecture="gpt2", texts=TEXTS, **changes):
    """Return weights whose token i is `texts[i % len(texts)]`."""
    weights = tw.read_weights(shared_bridge(architecture))
    pairs = [(f"piece{i}", texts[i % len(texts)]) for i in range(weights.d_vocab)]
    return replace(weights, tokens=TokenStrings(TableTokenizer(*pairs), weights.d_vocab), **changes)


def passing(weights, **conditions):
    keep = tw.token_filter(weights, **conditions).keep
    return [text for text, one in zip(TEXTS, keep.tolist(), strict=False) if one]


def test_whole_words_begin_one_and_are_letters():
    weights = weights_of()
    assert passing(weights) == WHOLE
    assert passing(weights, leading_space=False) == [
        "ing", "\u5bb6", "House", "\u0928\u092e\u0938\u094d\u0924\u0947",
    ]  # fmt: skip
    assert passing(weights, whole_words=False) == TEXTS
    plain = weights_of(texts=["house", "ing", "##ing", "[CLS]"])  # no word begins with a space
    assert tw.token_filter(plain).keep.tolist()[:4] == [True, True, False, False]


@pytest.mark.parametrize("text", ["", "-", "a'", "'s", "a b", "x", "3", "\\xe2"])
def test_no_words(text):
    assert not _is_word(text)


def test_scripts():
    weights = weights_of()
    assert passing(weights, script="Cyrillic") == [" \u0434\u043e\u043c"]
    assert passing(weights, script="cjk", whole_words=False) == ["\u5bb6"]
    with pytest.raises(ValueError, match="'Klingon'; expected one of 'Latin', 'Cyrillic', 'Cjk'"):
        tw.token_filter(weights, script="Klingon")


def test_bands():
    weights = weights_of()
    norms = weights.vocabulary.W_E.detach().norm(dim=-1)
    keep = tw.token_filter(weights, whole_words=False, norm_band=(25, 75)).keep
    assert float(norms[keep].min()) >= float(norms.quantile(0.24))
    assert float(norms[keep].max()) <= float(norms.quantile(0.76)) and keep.float().mean() > 0.49
    assert tw.token_filter(
        weights, whole_words=False, id_band=(3, 7)
    ).keep.nonzero().T.tolist() == [[3, 4, 5, 6]]
    for band in ((5, 5), (-1, 4), (0, 101)):
        with pytest.raises(ValueError, match=r"norm_band must be two percentiles from 0 to 100"):
            tw.token_filter(weights, norm_band=band)
    with pytest.raises(
        ValueError, match=r"id_band must be two ids from 0 to 997, .* got \(0, 998\)"
    ):
        tw.token_filter(weights, id_band=(0, 998))


def test_tokens_without_text():
    pieces = [
        "<s>", "\u0120dog", "\u00c0", "\u00f4", "\u00f5", "\u00ff", "[unused7]", "<|reserved_3|>",
        "<extra_id_0>", "[dog]", "reserved",
    ]  # fmt: skip
    tokens = TokenStrings(TableTokenizer(*[(piece, piece) for piece in pieces]), 12)
    tokens.tokenizer.all_special_ids = [0]
    tokens.tokenizer.added_tokens_decoder = {1: "added"}
    assert tokens.without_text() == [
        True, True, True, False, True, True, True, True, True, False, False, True,
    ]  # fmt: skip
    assert TokenStrings(None, 3).without_text() == [False] * 3


def test_never_trained_tokens_lie_where_the_special_ones_lie():
    weights = weights_of()
    W_E = weights.vocabulary.W_E.detach().clone()
    special, forgotten = [0, 1, 2, 3, 4], [500, 501]
    W_E[special + forgotten] = W_E[7] + 0.01 * torch.randn(7, W_E.shape[1])
    W_E[4] = W_E[300] * 2  # a special token that was trained
    weights = replace(weights, vocabulary=replace(weights.vocabulary, W_E=W_E))
    weights.tokens.tokenizer.all_special_ids = special
    gone = ~tw.token_filter(weights, whole_words=False).keep
    assert set(gone.nonzero().flatten().tolist()) == {*special, *forgotten, 7}
    assert len(tw.token_filter(weights, whole_words=False, unused=True)) == weights.d_vocab


CALLS = {
    "norms": lambda w, k, **o: tw.token_norms(w, **o).top(k),
    "quietest": lambda w, k, **o: tw.token_norms(w, **o).bottom(k).iloc[::-1],
    "QK": lambda w, k, **o: tw.head_probe(w, layer=1, words=[5, 6], k=k, **o).to_dataframe(),
    "OV": lambda w, k, **o: tw.head_probe(
        w, layer=1, words=[5, 6], circuit="OV", k=k, **o
    ).to_dataframe(),
    "spectrum QK": lambda w, k, **o: tw.head_spectrum(w, layer=1, n=3, k=k, **o).to_dataframe(),
    "spectrum OV": lambda w, k, **o: tw.head_spectrum(
        w, layer=1, circuit="OV", n=3, k=k, **o
    ).to_dataframe(),
    "bias": lambda w, k, **o: tw.bias_directions(biased(w), layer=1, k=k, **o).to_dataframe(),
    "distance": lambda w, k, **o: tw.head_probe_by_distance(
        w, layer=1, words=[5, 6], distances=DISTANCES[w.model_name], k=k, **o
    ).to_dataframe(),
    "readout": lambda w, k, **o: readouts(tw.trajectory(w, states_of(w), k=k, **o)),
}
DISTANCES = {"tiny-gpt2": [0], "tiny-llama": [0, 3], "tiny-qwen3": [0, 3]}


def biased(weights):
    """Weights whose queries and keys have a bias in every layer."""

    def read_block(layer):
        block = weights.block(layer)
        g = torch.Generator().manual_seed(layer)
        b_Q, b_K = (torch.randn(b.shape, generator=g) for b in (block.b_Q, block.b_K))
        return replace(block, b_Q=b_Q, b_K=b_K)

    return replace(weights, read_block=read_block)


def states_of(weights):
    return tw.read_states(shared_bridge(weights.model_name.removeprefix("tiny-")), [5, 6, 7])


def readouts(path):
    """The lists of a trajectory as a table."""
    n = len(path.readouts.token_index)
    rows = [{"list": i} | row for i in range(n) for row in path.readouts.rows(i)]
    return pd.DataFrame(rows)


GROUPS = ("component", "word_index", "distance", "direction", "side", "sign", "list")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_the_list_is_the_whole_ranking_without_the_others(architecture, call, monkeypatch):
    monkeypatch.setattr("tw_lens.canonical.embedding.ROWS_AT_ONCE", 100)
    weights = weights_of(architecture)
    token_filter = tw.token_filter(weights, id_band=(120, 500))
    table = CALLS[call](weights, weights.d_vocab)
    groups = [c for c in GROUPS if c in table]
    allowed = table[table.token_index.isin(token_filter.keep.nonzero().flatten().tolist())]
    expected = allowed.groupby(groups, sort=False).head(4) if groups else allowed.head(4)
    result = CALLS[call](weights, 4, token_filter=token_filter)
    of_whole_lists = [c for c in ("rank", "coherence", "exceeds_null") if c in table]
    pd.testing.assert_frame_equal(
        result.drop(columns=of_whole_lists).reset_index(drop=True),
        expected.drop(columns=of_whole_lists).reset_index(drop=True),
        atol=1e-4,
    )


def test_measures_and_ranks_of_a_trajectory_do_not_depend_on_the_filter():
    weights = weights_of()
    token_filter = tw.token_filter(weights, id_band=(120, 500))
    whole, filtered = (
        tw.trajectory(weights, states_of(weights), token_filter=one) for one in (None, token_filter)
    )
    assert torch.equal(filtered.final_rank, whole.final_rank)
    assert (filtered.final_rank[-1] == 0).all()
    for name, values in whole.values.items():
        assert torch.equal(filtered.values[name].nan_to_num(-9), values.nan_to_num(-9)), name
    assert token_filter.keep[filtered.readouts.token_index].all()
    table = filtered.to_dataframe()
    assert token_filter.keep[table.reads_as_index.tolist()].all()
    assert table.reads_as.tolist() == [row[0] for row in filtered.readouts.token_string]


@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_overlaps_of_subspaces_are_those_of_filtered_lists(circuit):
    """Against lists of the whole vocabulary, cut to the tokens of the filter afterwards."""
    from tw_lens.analyses import direction_degeneracy as call
    from tw_lens.analyses.degenerate_subspaces import find_degenerate_subspaces
    from tw_lens.analyses.head_directions import tokens_of_direction_pair
    from tw_lens.canonical import token_points

    weights, n, k = weights_of(), 4, 3
    token_filter = tw.token_filter(weights, id_band=(0, 400))
    options = {"layer": 1, "circuit": circuit, "n": n, "k": k, "head": 2}
    whole, filtered = (call(weights, **options, token_filter=one) for one in (None, token_filter))
    assert (
        torch.equal(filtered.sign_margin, whole.sign_margin) and filtered.subspace == whole.subspace
    )
    assert torch.equal(filtered.spectral_gap, whole.spectral_gap)
    block = weights.block(1)
    spaces = find_degenerate_subspaces(block, [2], circuit, n=n)
    points = token_points(weights, 1, block.norm)

    def lists(svd):
        left, right = (side[0, :, :n].T.contiguous() for side in (svd.left, svd.right))
        sides = tokens_of_direction_pair(weights, points, circuit, left, right, weights.d_vocab)
        rankings = [side.token_index.tolist() for side in sides]
        keep = token_filter.keep.tolist()
        return [[[i for i in row if keep[i]][:k] for row in ranking] for ranking in rankings]

    before, shares = lists(spaces.svd), torch.zeros(len(spaces.moved), 2, n)
    for m, moved in enumerate(map(lists, spaces.moved)):
        for side in (0, 1):
            for part in filtered.subspaces(0):
                old, new = ({i for d in part for i in one[side][d]} for one in (before, moved))
                shares[m, side, part] = len(old & new) / len(old)
    assert torch.allclose(filtered.overlap_rounded[:, 0], shares.mean(0))


def test_fewer_tokens_than_k_are_all_listed():
    weights = weights_of()
    token_filter = tw.token_filter(weights, whole_words=False, id_band=(3, 6))
    assert tw.token_norms(weights, token_filter=token_filter).top(9)["rank"].tolist() == [0, 1, 2]
    probe = tw.head_probe(weights, layer=0, words=[5], head=0, k=9, token_filter=token_filter)
    assert sorted(probe.to_dataframe().token_index) == [3, 4, 5]
    assert bool(probe.lists.score.isfinite().all())


def test_every_result_states_its_filter():
    weights = weights_of()
    token_filter = tw.token_filter(weights)
    chosen = {"token_filter": token_filter}
    one_layer = {"layers": [0], "n": 2, **chosen}
    for result in (
        tw.token_norms(weights, **chosen),
        tw.head_probe(weights, layer=0, words=[5], **chosen),
        tw.head_spectrum(weights, layer=0, n=2, **chosen),
        tw.bias_directions(weights, layer=0, **chosen),
        tw.head_probe_by_distance(weights, layer=0, words=[5], distances=[0], **chosen),
        tw.head_atlas(weights, **one_layer),
        tw.direction_coherence(weights, n_null=9, n_null_within=9, **one_layer),
        tw.direction_association(weights, n_permutations=9, **one_layer),
        tw.direction_degeneracy(weights, layer=0, n=2, **chosen),
        tw.trajectory(weights, states_of(weights), **chosen),
    ):
        assert f"tokens among {token_filter.description}" in result.headline()
        assert "token filter" in [caveat.name for caveat in result.caveats]
        assert "token filter" in repr(result)
        assert getattr(result, "atlas", result).token_filter is token_filter
        assert "whole words; no special or unnamed tokens" in result._repr_html_()
    counts = token_filter.to_dataframe().set_index("condition").tokens
    assert counts["kept"] == len(token_filter) and counts["whole words"] == weights.d_vocab - len(
        token_filter
    )


def test_filters_that_do_not_fit_are_rejected():
    weights = weights_of()
    token_filter = tw.token_filter(weights)
    with pytest.raises(ValueError, match=r"token_filter= needs convention=\"exact\""):
        tw.token_norms(weights, convention="published", token_filter=token_filter)
    with pytest.raises(ValueError, match=r"token_filter= needs convention=\"exact\""):
        tw.head_spectrum(weights, layer=0, convention="published", token_filter=token_filter)
    other = replace(token_filter, keep=token_filter.keep[:100])
    with pytest.raises(ValueError, match=r"the filter \(100 tokens of .*\) does not fit"):
        tw.head_probe(weights, layer=0, words=[5], token_filter=other)
    with pytest.raises(ValueError, match=r"no token of .* passes the filter \(whole words"):
        tw.token_filter(tw.read_weights(shared_bridge("gpt2")))
