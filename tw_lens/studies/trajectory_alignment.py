"""Trajectory alignment: the angle between a state and its successor over the layers, with controls.

1. For every position with a successor, compute the angles between its state (under the final norm)
   and the last position's state, the next position's state, and the next token's unembedding
   direction, at every layer.
2. Compute the same angles to another token of the prompt, drawn at random, and to the token two
   away: all states of a prompt may converge, near ones more, and only what exceeds that is an
   alignment with the successor.
3. Compute the same angles for the controls of every study: shuffled layers, random steps, permuted
   weights.
4. Summarise by the fall from the first to the last state and by the trend over the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import angle
from tw_lens.progress import Progress
from tw_lens.reading import Prompt
from tw_lens.results import Result
from tw_lens.studies.baseline_positions import position_two_away, random_position
from tw_lens.studies.bootstrap import Estimate, difference, estimate
from tw_lens.studies.runner import CONTROLS, MODEL, SHUFFLED, Control, Settings, run_study

Target = Literal["last state", "next state", "next readout"]
TARGETS: tuple[Target, ...] = get_args(Target)
Place = Literal["middle", "end"]
PLACES: tuple[Place, ...] = get_args(Place)
BASELINES = {"another word": random_position, "two words away": position_two_away}
NO_FALL = "no certain fall to compare with the controls"
BOTH_MOVE = Caveat(
    "both move",
    "an angle does not tell which of two states moved; in a causal model only the later one "
    "depends on the other.",
)
ESTIMATE_COLUMNS = ("value", "low", "high")
DIFFERENCE_COLUMNS = ("difference", "difference_low", "difference_high")


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryAlignment(Result):
    """Mean angles to the successor over the layers, in radians, with 95 % intervals.

    `sources` are the model, `another word` and `two words away` (the model's own angles to other
    tokens of the prompt) and the controls. `angle` has the axes sources, targets, places, layers.
    `fall` and `trend` are the two summaries (see `trajectory_alignment`), each with the axes
    sources, targets, places; `fall_difference` and `trend_difference` are the model's minus those
    of each other source.
    """

    model_name: str
    labels: tuple[str, ...]
    sources: tuple[str, ...]
    angle: Estimate
    fall: Estimate
    trend: Estimate
    fall_difference: Estimate
    trend_difference: Estimate
    n_prompts: int
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return for both places how the angle to the next state changes, against the controls."""
        parts = [self.claim("next state", place) for place in PLACES]
        return f"{self.model_name}, {self.n_prompts} prompts: {'; '.join(parts)}"

    @checked
    def claim(self, target: Target, place: Place) -> str:
        """Return the fall towards a target in words, as certain as its interval."""
        fall, low, high = self.fall_of(target, place)
        if math.isnan(fall):
            return f"{place}: the angle to the {target} is not measured (no prompt is long enough)"
        change = f"falls by {fall:.2f} [{low:.2f}, {high:.2f}] rad"
        if high < 0:
            change = f"rises by {-fall:.2f} [{-high:.2f}, {-low:.2f}] rad"
        elif not low > 0:
            change = f"does not change for certain ({change})"
        return f"{place}: the angle to the {target} {change}, {self.verdict(target, place)}"

    @checked
    def fall_of(self, target: Target, place: Place) -> tuple[float, float, float]:
        """Return the model's fall towards a target and the ends of its interval, in radians."""
        index = (0, TARGETS.index(target), PLACES.index(place))
        value, low, high = (float(part[index]) for part in self.fall)
        return value, low, high

    @checked
    def verdict(self, target: Target, place: Place) -> str:
        """Return "above control", or "not above control" with the comparisons that fail.

        Without a certain fall there is nothing to compare, whatever the controls do.
        """
        if not self.fall_of(target, place)[1] > 0:
            return NO_FALL
        rows = self.summary().query("target == @target and place == @place and source != 'model'")
        failed = rows[rows.vs_control != "above"]
        names = ", ".join(f"{row.source} ({row.quantity})" for row in failed.itertuples())
        return f"not above control: {names}" if names else "above control"

    def summary(self) -> pd.DataFrame:
        """Return the fall and the trend, one row per quantity, source, target and place.

        Columns: target, place, quantity ("fall", "trend"), source, value, low, high, difference,
        difference_low, difference_high, vs_control ("above", "below", "level" with the control).
        Shuffled layers have the model's own first and last states, and no fall of their own.
        """
        rows = []
        for quantity, estimated, against in (
            ("fall", self.fall, self.fall_difference),
            ("trend", self.trend, self.trend_difference),
        ):
            signs = against.sign()
            for i, t, p in product(
                range(len(self.sources)), range(len(TARGETS)), range(len(PLACES))
            ):
                source = self.sources[i]
                if (quantity, source) == ("fall", SHUFFLED):
                    continue
                row = {"target": TARGETS[t], "place": PLACES[p], "quantity": quantity}
                row |= {"source": source, **_numbers(ESTIMATE_COLUMNS, estimated, (i, t, p))}
                if source == MODEL:
                    row |= {**dict.fromkeys(DIFFERENCE_COLUMNS, math.nan), "vs_control": ""}
                else:
                    row |= _numbers(DIFFERENCE_COLUMNS, against, (i - 1, t, p))
                    row["vs_control"] = signs[((i - 1) * len(TARGETS) + t) * len(PLACES) + p]
                rows.append(row)
        return pd.DataFrame(rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per source, target, place and layer.

        Columns: layer, label, target, place, source, angle, low, high.
        """
        rows = []
        for (i, source), (t, target), (p, place), (layer, label) in product(
            *map(enumerate, (self.sources, TARGETS, PLACES, self.labels))
        ):
            row = {"layer": layer, "label": label, "target": target, "place": place}
            numbers = _numbers(("angle", "low", "high"), self.angle, (i, t, p, layer))
            rows.append({**row, "source": source, **numbers})
        return pd.DataFrame(rows)


def _numbers(names: Sequence[str], estimated: Estimate, index: tuple[int, ...]) -> dict[str, float]:
    return {name: float(part[index]) for name, part in zip(names, estimated, strict=True)}


@checked
def trajectory_alignment(
    model: Any,
    prompts: Iterable[Prompt],
    *,
    controls: Iterable[Control] = CONTROLS,
    first_position: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> TrajectoryAlignment:
    """Measure the angle between a state and its successor in the prompt, over the layers.

    Three targets, all at the same layer l: the last position's `y_l`, the next position's `y_l`,
    and the next token's column of `A_U`. Two places: `end` is the last position that has a
    successor (the next state is the last one there), `middle` every position before it. For each
    the mean angle `a_l` at every layer, and two summaries, positive where the angle falls:

    - `fall`: `a_0 - a_L`, from the first state to the last.
    - `trend`: `-L` times the slope of the straight line fitted to `a_l` over the layers.

    Both are compared with the same value for another token of the prompt, drawn at random (neither
    the position itself, nor its successor, nor the last one, nor the successor's token), with that
    for the token two away (the one after next; before, where that is the last), and with the
    controls. Shuffled layers keep both ends of every trajectory: they are a control of the trend
    only.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: texts, token ids or padded batches, as for `trajectory_statistics`.
        controls: as for `trajectory_statistics`; the other tokens are always included.
        first_position: earlier positions are excluded, also as other tokens.
        batch_size: number of prompts run together.
        seed: seed of the controls, the other tokens and the bootstrap.
        checkpoint: a file to save the study in; rerun with the same file to resume, as for
            `trajectory_statistics`.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: a control is unknown, or no prompt has a position to measure.
        CheckpointError: (a ValueError) the checkpoint is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.

    Example:
        >>> result = trajectory_alignment(model, ["w5 w6 w7 w8 w9", "w8 w9 w10 w11"], controls=[])
        >>> result.sources
        ('model', 'another word', 'two words away')

    Source: the question is the reviewers' of arXiv 2309.07315 (does a token's state approach its
    successor's, in the original space, over many sentences?).
    """
    settings = Settings(tuple(controls), first_position, batch_size, seed)

    def measure(
        weights: Weights,
        stream: Float[Tensor, "layers_and_end position d_model"],
        tokens: Int[Tensor, " position"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "columns layers_and_end position"]:
        own = _angles(weights, stream, tokens, None)
        baselines = [torch.full_like(own, math.nan)] * len(BASELINES)  # for the model only
        if generator is not None:
            others = [choose(tokens, first_position, generator) for choose in BASELINES.values()]
            baselines = [_angles(weights, stream, tokens, positions) for positions in others]
        values = torch.stack([own, *baselines])
        end = torch.zeros(len(tokens), dtype=torch.bool)
        end[-2:-1] = True
        by_place = [values.where(place, torch.nan) for place in (~end, end)]
        return torch.stack(by_place, dim=2).flatten(0, 2)

    model_sources = (MODEL, *BASELINES)
    columns = [f"{source}, {t}, {p}" for source in model_sources for t in TARGETS for p in PLACES]
    result = run_study(
        model, prompts, measure, columns, settings, checkpoint=checkpoint, progress=progress
    )
    parts = result.means.unflatten(2, (len(model_sources), len(TARGETS), len(PLACES)))
    angles = torch.cat([parts[:, 0], parts[:, 1:, 0]], dim=1)
    fall, trend = angles[..., 0] - angles[..., -1], _trend(angles)
    return TrajectoryAlignment(
        model_name=result.model_name,
        labels=result.labels,
        sources=(*model_sources, *result.sources[1:]),
        angle=estimate(angles),
        fall=estimate(fall),
        trend=estimate(trend),
        fall_difference=difference(fall[:, :1], fall[:, 1:]),
        trend_difference=difference(trend[:, :1], trend[:, 1:]),
        n_prompts=result.n_prompts,
        caveats=(*result.caveats, BOTH_MOVE),
    )


def _trend(angles: Float[Tensor, "*cells layers_and_end"]) -> Float[Tensor, "*cells"]:
    """Return the fall of the straight line fitted to the angles, from first to last layer."""
    layers = torch.arange(angles.shape[-1], dtype=angles.dtype)
    centred = layers - layers.mean()
    return -(len(layers) - 1) * (angles * centred).sum(-1) / centred.square().sum()


def _angles(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
    others: Int[Tensor, " position"] | None,
) -> Float[Tensor, "targets layers_and_end position"]:
    """Return the angles to the three targets, or to other positions instead (NaN: none)."""
    readout = weights.token_readout
    y = readout.norm.sphere(stream)
    successor = torch.arange(1, len(tokens) + 1).clamp_max(len(tokens) - 1)
    last = torch.full_like(successor, len(tokens) - 1)
    if others is not None:
        successor = last = others.clamp_min(0)
    direction = readout.direction(tokens[successor])
    angles = torch.stack(
        [
            angle(y, y[:, last]),
            angle(y, y[:, successor]),
            angle(readout.sphere(stream), direction.expand_as(y)),
        ]
    )
    known = torch.ones(len(tokens), dtype=torch.bool)
    known[-1] = False  # the last position has no successor
    return angles.where(known if others is None else known & (others >= 0), math.nan)
