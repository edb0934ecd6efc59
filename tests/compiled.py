"""Compiled programs as bridges, with the truth about their heads, and scores of a reading.

Easy track: the program as compiled. Hard track: rotated by a random orthogonal matrix, with noise
of a share of each factor's Frobenius norm, beside random heads of the same size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import tw_lens as tw
from tests.planted import by_hand

FOLDER = Path(__file__).parent / "data" / "compiled"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.npz"))
CONSTANT = "one"  # the coordinate that is 1 at every position; it lets empty queries see BOS
SHARE_OF_SCORE = 0.5


@dataclass(frozen=True)
class Head:
    """What one head of a program does (None: an empty head, which does nothing)."""

    layer: int
    head: int
    truth: dict[str, Any] | None


@dataclass(frozen=True)
class Compiled:
    """A program: its bridge, the names of its coordinates, its heads, and its own run."""

    name: str
    model: Any
    labels: tuple[str, ...]
    heads: tuple[Head, ...]
    prompt: tuple[int, ...]
    residual: Float[Tensor, "position d_model"]


def compiled(name: str) -> Compiled:
    """Load a program into a bridge with TransformerLens' own conversion."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities import tracr

    file = np.load(FOLDER / f"{name}.npz")
    header = json.loads(str(file["header"]))
    params: dict[str, dict[str, np.ndarray]] = {}
    for key in file.files:
        module, separator, part = key.partition("|")
        if separator:
            params.setdefault(module, {})[part] = file[key]
    config = SimpleNamespace(layer_norm=False, **{
        key: header[key]
        for key in ("num_layers", "num_heads", "key_size", "mlp_hidden_size", "causal")
    })  # fmt: skip
    source = SimpleNamespace(
        params=params, model_config=config, residual_labels=header["labels"],
        output_encoder=SimpleNamespace(encoding_map=header["outputs"]),
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(tracr.make_tracr_transformer_bridge_config(source))
    state = tracr.make_tracr_transformer_bridge_state_dict(source, header["output"])
    bridge.load_state_dict(state, strict=False)  # parts have two names; the own run is compared
    return Compiled(
        name=name,
        model=bridge,
        labels=tuple(header["labels"]),
        heads=_heads(tw.read_weights(bridge), header),
        prompt=tuple(header["inputs"][token] for token in header["prompt"]),
        residual=torch.from_numpy(file["residual"]),
    )


def family(label: str) -> str:
    """Return the family of a coordinate: its name without the value."""
    return label.rpartition(":")[0] or label


def _heads(weights: tw.Weights, header: dict[str, Any]) -> tuple[Head, ...]:
    """Place the program's heads: a head is where the family that it writes is written."""
    families = [family(label) for label in header["labels"]]
    heads = []
    for layer in weights.attention_layers:
        block = weights.block(layer)
        for h in range(block.n_heads):
            rows = (block.A_V[h] @ block.A_O[h]).abs().sum(0) > 1e-6
            written = {families[i] for i in rows.nonzero().flatten().tolist()}
            found = [truth for truth in header["heads"] if truth["writes"] in written]
            assert len(found) <= 1 and bool(found) == bool(written), (layer, h, written)
            heads.append(Head(layer, h, found[0] if found else None))
    assert sum(head.truth is not None for head in heads) == len(header["heads"])
    return tuple(heads)


def coordinates(program: Compiled, rotation: Tensor | None = None) -> tw.Points:
    """Return the program's coordinates as named points, rotated as the program is."""
    vectors = torch.eye(len(program.labels))
    vectors = vectors if rotation is None else vectors @ rotation
    return tw.Points(vectors, program.labels, "direction", "coordinates")


def hidden(program: Compiled, head: Head, noise: float, seed: int) -> tuple[tw.Weights, tw.Points]:
    """Return one layer: the program's head, rotated and with noise, and three random heads."""
    g = torch.Generator().manual_seed(seed)
    block = tw.read_weights(program.model).block(head.layer)
    d, d_head = block.A_Q.shape[1:]
    rotation = torch.linalg.qr(torch.randn(d, d, generator=g))[0]
    maps = [block.A_Q, block.A_K, block.A_V, block.A_O.mT]
    factors = []
    for own in maps:
        rotated = rotation.T @ own[head.head]
        size = rotated.norm()
        blurred = rotated + noise * size * _unit(torch.randn(d, d_head, generator=g))
        others = [size * _unit(torch.randn(d, d_head, generator=g)) for _ in range(3)]
        factors.append(torch.stack([blurred, *others]))
    W_Q, W_K, W_V, W_O = factors
    weights = by_hand(torch.randn(10, d, generator=g), W_Q, W_K, W_V, W_O.mT)
    return weights, coordinates(program, rotation)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm()


def score_matrix(
    weights: tw.Weights, points: tw.Points, layer: int, head: int, circuit: str = "QK"
) -> Tensor:
    """Return what `head_probe` scores for every coordinate (rows) and every coordinate (columns).

    QK: the keys of a query. OV: the coordinates that are written for the one that is read.
    """
    n = len(points)
    probe = tw.head_probe(
        weights, layer=layer, head=head, circuit=circuit, words=list(points.names), points=points,
        k=n,
    )  # fmt: skip
    scores = torch.zeros(n, n)
    for row, index in enumerate(probe.word_index):
        listed = probe.lists.token_index[row]
        if int(listed[0]) >= 0:
            scores[index, listed] = probe.lists.score[row]
    return scores


def true_pairs(program: Compiled, truth: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the pairs of coordinates that a head's selector connects."""
    pairs = {(f"{truth['queries']}:{q}", f"{truth['keys']}:{k}") for q, k in truth["pairs"]}
    return {pair for pair in pairs if set(pair) <= set(program.labels)}


def read_pairs(scores: Tensor, labels: tuple[str, ...]) -> set[tuple[str, str]]:
    """Return the pairs that score at least half of the largest score."""
    top = float(scores.max())
    if top <= 0:
        return set()
    rows, columns = (scores >= SHARE_OF_SCORE * top).nonzero().unbind(1)
    pairs = {(labels[i], labels[j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)}
    return {(q, k) for q, k in pairs if CONSTANT not in (q, k)}


def families_of_pairs(pairs: set[tuple[str, str]]) -> tuple[set[str], set[str]]:
    """Return the families on the left and on the right of pairs of coordinates."""
    return {family(a) for a, _ in pairs}, {family(b) for _, b in pairs}


def svd_scores(weights: tw.Weights, points: tw.Points, head: int, k: int = 5) -> Tensor:
    """Return the plain reading: W_QK's singular vectors, the top k coordinates of each side.

    A pair scores `S_d |u_q| |v_k|`, summed over the directions that list both coordinates. These
    are the singular vectors of TransformerLens' `FactoredMatrix`.
    """
    block = weights.block(0)
    U, S, Vh = torch.linalg.svd(block.W_Q[head] @ block.W_K[head].T)
    scores = torch.zeros(len(points), len(points))
    for u, s, v in zip(U.T[: block.d_head], S[: block.d_head], Vh[: block.d_head], strict=True):
        left, right = points.vectors @ u, points.vectors @ v
        q, key = left.abs().topk(k).indices, right.abs().topk(k).indices
        scores[q[:, None], key[None, :]] += s * left[q].abs()[:, None] * right[key].abs()[None, :]
    return scores


def area_under_curve(scores: Tensor, labels: tuple[str, ...], pairs: set[tuple[str, str]]) -> float:
    """Return the AUC of scores for the true pairs among all pairs of coordinates."""
    from sklearn.metrics import roc_auc_score

    keep = [i for i, label in enumerate(labels) if label != CONSTANT]
    truth = [[(labels[i], labels[j]) in pairs for j in keep] for i in keep]
    return float(roc_auc_score(np.array(truth).ravel(), scores[keep][:, keep].numpy().ravel()))
