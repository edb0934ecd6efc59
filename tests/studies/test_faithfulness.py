"""Faithfulness of points, against float64 loops and properties that must hold."""

import math

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, tiny_bridge
from tw_lens.studies.faithfulness import faithfulness
from tw_lens.studies.layer_vocabulary import layer_vocabulary

G = torch.Generator().manual_seed(4)
PROMPTS = [[0, *torch.randint(1, 25, (11,), generator=G).tolist()] for _ in range(40)]
TRAIN, TEST = PROMPTS[:30], PROMPTS[30:]


@pytest.mark.parametrize("architecture", ["llama", "neox", "qwen3", "gemma2"])
def test_the_embedding_is_the_whole_truth_of_layer_0_without_added_positions(architecture):
    model = tiny_bridge(architecture)
    made = faithfulness(
        model, TEST, vocabulary=layer_vocabulary(model, source="embedding"), layers=[0]
    )
    assert torch.allclose(made.of_heads.correlation.value, torch.ones(()).double(), atol=1e-5)
    assert float(made.of_heads.floor.value.abs().max()) < 0.9
    assert (made.of_heads.difference.low > 0).all()


def test_later_layers_need_their_own_points():
    model = golden_bridge()
    several = [
        layer_vocabulary(model, source="embedding"),
        layer_vocabulary(model, prompts=TRAIN, min_count=3, unseen="omitted"),
    ]
    table = faithfulness(model, TEST, vocabulary=several).to_dataframe()
    mean = table[table.layer > 0].groupby(["circuit", "source"]).correlation.mean()
    assert (mean[:, "text"] > 0.35).all() and (mean[:, "text"] - mean[:, "embedding"] > 0.25).all()


def test_every_number_is_that_of_loops():
    """Float64, position by position, with rotary scores from the certified block."""
    model = tiny_bridge("llama")
    weights = tw.read_weights(model)
    vocabulary = layer_vocabulary(model, prompts=TRAIN, min_count=12, unseen="omitted", layers=[1])
    made = faithfulness(model, TEST, vocabulary=vocabulary)
    block = weights.block(1)
    points = dict(zip(vocabulary.token_index.tolist(), vocabulary.of_layer(1), strict=True))
    qk: list[list[float]] = [[] for _ in range(block.n_heads)]
    ov: list[list[float]] = [[] for _ in range(block.n_heads)]
    for ids in TEST:
        x = tw.read_states(model, ids).stream[1]
        y = torch.stack([points.get(t, torch.zeros(48)) for t in ids])
        real = block.scores(block.queries(x), block.keys(x)).double()
        predicted = block.scores(block.queries_of_points(y), block.keys_of_points(y)).double()
        v, v_hat = block.values(x).double(), block.values_of_points(y).double()
        usable = [i > 0 and t in points for i, t in enumerate(ids)]
        for h in range(block.n_heads):
            kv = block.kv_head[h]
            for i in range(1, len(ids)):
                keys = [j for j in range(i + 1) if usable[j]]
                if not usable[i]:
                    continue
                if len(keys) >= 4:
                    a, b = predicted[h, i, keys], real[h, i, keys]
                    qk[h].append(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
            positions = [j for j in range(len(ids)) if usable[j]]
            if len(positions) >= 4:
                u = (v[positions, kv] - v[positions, kv].mean(0)) @ block.A_O[h].double()
                p = (v_hat[positions, kv] - v_hat[positions, kv].mean(0)) @ block.A_O[h].double()
                ov[h] += torch.cosine_similarity(u, p).tolist()
    for h in range(block.n_heads):
        for c, values in enumerate((qk[h], ov[h])):
            assert int(made.n[c, h]) == len(values)
            assert float(made.of_heads.correlation.value[0, c, h]) == pytest.approx(
                sum(values) / len(values), abs=2e-4
            )


def test_prompts_of_the_points_are_left_out_and_counted():
    model = golden_bridge()
    vocabulary = layer_vocabulary(model, prompts=TRAIN, min_count=3, unseen="omitted", layers=[0])
    made = faithfulness(model, PROMPTS, vocabulary=vocabulary)
    assert (made.n_prompts, made.n_seen) == (10, 30)
    alone = faithfulness(model, TEST, vocabulary=vocabulary)
    assert torch.equal(made.n, alone.n)
    assert torch.allclose(
        made.of_heads.correlation.value, alone.of_heads.correlation.value, atol=1e-6
    )
    with pytest.raises(ValueError, match="all 30 prompts were used to compute the vocabulary"):
        faithfulness(model, TRAIN, vocabulary=vocabulary)


def test_the_table_has_the_contracts_columns():
    model = golden_bridge()
    vocabulary = layer_vocabulary(model, source="embedding", layers=[0, 2])
    made = faithfulness(model, TEST, vocabulary=vocabulary)
    table = made.to_dataframe()
    assert table.columns.tolist() == [
        "layer", "head", "component", "circuit", "source", "correlation", "low", "high", "floor",
        "difference", "difference_low", "difference_high", "ceiling", "explained_variance",
        "write_correlation", "write_explained_variance", "n",
    ]  # fmt: skip
    assert len(table) == 2 * 4 * 2 and set(table.layer) == {0, 2}
    assert (table.low <= table.correlation + 1e-9).all() and (table.correlation <= table.high).all()
    assert "embedding QK r = " in made.headline() and "(floor " in made.headline()


def test_the_interval_follows_the_prompts_and_the_seed():
    model = golden_bridge()
    vocabulary = layer_vocabulary(model, source="embedding", layers=[0])
    one, again, other = (
        faithfulness(model, TEST, vocabulary=vocabulary, seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(one.of_heads.correlation.low, again.of_heads.correlation.low)
    assert torch.equal(one.of_heads.correlation.value, other.of_heads.correlation.value)
    assert not torch.equal(one.of_heads.correlation.low, other.of_heads.correlation.low)
    assert not torch.equal(one.of_heads.floor.value, other.of_heads.floor.value)


def test_what_does_not_fit_is_rejected():
    model, other = golden_bridge(), tiny_bridge("gpt2")
    vocabulary = layer_vocabulary(model, source="embedding", layers=[0])
    with pytest.raises(ValueError, match="got none"):
        faithfulness(model, TEST, vocabulary=[])
    with pytest.raises(ValueError, match="are not those of"):
        faithfulness(other, TEST, vocabulary=vocabulary)
    with pytest.raises(ValueError, match="points for layers 0, not for layer 1"):
        faithfulness(model, TEST, vocabulary=vocabulary, layers=[1])
    short = faithfulness(model, [[0, 5, 6]], vocabulary=vocabulary)
    assert math.isnan(float(short.of_heads.correlation.value[0, 0, 0]))
