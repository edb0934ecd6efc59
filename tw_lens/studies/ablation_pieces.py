"""Ablation of directions: sets of directions as rank-one pieces, random pieces, and their effect.

1. `rank_one_pieces` turns every set of directions into what is subtracted from a head's queries or
   values, followed by random pieces of the same singular values.
2. `measure_ablation` runs the model on one prompt without each of them and measures the change.
3. `rounding_kl` measures how much of `kl` rounding alone produces, for a model in half precision.

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
from tw_lens.studies.ablation_sets import Sets
from tw_lens.studies.batching import MAX_POSITIONS
from tw_lens.studies.prompts import seeded_generator

ABLATION_MEASURES = ("attention_tv", "output_change", "kl")
DISTANCE = 8
N_NULL_PIECES = 16  # random pieces whose energy at a distance is measured
MAX_EXPONENT = 80.0  # e^80 is near the largest float32
ENTRIES_IN_CACHE = 2**17  # of one row's logits, 512 KiB
N_ROUNDINGS = 4  # random roundings that `rounding_kl` averages over


def to_float64(block: Block) -> Block:
    """Return the block with weights in float64, so that the energies of pieces match to 1e-6."""
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
    """Return the pieces to ablate for every set, each followed by its random pieces.

    Args:
        svd: singular value decomposition of one head.
        A: the head's input map, `A_Q` or `A_V`.
        sets: sets of directions.
        keep: ablate all other directions instead.
        n_random: number of random pieces for each set.
        generator: generator of the random pieces.
    """
    U, S, A = svd.left[0].double(), svd.S[0].double(), A.double()
    n_pieces = max(map(len, sets)) + keep * len(S)
    reads = torch.zeros(len(sets) * (1 + n_random), n_pieces, len(U), dtype=U.dtype)
    sends = torch.zeros(*reads.shape[:2], A.shape[1], dtype=U.dtype)
    row = 0
    for members in sets:
        values = S[list(members)]
        own = (U[:, list(members)].T, torch.ones_like(values))
        random = [own] * n_random
        if members:
            frames = random_orthonormal(n_random, len(S), len(members), generator)
            random = [_as_reads(U, *match_singular_values(frame, S, values)) for frame in frames]
        for read, scale in [own, *random]:
            send = scale[:, None] * (read @ A)
            if keep:
                read, send = torch.cat([U.T, read]), torch.cat([U.T @ A, -send])
            reads[row, : len(read)], sends[row, : len(read)] = read, send
            row += 1
    return RankOnePieces(reads.float(), sends.float())


def _as_reads(U: Tensor, directions: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return (U @ directions).T, scale


def energy_ratio_at_distance(
    block: Block, head: int, svd: FactoredSVD, sets: Sets, distance: int, generator: torch.Generator
) -> Float[Tensor, " sets"]:
    """Return the energy of every set of W_QK at a distance over that of its random pieces there.

    Energies are Frobenius norms, those of random pieces their root mean square. The ratio is 1 at
    distance 0, and NaN for the empty set.
    """
    L, R = block.qk_factors(distance)
    pieces = rank_one_pieces(
        svd, L[head], sets, keep=False, n_random=N_NULL_PIECES, generator=generator
    )
    core = torch.linalg.qr(R[block.kv_head[head]])[1]
    at_distance = (pieces.sends.to(core) @ core.T).flatten(1)
    energy = at_distance.square().sum(-1).unflatten(0, (len(sets), -1))
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
    """Return the effect of every set on one prompt (`ABLATION_MEASURES`) and the residual error.

    Row 0 of every pass through the model is the unablated prompt.
    """
    effects, residual_error = [], 0.0
    n_rows = max(1, MAX_POSITIONS // len(tokens) - 1)
    for chunk in zip(*(part.split(n_rows) for part in pieces), strict=True):
        nothing = torch.zeros_like(chunk[0][:1]), torch.zeros_like(chunk[1][:1])
        rows = RankOnePieces(*(torch.cat(part) for part in zip(nothing, chunk, strict=True)))
        ablated = ablate_pieces(block, x, head, circuit, rows)
        run = run_with_head_change(model, block, tokens, x, ablated.change)
        moved = ablated.pattern[1:] - ablated.pattern[0]
        # A sink is not in the pattern: its attention changes by minus the sum of the others.
        attention = (moved.abs().sum(-1) + moved.sum(-1).abs()) / 2
        output = (ablated.written[1:] - ablated.written[0]).norm(dim=-1)
        output = output / ablated.written[0].norm(dim=-1)
        effects.append(torch.stack([attention, output, kl_divergence(run.logits)], dim=1))
        residual_error = max(residual_error, run.residual_error)
    return torch.cat(effects), residual_error


def kl_divergence(
    logits: Float[Tensor, "rows position d_vocab"],
) -> Float[Tensor, "other_rows position"]:
    """Return `KL(p_0 || p_i)` in nats of every row after the first, at every position.

    With `d` the change of the logits minus its mean under p_0, this is
    `log(1 + sum p_0 (e^d - 1 - d))`, which is exact in float32 for small changes; where `e^d`
    overflows, the definition is used. Tokens that a model excludes (a logit of minus infinity)
    contribute nothing. Positions are taken in parts that stay in a processor's cache.
    """
    n_positions = max(1, ENTRIES_IN_CACHE // logits.shape[-1])
    return torch.cat([_kl_divergence(part) for part in logits.split(n_positions, dim=1)], dim=1)


def _kl_divergence(
    logits: Float[Tensor, "rows position d_vocab"],
) -> Float[Tensor, "other_rows position"]:
    log_p, divergences = logits[0].log_softmax(-1), []
    p = log_p.exp()
    for row in logits[1:]:
        change = row - logits[0]
        d = change.masked_fill(p == 0, 0.0)
        d = d - (p * d).sum(-1, keepdim=True)
        kl = (p * (d.expm1() - d)).sum(-1).log1p()
        large = (change.nan_to_num(0.0).amax(-1) > MAX_EXPONENT) | ~kl.isfinite()
        if large.any():
            by_definition = (p * (log_p - row.log_softmax(-1))).masked_fill(p == 0, 0.0).sum(-1)
            kl = torch.where(large, by_definition, kl)
        divergences.append(kl)
    return torch.stack(divergences).clamp_min(0)


def rounding_kl(
    model: Any,
    block: Block,
    tokens: Int[Tensor, " position"],
    x: Float[Tensor, "position d_model"],
) -> Float[Tensor, " position"]:
    """Return the `kl` that a change of the size of one rounding produces on one prompt.

    Every entry of the attention layer's output changes by half a step of the model's coarsest
    number format, relative to the entry and with a random sign: as much as rounding it can change
    it. The mean over 4 draws is returned.
    """
    generator = seeded_generator("rounding", 0, 0)
    pattern = block.attention_pattern(x)
    output = block.head_outputs(pattern, block.values(x), x).sum(0) + block.b_O
    signs = torch.randint(0, 2, (N_ROUNDINGS, *output.shape), generator=generator) * 2 - 1
    change = torch.cat([torch.zeros_like(output)[None], signs * half_step(model) * output])
    return kl_divergence(run_with_head_change(model, block, tokens, x, change).logits).mean(0)


def half_step(model: Any) -> float:
    """Return half a relative step of the coarsest number format of the model's parameters."""
    return torch.finfo(_coarsest_format(model)).eps / 2


def _coarsest_format(model: Any) -> torch.dtype:
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def ablation_caveats(
    model: Any,
    block: Block,
    head: int,
    svd: FactoredSVD | None,
    sets: Sets,
    rounding: float | None,
) -> tuple[Caveat, ...]:
    """Return the caveats on the energy of the pieces and on `kl`.

    Args:
        model: the model.
        block: its block in canonical form.
        head: the head.
        svd: its decomposition if the circuit is QK, else None.
        sets: sets of directions.
        rounding: the measured mean of `rounding_kl`, None if it was not measured.
    """
    caveats = []
    rotary = block.attention_scores.rotary
    if svd is not None and rotary is not None:
        distance = min(DISTANCE, (rotary.n_ctx or DISTANCE + 1) - 1)
        generator = seeded_generator("strength behind", 0, 0)
        ratio = energy_ratio_at_distance(block, head, svd, sets, distance, generator)
        low, high = float(ratio.nan_to_num(1.0).min()), float(ratio.nan_to_num(1.0).max())
        sentence = (
            "random pieces have the energy of their direction at distance 0; at distance "
            f"{distance} the energy of a direction is {low:.2g} to {high:.2g} times theirs."
        )
        caveats.append(Caveat("energy at distance 0", sentence))
    if not block.attention_scores.causal:
        sentence = "attention is bidirectional: kl is of the token predicted at each position."
        caveats.append(Caveat("no next token", sentence))
    if is_half_precision(model) and rounding is not None:
        name = str(_coarsest_format(model)).removeprefix("torch.")
        sentence = (
            f"rounding in {name} alone moves kl, for directions and random pieces alike: by "
            f"{rounding:.1g} nats on the first prompt, where every entry of the attention output "
            "changes by half a step of the format; effects of this size need the model in float32."
        )
        caveats.append(Caveat("half precision", sentence))
    return tuple(caveats)
