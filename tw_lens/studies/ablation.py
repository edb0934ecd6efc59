"""Sets of directions as pieces of a head, random pieces as strong, and what the model does without.

See `direction_ablation`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Block, RankOnePieces, ablate_pieces
from tw_lens.errors import Caveat
from tw_lens.geometry import FactoredSVD, match_singular_values, random_orthonormal
from tw_lens.reading import is_half_precision, run_with_head_change
from tw_lens.results.arguments import Circuit
from tw_lens.studies.batching import POSITIONS_AT_ONCE
from tw_lens.studies.direction_sets import Sets
from tw_lens.studies.prompts import seeded_generator

ABLATION_MEASURES = ("attention_tv", "output_change", "kl")
DISTANCE = 8
DRAWN = 16  # random pieces whose strength at a distance is measured
LARGE = 80.0  # e^LARGE is near the end of float32


def to_float64(block: Block) -> Block:
    """The block with weights in float64, so that pieces have their energies to 1e-6."""
    names = ("W_Q", "W_K", "W_V", "W_O")
    return replace(block, **{name: getattr(block, name).double() for name in names})


def rank_one_pieces(
    svd: FactoredSVD,
    A: Float[Tensor, "d_model d_inner"],
    sets: Sets,
    *,
    keep: bool,
    n_random: int,
    generator: torch.Generator,
) -> RankOnePieces:
    """Every set as what is taken out for it, each followed by its random pieces.

    Args:
        svd: of one head.
        A: what it reads by, `A_Q` or `A_V`.
        sets: which directions.
        keep: take all others out instead.
        n_random: how many random pieces for each set.
        chance: of the random pieces.
    """
    U, S, A = svd.left[0].double(), svd.S[0].double(), A.double()
    most = max(map(len, sets)) + keep * len(S)
    reads = torch.zeros(len(sets) * (1 + n_random), most, len(U), dtype=U.dtype)
    sends = torch.zeros(*reads.shape[:2], A.shape[1], dtype=U.dtype)
    row = 0
    for held in sets:
        strengths = S[list(held)]
        frames = random_orthonormal(n_random, len(S), len(held), generator) if held else ()
        own = (U[:, list(held)].T, torch.ones_like(strengths))
        drawn = [_as_read(U, *match_singular_values(frame, S, strengths)) for frame in frames]
        for read, scale in [own, *(drawn or [own] * n_random)]:
            sent = scale[:, None] * (read @ A)
            if keep:
                read, sent = torch.cat([U.T, read]), torch.cat([U.T @ A, -sent])
            reads[row, : len(read)], sends[row, : len(read)] = read, sent
            row += 1
    return RankOnePieces(reads.float(), sends.float())


def _as_read(U: Tensor, directions: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return (U @ directions).T, scale


def energy_ratio_at_distance(
    block: Block, head: int, svd: FactoredSVD, sets: Sets, distance: int, generator: torch.Generator
) -> Float[Tensor, " sets"]:
    """The energy of every set of a head's W_QK at a distance, over that of its random pieces there.

    1 at distance 0; NaN for a set of nothing.
    """
    L, R = block.qk_factors(distance)
    pieces = rank_one_pieces(svd, L[head], sets, keep=False, n_random=DRAWN, generator=generator)
    core = torch.linalg.qr(R[block.kv_head[head]])[1]
    seen = (pieces.sends.to(core) @ core.T).flatten(1)
    energy = seen.square().sum(-1).unflatten(0, (len(sets), -1))
    return (energy[:, 0] / energy[:, 1:].mean(1)).sqrt()


def measure_ablation(
    model: Any,
    block: Block,
    head: int,
    circuit: Circuit,
    tokens: Int[Tensor, " position"],
    x: Float[Tensor, "position d_model"],
    pieces: RankOnePieces,
) -> tuple[Float[Tensor, "sets measures position"], float]:
    """What every set changes on one prompt (`ABLATION_MEASURES`), and the largest gap of the stream.

    Every pass through the model has the prompt as it is in its first row.
    """
    found, residual_error = [], 0.0
    at_once = max(1, POSITIONS_AT_ONCE // len(tokens) - 1)
    for some in zip(*(part.split(at_once) for part in pieces), strict=True):
        nothing = torch.zeros_like(some[0][:1]), torch.zeros_like(some[1][:1])
        both = RankOnePieces(*(torch.cat(part) for part in zip(nothing, some, strict=True)))
        without = ablate_pieces(block, x, head, circuit, both)
        run = run_with_head_change(model, block, tokens, x, without.change)
        moved = without.pattern[1:] - without.pattern[0]
        attention = (moved.abs().sum(-1) + moved.sum(-1).abs()) / 2  # a sink has what is missing
        write = (without.written[1:] - without.written[0]).norm(dim=-1)
        write = write / without.written[0].norm(dim=-1)
        found.append(torch.stack([attention, write, kl_divergence(run.logits)], dim=1))
        residual_error = max(residual_error, run.residual_error)
    return torch.cat(found), residual_error


def kl_divergence(logits: Float[Tensor, "rows position d_vocab"]) -> Float[Tensor, "more position"]:
    """`KL(p_0 || p_i)` in nats of every row after the first, position by position.

    With `d` the change of the logits less its mean under p_0: `log(1 + sum p_0 (e^d - 1 - d))`,
    which stays exact in float32 where the change is small; the definition where `e^d` is too large.
    Words that a model rules out (a logit of minus infinity) count for nothing.
    """
    log_p, found = logits[0].log_softmax(-1), []
    p = log_p.exp()
    for row in logits[1:]:
        change = row - logits[0]
        d = change.masked_fill(p == 0, 0.0)
        d = d - (p * d).sum(-1, keepdim=True)
        kl = (p * (d.expm1() - d)).sum(-1).log1p()
        large = (change.nan_to_num(0.0).amax(-1) > LARGE) | ~kl.isfinite()
        if large.any():
            plain = (p * (log_p - row.log_softmax(-1))).masked_fill(p == 0, 0.0).sum(-1)
            kl = torch.where(large, plain, kl)
        found.append(kl)
    return torch.stack(found).clamp_min(0)


def effect_caveats(
    model: Any, block: Block, head: int, svd: FactoredSVD | None, sets: Sets
) -> tuple[Caveat, ...]:
    """How strong the pieces are at a distance (of a W_QK, whose `svd` is given), and what kl is."""
    named = []
    rotary = block.attention_scores.rotary
    if svd is not None and rotary is not None:
        distance = min(DISTANCE, (rotary.n_ctx or DISTANCE + 1) - 1)
        drawn = seeded_generator("strength behind", 0, 0)
        ratio = energy_ratio_at_distance(block, head, svd, sets, distance, drawn).nan_to_num(1.0)
        sentence = (
            "random pieces are as strong as their direction at distance 0; at distance "
            f"{distance} a direction is {float(ratio.min()):.2g} to {float(ratio.max()):.2g} times "
            "as strong as they are."
        )
        named.append(Caveat("energy at distance 0", sentence))
    if not block.attention_scores.causal:
        sentence = "the model reads both ways: kl is of the words it says at each position."
        named.append(Caveat("no next token", sentence))
    if is_half_precision(model):
        sentence = (
            "rounding alone moves kl, by a direction and by random pieces alike (SmolLM2 in "
            "bfloat16: 0.002 nats); what is small needs the model in float32."
        )
        named.append(Caveat("half precision", sentence))
    return tuple(named)
