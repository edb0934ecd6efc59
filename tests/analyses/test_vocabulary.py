"""`vocabulary=` in the analyses: tokens are read at the points of a layer vocabulary."""

from dataclasses import replace

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge
from tw_lens.studies.layer_vocabulary import layer_vocabulary

G = torch.Generator().manual_seed(1)
PROMPTS = [[0, *torch.randint(1, 60, (20,), generator=G).tolist()] for _ in range(60)]
CALLS = {
    "probe QK": lambda w, v: tw.head_probe(w, layer=1, words=[5, 6], vocabulary=v),
    "probe OV": lambda w, v: tw.head_probe(w, layer=1, words=[5, 6], circuit="OV", vocabulary=v),
    "spectrum QK": lambda w, v: tw.head_spectrum(w, layer=1, n=3, vocabulary=v),
    "spectrum OV": lambda w, v: tw.head_spectrum(w, layer=1, n=3, circuit="OV", vocabulary=v),
    "bias": lambda w, v: tw.bias_directions(w, layer=1, vocabulary=v),
    "atlas": lambda w, v: tw.head_atlas(w, layers=[1], n=2, vocabulary=v),
    "distance": lambda w, v: tw.head_probe_by_distance(
        w, layer=1, words=[5, 6], distances=[0], vocabulary=v
    ),
    "degeneracy": lambda w, v: tw.direction_degeneracy(w, layer=1, n=3, vocabulary=v),
    "coherence": lambda w, v: tw.direction_coherence(
        w, layers=[1], n=2, n_null=99, n_null_within=9, vocabulary=v
    ),
    "association": lambda w, v: tw.direction_association(w, layers=[1], n=3, vocabulary=v),
}


def points_at(vocabulary, layer, ids):
    rows = torch.searchsorted(vocabulary.token_index, ids)
    return vocabulary.of_layer(layer)[rows]


@pytest.fixture(scope="module")
def made():
    model = golden_bridge()
    weights = tw.read_weights(model)
    return (
        weights,
        layer_vocabulary(model, source="embedding"),
        layer_vocabulary(model, prompts=PROMPTS, min_count=5, unseen="omitted"),
    )


@pytest.mark.parametrize("name", CALLS)
def test_the_embedding_vocabulary_is_the_default(made, name):
    weights, embedding, _ = made
    one = CALLS[name](weights, None).to_dataframe()
    other = CALLS[name](weights, embedding).to_dataframe()
    assert one.columns.tolist() == other.columns.tolist() and len(one) == len(other)
    for column in one:
        if one[column].dtype.kind == "f":
            assert torch.allclose(
                torch.tensor(one[column].to_numpy(), dtype=torch.float64),
                torch.tensor(other[column].to_numpy(), dtype=torch.float64),
                rtol=1e-3, atol=1e-4, equal_nan=True,
            )  # fmt: skip
        else:
            assert one[column].fillna(-1).tolist() == other[column].fillna(-1).tolist()


def test_a_probe_reads_the_words_and_the_keys_at_their_points(made):
    """By hand: `s (p(w) A_Q + a_Q) A_K^T p(v)^T`, the top of those that have a point."""
    weights, _, text = made
    block, words = weights.block(2), [5, 6, 9]
    result = tw.head_probe(weights, layer=2, words=words, k=4, vocabulary=text)
    points = text.of_layer(2).double()
    own = points_at(text, 2, torch.tensor(words)).double()
    for h in range(4):
        q = own @ block.A_Q[h].double() + block.a_Q[h].double()
        scores = block.attention_scores.scale * (q @ block.A_K[h].double().T) @ points.T
        best = scores.topk(4, dim=-1)
        for w in range(3):
            assert (
                result.lists.token_index[3 * h + w].tolist()
                == text.token_index[best.indices[w]].tolist()
            )
            assert torch.allclose(result.lists.score[3 * h + w].double(), best.values[w], rtol=1e-4)
    assert result.token_source.name == "text"


def test_only_tokens_with_a_point_are_listed_on_the_input_sides(made):
    weights, _, text = made
    keep = tw.token_filter(weights, whole_words=False, id_band=(10, 30))
    spectrum = tw.head_spectrum(weights, layer=1, n=2, k=3, vocabulary=text, token_filter=keep)
    listed = torch.cat([spectrum.left.token_index, spectrum.right.token_index]).flatten()
    assert bool(text.mask[listed].all()) and bool(keep.keep[listed].all())
    written = tw.head_spectrum(weights, layer=1, n=8, circuit="OV", vocabulary=text).right
    assert not bool(text.mask[written.token_index].all())  # the readout knows every token


def test_words_without_a_point_are_dropped_and_named(made):
    weights, _, text = made
    result = tw.head_probe(weights, layer=1, words=[5, 900], vocabulary=text)
    assert result.word_index == (5,) and result.dropped == ("w900",)
    with pytest.raises(ValueError, match="token id 900 has no point in the vocabulary"):
        tw.head_probe(weights, layer=1, words=[900], vocabulary=text)


def test_normalised_keys_are_those_of_the_points():
    model = tiny_bridge("qwen3")
    weights = tw.read_weights(model)
    text = layer_vocabulary(model, prompts=PROMPTS, min_count=5, unseen="omitted", layers=[1])
    result = tw.head_probe(weights, layer=1, words=[5], k=3, vocabulary=text)
    block = weights.block(1)
    k = block.attention_scores.normalised_key(block.keys_of_points(text.of_layer(1)))
    point = points_at(text, 1, torch.tensor([5]))
    q = block.query_at_distance(block.queries_of_points(point), 0)
    scores = torch.einsum("hd,vhd->hv", q[0], k[:, block.kv_head])
    for h, best in enumerate(scores.topk(3, dim=-1).indices):
        assert result.lists.token_index[h].tolist() == text.token_index[best].tolist()


def test_a_layers_update_through_gates_and_norms_is_that_of_its_states():
    """Where the point is the embedding, the layer's write is the block's own."""
    model = tiny_bridge("gemma2")
    weights = tw.read_weights(model)
    result = tw.head_probe(weights, layer=0, words=[5, 6], circuit="OV")
    block, x = weights.block(0), weights.vocabulary.embed(torch.tensor([5, 6]))
    expected = block.attn_out(torch.eye(2).expand(4, -1, -1), block.values(x), x)
    assert torch.allclose(result.norm[-1], expected.norm(dim=-1), rtol=1e-4)


def test_what_does_not_fit_is_rejected(made):
    weights, _, text = made
    other = tw.read_weights(tiny_bridge("gpt2"))
    with pytest.raises(ValueError, match="are not those of"):
        tw.head_spectrum(other, layer=1, vocabulary=text)
    with pytest.raises(ValueError, match='vocabulary= needs convention="exact"'):
        tw.head_spectrum(weights, layer=1, convention="published", vocabulary=text)
    with pytest.raises(ValueError, match="needs vocabulary=None"):
        tw.head_probe(
            weights, layer=1, words=[5], circuit="OV", readout="residual", vocabulary=text
        )
    one = replace(text, layers=(0,), points=text.points[:1])
    with pytest.raises(ValueError, match="points for layers 0, not for layer 1"):
        tw.head_atlas(weights, vocabulary=one)
