"""Does a direction matter? Taken out of the running model, beside random pieces as strong.

1. Take a head's W_QK or W_OV apart: `sum_i S_i u_i v_i^T`; a direction is one such piece.
2. For every prompt, remove the piece (or keep only it) from what the head reads, by a hook on the
   running model: the head's attention and what it writes follow from the canonical form, everything
   behind it is the model's own.
3. Do the same with random pieces of the same head, rank and energy, drawn anew for every prompt.
4. Count the change of attention, of the head's write, and of the next-token distribution; intervals
   from a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import head_spectrum
from tw_lens.analyses.head_directions import head_svd
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_pre, read_weights
from tw_lens.results.arguments import CIRCUITS, Circuit, require_choice, require_positive
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.caveats import without_distance
from tw_lens.studies.ablation import (
    ABLATION_MEASURES,
    effect_caveats,
    measure_ablation,
    rank_one_pieces,
    to_float64,
)
from tw_lens.studies.bootstrap import BootstrapSums, Estimate, difference, estimate
from tw_lens.studies.direction_pairs import require_head
from tw_lens.studies.direction_sets import Sets, direction_sets, set_label
from tw_lens.studies.prompts import PromptStream, progress_bar, seeded_generator
from tw_lens.tokens import visible

Action = Literal["ablate", "isolate"]
ACTIONS = ("ablate", "isolate")
SOURCES = ("direction", "random")
N_WORDS = 5


@dataclass(frozen=True, repr=False, eq=False)
class DirectionAblation(Result):
    """What the model does without each set of directions, beside random pieces as strong.

    `effect` has the axes sources (direction, random), sets, measures: `attention`, the total
    variation of the head's attention (0 to 1); `write`, the length of the change of what the head
    writes over the length of what it wrote; `kl`, the divergence of the next-token distribution
    from the model's own, in nats. `difference` is the direction's less the random pieces', sets by
    measures. `energy` is the Frobenius norm of what each set is, `share` its square over the
    head's. `residual_error` is how far the stream was from what the canonical form says, at most.
    """

    model_name: str
    layer: int
    head: int
    circuit: Circuit
    action: Action
    sets: Sets
    energy: Float[Tensor, " sets"]
    share: Float[Tensor, " sets"]
    left_tokens: tuple[str, ...]
    right_tokens: tuple[str, ...]
    effect: Estimate
    difference: Estimate
    residual_error: float
    n_prompts: int
    n_positions: int
    n_random: int
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The head's name: "L5H1"."""
        return component_label(self.layer, self.head)

    @property
    def names(self) -> tuple[str, ...]:
        """A name for every set: "0", "0+1+2", "none", or "0 to 63"."""
        return tuple(map(set_label, self.sets))

    def sign(self) -> list[list[str]]:
        """Where each set's measures stand beside random pieces: "above", "below" or "level"."""
        flat, n = self.difference.sign(), len(ABLATION_MEASURES)
        return [flat[at : at + n] for at in range(0, len(flat), n)]

    def headline(self) -> str:
        """How many of the sets change the model more than random pieces do."""
        known = not bool(self.effect.value[0, :, ABLATION_MEASURES.index("kl")].isnan().all())
        at = ABLATION_MEASURES.index("kl" if known else "output_change")
        what, of, unit = (
            ("the next token", "KL ", "nats") if known else ("its write", "", "of its length")
        )
        stands = self.sign()
        above = sum(row[at] == "above" for row in stands)
        most = int(self.effect.value[0, :, at].argmax())
        value, low, high = (float(part[0, most, at]) for part in self.effect)
        return (
            f"{self.model_name} {self.component} {self.circuit}, {self.n_prompts} prompts: to "
            f"{self.action} {self.names[most]} changes {what} most, {of}{value:.2g} "
            f"[{low:.2g}, {high:.2g}] {unit}; {above} of {len(self.sets)} change it more than "
            "random pieces as strong do"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per set and measure, the random pieces beside it.

        Columns: layer, head, component, circuit, action, directions, energy, share, measure, value, low, high,
        random, random_low, random_high, beyond, difference_low, difference_high, stands ("above", "below",
        "level" with random pieces), left_tokens, right_tokens.
        """
        rows = []
        stands = self.sign()
        for at, name in enumerate(self.names):
            for m, measure in enumerate(ABLATION_MEASURES):
                own, random, more = (
                    [float(part[place]) for part in found]
                    for found, place in (
                        (self.effect, (0, at, m)),
                        (self.effect, (1, at, m)),
                        (self.difference, (at, m)),
                    )
                )
                rows.append(
                    (
                        *head_columns(self.layer, self.head).values(), self.circuit, self.action, name, float(self.energy[at]),
                        float(self.share[at]), measure, *own, *random, *more, stands[at][m],
                        self.left_tokens[at], self.right_tokens[at],
                    )
                )  # fmt: skip
        names = ["layer", "head", "component", "circuit", "action", "directions", "energy", "share", "measure",
                 "value", "low", "high", "random", "random_low", "random_high", "difference",
                 "difference_low", "difference_high", "vs_control", "left_tokens", "right_tokens"]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


def direction_ablation(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    *,
    layer: int,
    head: int,
    circuit: Circuit = "QK",
    directions: Iterable[SupportsIndex | Iterable[SupportsIndex]] | None = None,
    action: Action = "ablate",
    n_random: int = 1,
    first_position: int = 1,
    seed: int = 0,
    progress: Progress = False,
) -> DirectionAblation:
    """What changes when a direction of W_QK or W_OV is taken out of the running model?

    With `W = sum_i S_i u_i v_i^T` (exact convention), a direction i is taken out of what the head
    reads: its queries (QK) or values (OV) lose `(N(x) u_i) u_i^T A`. That is the piece
    `S_i u_i v_i^T` of W_OV, and of W_QK at distance 0; at another distance it is what this
    direction of the query meets there, `s (N(x_i) u_i) u_i^T A_Q R(i-j) A_K^T N(x_j)^T`. Constants
    (`a_Q`, `a_K`, `a_V`) stay: with all directions out, the head's bilinear part is gone. Query-key
    norms and bottlenecks divide by what they divided the whole by. The weights are not touched: the
    change enters the output of `W_O` by a hook, and the stream behind the block is compared with
    the canonical form's in every run.

    Random pieces: the part of W that random orthonormal directions of the head's reading side
    read, scaled to the same singular values (so of the same rank and energy; where positions
    rotate, at distance 0: a caveat says how strong they are at distance 8), new ones for every
    prompt. They are no strangers to the head: they ask whether u_i matters more than what the head
    does anyway.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids or padded batches, as for `trajectory_statistics`.
        layer: which block.
        head: which head.
        circuit: "QK" or "OV".
        directions: sets of directions, each tried alone: `[0, 1, (0, 1, 2)]`; a block from
            `direction_degeneracy` belongs together. The 20 leading ones, one by one, by default.
        action: "remove", or "keep" to remove all others.
        n_random: random pieces for every set and prompt.
        first_position: positions before it are not counted.
        seed: of the random pieces and of the bootstrap.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: the layer, the head or a direction does not exist.
        TypeError: the head or a direction is no number, or the directions are no list.
        ValueError: unknown circuit or action, no set, or no prompt with a position to count.
        UnsupportedModelError: the model's attention is not what the canonical form computes, or cannot
            be changed by a hook.

    Example:
        >>> found = direction_ablation(model, ["w5 w6 w7", "w8 w9"], layer=1, head=0,
        ...                          directions=[0, (), range(16)])
        >>> found.names
        ('0', 'none', '0 to 15')
        >>> found.to_dataframe().query("directions == 'none'").value.tolist()
        [0.0, 0.0, 0.0]

    Source: arXiv 2309.07315, section 4.5, for the directions; removal as a test of what they mean
    is that of causal ablation.
    """
    require_choice("circuit", circuit, CIRCUITS)
    require_choice("action", action, ACTIONS)
    require_positive("n_random", n_random)
    rows = PromptStream(model, prompts, first_position)
    weights = read_weights(model)
    block = weights.block(layer)
    head = require_head(block, head)
    precise = to_float64(block)
    svd = head_svd(precise, [head], circuit)
    sets = direction_sets(directions, svd.S.shape[-1])
    A = precise.A_Q[head] if circuit == "QK" else precise.A_V[block.kv_head[head]]
    shape = (len(SOURCES), len(sets), len(ABLATION_MEASURES))
    sums, residual_error = BootstrapSums.empty(math.prod(shape)), 0.0
    with progress_bar(progress, prompts) as count:
        for number, tokens in rows:
            drawn = seeded_generator("random pieces", seed, number)
            pieces = rank_one_pieces(
                svd, A, sets, keep=action == "isolate", n_random=n_random, generator=drawn
            )
            x = read_resid_pre(model, tokens[None], layer)[0]
            values, missed = measure_ablation(model, block, head, circuit, tokens, x, pieces)
            values = values[..., first_position:].unflatten(0, (len(sets), 1 + n_random))
            beside = torch.stack([values[:, 0], values[:, 1:].mean(1)])
            if weights.readout.is_embedding:
                beside[:, :, ABLATION_MEASURES.index("kl")] = math.nan
            sums.add(beside.flatten(0, 2), seed=seed, number=number)
            residual_error = max(residual_error, missed)
            count(1)
    rows.require_some()
    means = sums.means().unflatten(1, shape)
    S = svd.S[0]
    energy = torch.stack([S[list(held)].norm() for held in sets])
    left, right = _words(weights, layer, head, circuit, sets)
    return DirectionAblation(
        model_name=weights.model_name,
        layer=layer,
        head=head,
        circuit=circuit,
        action=action,
        sets=sets,
        energy=energy,
        share=energy.square() / S.square().sum(),
        left_tokens=left,
        right_tokens=right,
        effect=estimate(means),
        difference=Estimate(*(part[0] for part in difference(means[:, :1], means[:, 1:]))),
        residual_error=residual_error,
        n_prompts=rows.n_prompts,
        n_positions=int(sums.count[0, 0]),
        n_random=n_random,
        caveats=(
            *without_distance(weights.caveats),
            *effect_caveats(model, precise, head, svd if circuit == "QK" else None, sets),
            *rows.caveats_of_intervals,
        ),
    )


def _words(
    weights: Weights, layer: int, head: int, circuit: Circuit, sets: Sets
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of every set that is one direction, left and right; nothing for the others."""
    n = 1 + max((held[0] for held in sets if len(held) == 1), default=0)
    found = head_spectrum(weights, layer=layer, head=head, circuit=circuit, n=n, k=N_WORDS)
    return tuple(
        tuple(
            " ".join(map(visible, side.token_string[held[0]])) if len(held) == 1 else ""
            for held in sets
        )
        for side in (found.left, found.right)
    )
