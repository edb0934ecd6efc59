"""Named points: kinds, names, files, learned positions, and weights that read them as tokens."""

from __future__ import annotations

import copy
import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tw_lens as tw
from tests.models import shared_bridge
from tests.planted import planted
from tests.zoo import zoo_bridge
from tw_lens.canonical import weights_of_points
from tw_lens.canonical.points import met_by

VECTORS = torch.randn(4, 48, generator=torch.Generator().manual_seed(0)) + 0.3
NAMES = ("a", "b", "c", "d")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma"])
@pytest.mark.parametrize("circuit", ["QK", "OV"])
def test_embeddings_as_points_are_the_tokens(kind: str, circuit: str):
    weights = tw.read_weights(shared_bridge(kind))
    E = weights.vocabulary.embed(torch.arange(weights.d_vocab))
    points = tw.Points(E, tuple(f"token {i}" for i in range(len(E))))
    tokens = tw.head_spectrum(weights, layer=1, circuit=circuit, n=3)
    named = tw.head_spectrum(weights, layer=1, circuit=circuit, n=3, points=points)
    sides = ("left", "right") if circuit == "QK" else ("left",)
    if circuit == "QK":
        for side in sides:
            a, b = getattr(tokens, side), getattr(named, side)
            assert torch.equal(a.token_index, b.token_index)
            assert torch.allclose(a.score, b.score, rtol=1e-4, atol=1e-6)
    else:  # the sign is that of the written side, which reads points along their directions
        a, b = tokens.left, named.left
        same = (a.token_index == b.token_index).all(-1)
        assert int(same.sum()) > 0 and torch.allclose(a.score[same], b.score[same], rtol=1e-4)
    assert named.left.token_string[0][0] == f"token {int(named.left.token_index[0, 0])}"
    a, b = (
        tw.head_probe(weights, layer=1, words=[5, 6], head=0, **more).lists
        for more in ({}, {"points": points})
    )
    assert torch.equal(a.token_index, b.token_index)


def test_every_kind_is_met_as_it_says():
    norm = planted(0).block(0).norm
    x = VECTORS
    rms = x.square().mean(-1, keepdim=True).sqrt()
    assert torch.allclose(met_by(norm, tw.Points(x, NAMES), x), x / rms, atol=1e-4)
    part = tw.Points(x, NAMES, "part", divisor=2.0)
    assert torch.allclose(met_by(norm, part, x), x / 2)
    assert torch.equal(met_by(norm, tw.Points(x, NAMES, "direction"), x), x)
    layer_norm = tw.read_weights(shared_bridge("gpt2")).block(0).norm
    y = torch.randn(4, layer_norm.gain.shape[0]) + 1
    centred = y - y.mean(-1, keepdim=True)
    assert torch.allclose(met_by(layer_norm, part, y), centred / 2, atol=1e-6)


def test_probing_parts_leaves_out_the_constants_of_queries_and_values():
    weights = tw.read_weights(shared_bridge("gpt2"))
    x = torch.randn(6, weights.d_model, generator=torch.Generator().manual_seed(1))
    names, block = [f"p{i}" for i in range(6)], weights.block(1)
    assert float(block.a_Q.abs().min()) > 0 and float(block.a_V.abs().min()) > 0
    scores, norms = {}, {}
    for kind in ("state", "direction"):
        points = tw.Points(x, names, kind)
        y = met_by(block.norm, points, x).double()
        probe = tw.head_probe(weights, layer=1, head=2, words=["p1"], points=points, k=6)
        found = dict(zip(probe.lists.token_index[0].tolist(), probe.lists.score[0], strict=True))
        scores[kind] = torch.stack([found[i] for i in range(6)]).double()
        update = tw.head_probe(
            weights, layer=1, head=2, words=["p1"], points=points, k=6, circuit="OV"
        )
        norms[kind] = float(update.norm[0, 0])
        constant = float(kind == "state")
        q = y[1] @ block.A_Q[2].double() + constant * block.a_Q[2].double()
        expected = block.attention_scores.scale * (y @ block.A_K[2].double()) @ q
        assert torch.allclose(scores[kind], expected, atol=1e-5)
        v = y[1] @ block.A_V[2].double() + constant * block.a_V[2].double()
        assert norms[kind] == pytest.approx(float((v @ block.A_O[2].double()).norm()), rel=1e-5)
        directions = x - x.mean(-1, keepdim=True)
        directions = (directions / directions.norm(dim=-1, keepdim=True)).double()
        written = (v @ block.A_O[2].double()) @ directions.T
        listed = update.lists.token_index[0]
        assert torch.allclose(update.lists.score[0].double(), written[listed], atol=1e-5)
        assert written[listed].diff().max() <= 0


LEARNED = ["GPT2LMHeadModel", "OPTForCausalLM", "GPTNeoForCausalLM", "XGLMForCausalLM"]


@pytest.mark.parametrize("architecture", LEARNED)
def test_positions_are_what_the_model_adds(architecture: str):
    model = zoo_bridge(architecture)
    weights, tokens = tw.read_weights(model), [5, 9, 5, 7, 11]
    stream = tw.read_states(model, tokens).stream[0]
    added = stream - weights.vocabulary.embed(torch.tensor(tokens))
    assert float(added.abs().max()) > 1e-3
    assert torch.allclose(weights.positions[:5], added, atol=1e-5)
    points = tw.position_points(weights, positions=[3, 1])
    assert points.names == ("position 3", "position 1") and points.kind == "part"
    assert torch.allclose(points.vectors, added[[3, 1]], atol=1e-5)
    rms = (stream - stream.mean(-1, keepdim=True)).square().mean(-1).sqrt()
    assert 0.5 < points.divisor / float(rms.median()) < 2


def test_positions_before_the_embeddings_norm_pass_it_linearly():
    """BERT: differences of two positions of one token, near the typical divisor."""
    model = zoo_bridge("BertForMaskedLM")
    weights = tw.read_weights(model)
    tokens = torch.full((8,), 7)
    stream = tw.read_states(model, tokens.tolist()).stream[0]
    real, linear = stream - stream.mean(0), weights.positions[:8] - weights.positions[:8].mean(0)
    cosine = torch.nn.functional.cosine_similarity(real, linear, dim=-1)
    assert float(cosine.min()) > 0.9


def test_weights_travel_with_their_positions():
    weights = tw.read_weights(shared_bridge("gpt2"))
    for copied in (copy.deepcopy(weights), pickle.loads(pickle.dumps(weights))):
        assert torch.equal(copied.positions, weights.positions)


def test_points_from_files(tmp_path):
    saved = tmp_path / "points.safetensors"
    save_file({"v": VECTORS, "other": torch.zeros(3)}, saved, metadata={"names": json.dumps(NAMES)})
    points = tw.load_points(saved, kind="direction", label="classes")
    assert torch.equal(points.vectors, VECTORS) and points.names == NAMES
    assert points.kind == "direction" and "classes" in repr(points)
    packed = tmp_path / "points.npz"
    np.savez(packed, v=VECTORS.numpy(), names=np.array(NAMES))
    assert torch.equal(tw.load_points(packed).vectors, VECTORS)
    assert tw.load_points(packed, names=["e", "f", "g", "h"]).names == ("e", "f", "g", "h")


def test_sae_features_are_parts_of_the_stream():
    sae = SimpleNamespace(W_dec=torch.nn.Parameter(VECTORS))
    points = tw.sae_points(sae, divisor=3.0)
    assert points.names[3] == "feature 3" and points.kind == "part" and points.divisor == 3.0
    assert not points.vectors.requires_grad and torch.equal(points.vectors, VECTORS)


@pytest.mark.parametrize(
    ("vectors", "names", "more", "message"),
    [
        (VECTORS[0], NAMES, {}, "must be a tensor"),
        (VECTORS.int(), NAMES, {}, "finite floating-point"),
        (VECTORS * float("nan"), NAMES, {}, "finite floating-point"),
        (VECTORS, NAMES[:3], {}, "4 vectors, 3 names"),
        (VECTORS, ("a", "b", "b", "c"), {}, "'b' stands more than once"),
        (VECTORS, "abcd", {}, "list of names"),
        (VECTORS, NAMES, {"divisor": 0.0}, "positive"),
    ],
)
def test_bad_points(vectors, names, more, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tw.Points(vectors, names, **more)


def test_bad_calls(tmp_path):
    weights, points = planted(0), tw.Points(VECTORS, NAMES)
    with pytest.raises(ValueError, match="width 7"):
        tw.head_atlas(weights, points=tw.Points(VECTORS[:, :7], NAMES))
    with pytest.raises(TypeError, match="points must be Points"):
        tw.head_atlas(weights, points=VECTORS)
    with pytest.raises(ValueError, match='needs convention="exact"'):
        tw.head_spectrum(weights, layer=0, points=points, convention="published")
    with pytest.raises(ValueError, match='score="dot"'):
        tw.head_spectrum(weights, layer=0, points=points, score="standardised", circuit="OV")
    with pytest.raises(
        ValueError, match="none of the words is the name of a point, got 'e'; points: 'a'"
    ):
        tw.head_probe(weights, layer=0, points=points, words=["e"])
    with pytest.raises(tw.UnsupportedModelError, match="no learned positions"):
        tw.position_points(tw.read_weights(shared_bridge("llama")))
    gpt2 = shared_bridge("gpt2")
    with pytest.raises(IndexError, match="position 64 does not exist"):
        tw.position_points(tw.read_weights(gpt2), positions=[64])
    vocabulary = tw.layer_vocabulary(gpt2, source="embedding")
    read = tw.read_weights(gpt2)
    with pytest.raises(ValueError, match="give one of them"):
        weights_of_points(read, tw.position_points(read), vocabulary)
    normed = tw.read_weights(zoo_bridge("Qwen3ForCausalLM"))
    part = tw.Points(torch.ones(1, normed.d_model), ["p"], "part")
    with pytest.raises(ValueError, match="no scores of their own"):
        tw.head_probe(normed, layer=0, points=part, words=["p"])
    with pytest.raises(TypeError, match="W_dec"):
        tw.sae_points(torch.nn.Linear(2, 2))
    file = tmp_path / "broken.npz"
    with pytest.raises(FileNotFoundError):
        tw.load_points(file)
    for suffix in (".npz", ".safetensors"):
        file = tmp_path / f"broken{suffix}"
        file.write_bytes(b"no such file")
        with pytest.raises(ValueError, match="is no complete"):
            tw.load_points(file)
    with pytest.raises(ValueError, match="unknown kind"):
        tw.load_points(file, kind="word")
    with pytest.raises(ValueError, match="must end in"):
        tw.load_points(tmp_path / "points.pt")
    np.savez(tmp_path / "two.npz", a=VECTORS.numpy(), b=VECTORS.numpy())
    with pytest.raises(ValueError, match="say which with tensor="):
        tw.load_points(tmp_path / "two.npz")
    with pytest.raises(ValueError, match="holds no names"):
        tw.load_points(tmp_path / "two.npz", tensor="a")
