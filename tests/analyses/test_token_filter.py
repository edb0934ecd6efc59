"""A filter chooses what is listed, and changes nothing else."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge
from tests.test_tokens import RankOnePieces
from tw_lens.analyses.token_filter import _is_word
from tw_lens.tokens import TokenStrings

TEXTS = [
    "<s>", " house", "ing", " Ho\u0308he", " well-known", " don't", " \u0434\u043e\u043c",
    "\u5bb6", " x", " 42", "_id", " a-", "\n\n", "House", "\u0928\u092e\u0938\u094d\u0924\u0947",
    " caf\u00e9",
]  # fmt: skip
WHOLE = [" house", " Ho\u0308he", " well-known", " don't", " \u0434\u043e\u043c", " caf\u00e9"]


def weights_of(architecture="gpt2", texts=TEXTS, **changes):
    """Weights whose token i reads `texts[i % len(texts)]`."""
    weights = tw.read_weights(shared_bridge(architecture))
    pairs = [(f"piece{i}", texts[i % len(texts)]) for i in range(weights.d_vocab)]
    return replace(weights, tokens=TokenStrings(RankOnePieces(*pairs), weights.d_vocab), **changes)


def kept(weights, **asked):
    keep = tw.token_filter(weights, **asked).keep
    return [text for text, one in zip(TEXTS, keep.tolist(), strict=False) if one]


def test_whole_words_begin_one_and_are_letters():
    weights = weights_of()
    assert kept(weights) == WHOLE
    assert kept(weights, leading_space=False) == [
        "ing", "\u5bb6", "House", "\u0928\u092e\u0938\u094d\u0924\u0947",
    ]  # fmt: skip
    assert kept(weights, whole_words=False) == TEXTS
    plain = weights_of(texts=["house", "ing", "##ing", "[CLS]"])  # no word begins with a space
    assert tw.token_filter(plain).keep.tolist()[:4] == [True, True, False, False]


@pytest.mark.parametrize("text", ["", "-", "a'", "'s", "a b", "x", "3", "\\xe2"])
def test_no_words(text):
    assert not _is_word(text)


def test_scripts():
    weights = weights_of()
    assert kept(weights, script="Cyrillic") == [" \u0434\u043e\u043c"]
    assert kept(weights, script="cjk", whole_words=False) == ["\u5bb6"]
    with pytest.raises(ValueError, match="script 'Klingon': Latin, Cyrillic, Cjk, Devanagari fit"):
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
        with pytest.raises(ValueError, match=r"norm_band=.* is no band: two percentiles"):
            tw.token_filter(weights, norm_band=band)
    with pytest.raises(ValueError, match=r"id_band=.* is no band: two ids from 0 to 997"):
        tw.token_filter(weights, id_band=(0, 998))


def test_tokens_without_text():
    pieces = [
        "<s>", "\u0120dog", "\u00c0", "\u00f4", "\u00f5", "\u00ff", "[unused7]", "<|reserved_3|>",
        "<extra_id_0>", "[dog]", "reserved",
    ]  # fmt: skip
    tokens = TokenStrings(RankOnePieces(*[(piece, piece) for piece in pieces]), 12)
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
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "qwen3"])
def test_the_list_is_the_whole_ranking_without_the_others(architecture, call, monkeypatch):
    monkeypatch.setattr("tw_lens.canonical.embedding.ROWS_AT_ONCE", 100)
    weights = weights_of(architecture)
    token_filter = tw.token_filter(weights, id_band=(120, 500))
    table = CALLS[call](weights, weights.d_vocab)
    groups = [c for c in ("component", "word_index", "direction", "side") if c in table]
    allowed = table[table.token_index.isin(token_filter.keep.nonzero().flatten().tolist())]
    wanted = allowed.groupby(groups, sort=False).head(4) if groups else allowed.head(4)
    found = CALLS[call](weights, 4, token_filter=token_filter)
    ignored = [
        c for c in ("rank", "coherence", "exceeds_null") if c in table
    ]  # those of whole lists
    pd.testing.assert_frame_equal(
        found.drop(columns=ignored).reset_index(drop=True),
        wanted.drop(columns=ignored).reset_index(drop=True),
        atol=1e-4,
    )


def test_fewer_words_than_asked_for_are_all_listed():
    weights = weights_of()
    token_filter = tw.token_filter(weights, whole_words=False, id_band=(3, 6))
    assert tw.token_norms(weights, token_filter=token_filter).top(9)["rank"].tolist() == [0, 1, 2]
    probe = tw.head_probe(weights, layer=0, words=[5], head=0, k=9, token_filter=token_filter)
    assert sorted(probe.to_dataframe().token_index) == [3, 4, 5]
    assert bool(probe.lists.score.isfinite().all())


def test_the_choice_is_said_everywhere():
    weights = weights_of()
    token_filter = tw.token_filter(weights)
    for result in (
        tw.token_norms(weights, token_filter=token_filter),
        tw.head_probe(weights, layer=0, words=[5], token_filter=token_filter),
        tw.head_spectrum(weights, layer=0, n=2, token_filter=token_filter),
    ):
        assert f"among {token_filter.description}" in result.headline()
        assert "[" in repr(result) and "chosen words" in repr(result)
        assert "whole words; no special or unnamed tokens" in result._repr_html_()
    counts = token_filter.to_dataframe().set_index("condition").tokens
    assert counts["kept"] == len(token_filter) and counts["whole words"] == weights.d_vocab - len(
        token_filter
    )


def test_what_does_not_fit_is_refused():
    weights = weights_of()
    token_filter = tw.token_filter(weights)
    with pytest.raises(ValueError, match=r"token_filter= belongs to convention=\"exact\""):
        tw.token_norms(weights, convention="published", token_filter=token_filter)
    with pytest.raises(ValueError, match=r"token_filter= belongs to convention=\"exact\""):
        tw.head_spectrum(weights, layer=0, convention="published", token_filter=token_filter)
    other = replace(token_filter, keep=token_filter.keep[:100])
    with pytest.raises(ValueError, match=r"the filter \(100 tokens of .*\) does not fit"):
        tw.head_probe(weights, layer=0, words=[5], token_filter=other)
    with pytest.raises(ValueError, match=r"no token of .* is left by the filter \(whole words"):
        tw.token_filter(tw.read_weights(shared_bridge("gpt2")))
