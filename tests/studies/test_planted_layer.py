"""A planted truth: a head of layer 2 that connects tokens only through what layer 1 wrote.

Tokens of six sets hold a direction each; layer 0 copies it into other coordinates, which no
embedding has, and the first head of layer 2 reads only those: set 2i attends to set 2i + 1.
"""

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from scipy.stats import kstest

import tw_lens as tw
from tests.models import as_bridge, tiny_bridge, tiny_hf

SETS, SIZE = 6, 8  # set s holds the tokens 10 s + 10 ... 10 s + 17
HIDDEN = slice(40, 46)  # the coordinates that layer 0 writes to
SOURCES = ("embedding", "alone", "text")


def tokens_of(s: int) -> range:
    return range(10 * s + 10, 10 * s + 10 + SIZE)


@lru_cache(maxsize=1)
def planted() -> tuple[Any, list[list[int]]]:
    """Return the model and 120 prompts."""
    hf, g = tiny_hf("llama", 3), torch.Generator().manual_seed(0)
    d, width = 48, 8
    with torch.no_grad():
        E = hf.model.embed_tokens.weight
        E.copy_(torch.randn(E.shape, generator=g))
        E[:, HIDDEN] = 0
        E[:, :SETS] = 0
        for s in range(SETS):
            E[tokens_of(s), s] = 6.0
        for name, parameter in hf.named_parameters():
            if "mlp" in name or "o_proj" in name:
                parameter.mul_(0.05)
        first, last = hf.model.layers[0].self_attn, hf.model.layers[2].self_attn
        first.q_proj.weight.zero_()  # uniform attention: the token's own set and those before it
        for at in range(SETS):
            first.v_proj.weight[at] = torch.eye(d)[at]
            first.o_proj.weight[HIDDEN.start + at] = 0
            first.o_proj.weight[HIDDEN.start + at, at] = 4.0
        reads = torch.zeros(width, d)
        keys = torch.zeros(width, d)
        for i in range(SETS // 2):
            reads[width - 1 - i, HIDDEN.start + 2 * i] = 3.0  # slow rotary pairs
            keys[width - 1 - i, HIDDEN.start + 2 * i + 1] = 3.0 - 0.5 * i
        last.q_proj.weight[:width] = reads
        last.k_proj.weight[:width] = keys
    pool = [token for s in range(SETS) for token in tokens_of(s)]
    ids = torch.tensor(pool)[torch.randint(0, len(pool), (120, 12), generator=g)]
    return as_bridge(hf, "planted"), [[0, *row] for row in ids.tolist()]


def found(vocabulary: Any) -> int:
    """Return how many of three directions list a planted pair of sets, at most one token astray."""
    weights = tw.read_weights(planted()[0])
    pool = [token for s in range(SETS) for token in tokens_of(s)]
    keep = tw.token_filter(weights, whole_words=False, id_band=(min(pool), max(pool)))
    spectrum = tw.head_spectrum(
        weights, layer=2, head=0, n=3, k=SIZE, vocabulary=vocabulary, token_filter=keep
    )
    rows = zip(spectrum.left.token_index, spectrum.right.token_index, strict=True)
    listed = [[set(side.tolist()) for side in row] for row in rows]
    return sum(
        any(
            len(left & set(tokens_of(s))) >= SIZE - 1
            and len(right & set(tokens_of(s + 1))) >= SIZE - 1
            for s in range(0, SETS, 2)
        )
        for left, right in listed
    )


def test_only_the_layers_own_points_find_the_planted_sets():
    model, prompts = planted()
    text = tw.layer_vocabulary(model, prompts=prompts[:100], unseen="omitted")
    embedding = tw.layer_vocabulary(model, source="embedding")
    assert (found(text), found(embedding), found(None)) == (3, 0, 0)
    table = tw.faithfulness(
        model, prompts[100:], vocabulary=[text, embedding], layers=[2]
    ).to_dataframe()
    own = table[(table["head"] == 0) & (table.circuit == "QK")].set_index("source")
    assert own.correlation["text"] > 0.4 and own.difference_low["text"] > 0.1
    assert math.isnan(own.correlation["embedding"])  # its scores are all equal


@pytest.mark.parametrize("source", SOURCES)
def test_random_weights_do_not_exceed_the_nulls_for_any_source(source: str):
    """P-values of lists at points of every source are uniform, or too large, on random weights."""
    generator, p_values = torch.Generator().manual_seed(2), {"isotropic": [], "vocabulary": []}
    for seed in range(6):
        model = tiny_bridge("llama", seed)
        ids = torch.randint(1, 997, (150, 20), generator=generator)
        prompts = [[0, *row] for row in ids.tolist()] if source == "text" else None
        made = tw.layer_vocabulary(model, source=source, prompts=prompts, layers=[1, 2])
        weights = tw.read_weights(model)
        coherence = tw.direction_coherence(
            weights, layers=[1, 2], n=4, nulls=["isotropic", "vocabulary"], vocabulary=made,
            seed=seed,
        )  # fmt: skip
        for i, null in enumerate(p_values):
            p_values[null].append(coherence.p[0, i].flatten())
    for null, values in p_values.items():
        p = torch.cat(values)
        assert kstest(p.numpy(), "uniform", alternative="greater").pvalue > 0.01, null
        assert float((p <= 0.05).float().mean()) < 0.08, null
