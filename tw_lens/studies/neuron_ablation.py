"""Neuron ablation: the causal effect of neurons, with neurons of the same write norm as controls.

1. For every prompt, what a set of neurons writes is removed from the running model by a hook.
2. The same is done with random neurons whose write norms are nearest, drawn anew for every prompt.
3. The change of the MLP's output and of the next-token distribution is measured; intervals come
   from a bootstrap over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.argument_kinds import require_positive
from tw_lens.arguments import checked
from tw_lens.canonical import MLP, Weights
from tw_lens.errors import Caveat
from tw_lens.progress import Progress
from tw_lens.reading import Prompt, read_resid_mid, read_weights, run_with_mlp_change
from tw_lens.results.base import Result, layer_label
from tw_lens.results.caveats import without_distance
from tw_lens.studies.ablation_pieces import kl_divergence
from tw_lens.studies.ablation_sets import Sets, ablation_sets, set_label
from tw_lens.studies.batching import MAX_POSITIONS
from tw_lens.studies.bootstrap import BootstrapSums, Estimate, difference, estimate
from tw_lens.studies.prompts import PromptStream, progress_bar, seeded_generator

MEASURES = ("output_change", "kl")
NEAREST = 32  # neurons with the nearest write norms, among which a random one is drawn

NO_CONTROL = Caveat(
    "no control",
    "sets without a random control leave too few other neurons (of the same expert) in the layer.",
)


@dataclass(frozen=True, repr=False, eq=False)
class NeuronAblation(Result):
    """Effect of ablating each set of neurons, and random neurons of the same write norm.

    `effect` has the axes sources (neurons, random), sets, measures: `output_change`, the norm of
    the change of what the MLP adds over its norm, and `kl`, the KL divergence of the next-token
    distribution from the model's own, in nats. `difference` is the effect of the neurons minus
    that of the random ones. `written` is the root of the sum of the squared norms of what the
    neurons write per unit of activation, without the divisor of a norm of the output.
    `residual_error` is the largest relative error of the
    residual stream after the block against the canonical form, over all runs.
    """

    model_name: str
    layer: int
    sets: Sets
    written: Float[Tensor, " sets"]
    effect: Estimate
    difference: Estimate
    residual_error: float
    n_prompts: int
    n_positions: int
    n_random: int
    caveats: tuple[Caveat, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The label of every set: "L5N3", "L5N3+4", "none"."""
        own = layer_label(self.layer, self.model_name)
        return tuple(
            f"{own}N{members[0] if len(members) == 1 else set_label(members)}"
            if members
            else "none"
            for members in self.sets
        )

    def headline(self) -> str:
        """Return the set with the largest effect, and how many exceed random neurons."""
        kl = self.effect.value[0, :, 1]
        measure = 0 if kl.isnan().all() else 1
        what, unit = ("its MLP's output", "of its norm") if measure == 0 else ("the next token",
                                                                               "nats")  # fmt: skip
        largest = int(self.effect.value[0, :, measure].argmax())
        value, low, high = (float(part[0, largest, measure]) for part in self.effect)
        signs = self.difference.sign()
        n_above = sum(sign == "above" for sign in signs[measure :: len(MEASURES)])
        return (
            f"{self.model_name} layer {self.layer}, {self.n_prompts} prompts: to ablate "
            f"{self.names[largest]} changes {what} most, {value:.2g} [{low:.2g}, {high:.2g}] "
            f"{unit}; {n_above} of {len(self.sets)} change it more than random neurons of the same "
            "write norm do"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per set and measure, with the random neurons.

        Columns: layer, neurons, written, measure, value, low, high, random, random_low,
        random_high, difference, difference_low, difference_high, vs_control ("above", "below",
        "level" with random neurons).
        """
        rows, signs = [], self.difference.sign()
        for i, name in enumerate(self.names):
            for m, measure in enumerate(MEASURES):
                cells = [[part[s, i, m] for part in self.effect] for s in (0, 1)]
                cells.append([part[i, m] for part in self.difference])
                numbers = [float(value) for cell in cells for value in cell]
                sign = signs[i * len(MEASURES) + m]
                rows.append((self.layer, name, float(self.written[i]), measure, *numbers, sign))
        names = [
            "layer", "neurons", "written", "measure", "value", "low", "high", "random",
            "random_low", "random_high", "difference", "difference_low", "difference_high",
            "vs_control",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=names)


@checked
def neuron_ablation(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    layer: int,
    neurons: Iterable[SupportsIndex | Iterable[SupportsIndex]],
    n_random: int = 1,
    first_position: int = 1,
    seed: int = 0,
    progress: Progress = False,
) -> NeuronAblation:
    """Measure the effect of ablating neurons in the running model.

    What a set of neurons writes, `sum_n f_n W_out[n]`, is subtracted from the output of `W_out` at
    every position by a hook; post-norms, multipliers and later layers are the model's own. The
    controls are random neurons of the same layer (and expert) outside the set: each neuron is
    replaced by one of the 32 that are left with the nearest norm of `A_out`, drawn anew for every
    prompt. Without enough of them the control is NaN, with a caveat.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids or padded batches, as for `trajectory_statistics`.
        layer: index of the block.
        neurons: sets of neurons, each ablated separately: `[3, 17, (3, 17)]`.
        n_random: number of random sets for every set and prompt.
        first_position: earlier positions are excluded from the measures.
        seed: seed of the random neurons and of the bootstrap.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: the layer or a neuron does not exist.
        TypeError: a neuron is not an int, or the neurons are not a list.
        ValueError: there is no set, or no prompt has a position to measure.
        UnsupportedModelError: the layer has no MLP of the canonical form, or it cannot be changed
            by a hook.

    Example:
        >>> result = neuron_ablation(model, ["w5 w6 w7", "w8 w9"], layer=1, neurons=[3, ()])
        >>> result.to_dataframe().query("neurons == 'none'").value.tolist()
        [0.0, 0.0]

    Source: zero ablation of neurons, with controls of the same write norm.
    """
    require_positive("n_random", n_random)
    stream = PromptStream(model, prompts, first_position)
    weights = read_weights(model, device="cpu")
    mlp = weights.mlp(layer)
    sets = ablation_sets(neurons, mlp.d_mlp, what="neuron", owner="layer")
    size = mlp.A_out.norm(dim=-1)
    shape = (2, len(sets), len(MEASURES))
    sums, residual_error = BootstrapSums.empty(math.prod(shape)), 0.0
    with progress_bar(progress, prompts) as count:
        for number, tokens in stream:
            generator = seeded_generator("random neurons", seed, number)
            removed = [one for members in sets for one in (
                members,
                *(_random_like(members, size, mlp.experts, generator) for _ in range(n_random)),
            )]  # fmt: skip
            mid = read_resid_mid(model, weights, tokens[None], layer)[0]
            values, error = _measure(model, weights, mlp, tokens, mid, removed)
            if weights.readout.is_embedding:
                values[:, MEASURES.index("kl")] = math.nan
            values = values[..., first_position:].unflatten(0, (len(sets), 1 + n_random))
            effects = torch.stack([values[:, 0], values[:, 1:].mean(1)])
            sums.add(effects.flatten(0, 2), seed=seed, number=number)
            residual_error = max(residual_error, error)
            count(1)
    stream.require_prompts()
    means = sums.means().unflatten(1, shape)
    return NeuronAblation(
        model_name=weights.model_name,
        layer=layer,
        sets=sets,
        written=torch.stack([size[list(members)].norm() for members in sets]),
        effect=estimate(means),
        difference=Estimate(*(part[0] for part in difference(means[:, :1], means[:, 1:]))),
        residual_error=residual_error,
        n_prompts=stream.n_prompts,
        n_positions=int(sums.counts[0, 0]),
        n_random=n_random,
        caveats=(
            *without_distance(weights.caveats),
            *stream.interval_caveats,
            *(NO_CONTROL,) * bool(means[0, 1].isnan().all(-1).any()),
        ),
    )


def _measure(
    model: Any,
    weights: Weights,
    mlp: MLP,
    tokens: Tensor,
    mid: Tensor,
    removed: list[tuple[int, ...] | None],
) -> tuple[Float[Tensor, "sets measures position"], float]:
    """Return the effect of removing every set on one prompt, and the largest error of a run.

    NaN for a set that is None.
    """
    y = mlp.norm.sphere(mid)
    activations = mlp.activations(mlp.pre_activations_of_points(y), y)
    biases = mlp.biases_out(y)
    own = mlp.mlp_out(activations, biases)
    changes = torch.stack(
        [-activations[:, list(members or ())] @ mlp.W_out[list(members or ())]
         for members in removed]
    )  # fmt: skip
    effects, residual_error = [], 0.0
    for chunk in changes.split(max(1, MAX_POSITIONS // len(tokens) - 1)):
        rows = torch.cat([torch.zeros_like(chunk[:1]), chunk])
        run = run_with_mlp_change(model, weights, mlp, tokens, (activations, biases), rows)
        moved = torch.stack([mlp.mlp_out(activations, biases, change=row) - own for row in chunk])
        output = moved.norm(dim=-1) / own.norm(dim=-1).clamp_min(1e-30)
        effects.append(torch.stack([output, kl_divergence(run.logits)], dim=1))
        residual_error = max(residual_error, run.residual_error)
    missing = torch.tensor([members is None for members in removed])
    return torch.cat(effects).masked_fill(missing[:, None, None], math.nan), residual_error


def _random_like(
    members: tuple[int, ...],
    size: Float[Tensor, " d_mlp"],
    experts: tuple[str, ...] | None,
    generator: torch.Generator,
) -> tuple[int, ...] | None:
    """Return other neurons of nearly the same write norms, each once; None if there are too few.

    Those of a mixture of experts are of the same expert, so that they are routed alike.
    """
    free = torch.ones(len(size), dtype=torch.bool)
    free[list(members)] = False
    chosen: list[int] = []
    for member in members:
        allowed = free
        if experts is not None:
            same = torch.tensor([name == experts[member] for name in experts])
            allowed = free & same
        index = allowed.nonzero()[:, 0]
        if not len(index):
            return None
        gap = (size[index] - size[member]).abs()
        nearest = index[gap.topk(min(NEAREST, len(index)), largest=False).indices]
        chosen.append(int(nearest[int(torch.randint(len(nearest), (), generator=generator))]))
        free[chosen[-1]] = False
    return tuple(chosen)
