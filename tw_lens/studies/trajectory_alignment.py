"""Does a word approach what follows it? The angle to its successor over the layers, with controls.

1. For every position with a successor, the angles from its state (under the final norm) to the
   last position's state, to the next position's state, and to the next token's readout direction,
   at every layer.
2. The same towards another word of the same sentence, drawn at random, and towards the word two
   away: all states of a sentence may draw together, near ones more, and only what is more than
   that is an approach to the successor.
3. The same for the controls of every study: shuffled layers, random steps, the permuted weights.
4. Two summaries: the fall from the first to the last state, and the trend over the layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import angle
from tw_lens.reading import Prompt
from tw_lens.results import Result
from tw_lens.studies.baseline_positions import position_two_away, random_position
from tw_lens.studies.bootstrap import Estimate, difference, estimate
from tw_lens.studies.runner import CONTROLS, MODEL, SHUFFLED, Progress, Settings, run_study

TARGETS = ("last state", "next state", "next readout")
PLACES = ("middle", "end")
OTHERS = {"another word": random_position, "two words away": position_two_away}
NO_FALL = "no fall to set beside controls"
BOTH = Caveat(
    "both move",
    "an angle does not say which of two states moved; in a causal model the later one alone sees "
    "the other.",
)
BEYOND = ("difference", "difference_low", "difference_high")
NOTHING = dict.fromkeys(BEYOND, math.nan)


@dataclass(frozen=True, repr=False, eq=False)
class TrajectoryAlignment(Result):
    """Mean angles to what follows, over the layers; angles in radians, intervals of 95 %.

    `sources` are the model, `another word` and `two words away` (the model's own angle to other
    words of the sentence) and the controls. `angle` has the axes sources, targets, places, layers.
    `fall` and `trend` are the two summaries (see `trajectory_alignment`), each with the axes sources, targets,
    places; `fall_difference` and `trend_difference` are the model's less each other source's.
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
        """Whether the angle to the next state falls by more than in every control."""
        parts = [self.sentence("next state", place) for place in PLACES]
        return f"{self.model_name}, {self.n_prompts} prompts: {'; '.join(parts)}"

    def sentence(self, target: str, place: str) -> str:
        """One claim in words, no stronger than its intervals."""
        fall, low, high = self.fall_of(target, place)
        way = f"falls by {fall:.2f} [{low:.2f}, {high:.2f}] rad"
        if high < 0:
            way = f"rises by {-fall:.2f} [{-high:.2f}, {-low:.2f}] rad"
        elif not low > 0:
            way = (
                f"does not change for certain (it falls by {fall:.2f} [{low:.2f}, {high:.2f}] rad)"
            )
        return f"{place}: the angle to the {target} {way}, {self.verdict(target, place)}"

    def fall_of(self, target: str, place: str) -> tuple[float, float, float]:
        """The model's fall towards a target, and the ends of its interval, in radians."""
        at = (0, TARGETS.index(target), PLACES.index(place))
        value, low, high = (float(part[at]) for part in self.fall)
        return value, low, high

    def verdict(self, target: str, place: str) -> str:
        """Either "above control" or "not above control" with every comparison that says so.

        Without a fall that is certain there is nothing to compare, whatever the controls do.
        """
        if not self.fall_of(target, place)[1] > 0:
            return NO_FALL
        rows = self.summary().query("target == @target and place == @place and source != 'model'")
        missed = rows[rows.vs_control != "above"]
        names = ", ".join(f"{row.source} ({row.quantity})" for row in missed.itertuples())
        return f"not above control: {names}" if names else "above control"

    def summary(self) -> pd.DataFrame:
        """The fall and the trend, one row per target, place, quantity and source.

        Columns: target, place, quantity ("fall", "trend"), source, value, low, high, beyond,
        difference_low, difference_high, vs_control ("above", "below", "level" with the control). Layers
        shuffled have the model's own ends, and no fall of their own.
        """
        rows = []
        quantities = (
            ("fall", self.fall, self.fall_difference),
            ("trend", self.trend, self.trend_difference),
        )
        for quantity, found, against in quantities:
            stands = against.sign()
            for i, source in enumerate(self.sources):
                if (quantity, source) == ("fall", SHUFFLED):
                    continue
                for t, target in enumerate(TARGETS):
                    for p, place in enumerate(PLACES):
                        which = ((i - 1) * len(TARGETS) + t) * len(PLACES) + p
                        other = source != MODEL
                        rows.append(
                            {
                                "target": target,
                                "place": place,
                                "quantity": quantity,
                                "source": source,
                                **_numbers(("value", "low", "high"), found, (i, t, p)),
                                **(_numbers(BEYOND, against, (i - 1, t, p)) if other else NOTHING),
                                "vs_control": stands[which] if other else "",
                            }
                        )
        return pd.DataFrame(rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: layer, label, target, place, source, angle, low, high."""
        rows = []
        for i, source in enumerate(self.sources):
            for t, target in enumerate(TARGETS):
                for p, place in enumerate(PLACES):
                    for layer, label in enumerate(self.labels):
                        rows.append(
                            {
                                "layer": layer,
                                "label": label,
                                "target": target,
                                "place": place,
                                "source": source,
                                **_numbers(("angle", "low", "high"), self.angle, (i, t, p, layer)),
                            }
                        )
        return pd.DataFrame(rows)


def _numbers(names: Sequence[str], found: Estimate, at: tuple[int, ...]) -> dict[str, float]:
    return {name: float(part[at]) for name, part in zip(names, found, strict=True)}


def trajectory_alignment(
    model: Any,
    prompts: Iterable[Prompt | Mapping[str, Any]],
    *,
    controls: Sequence[str] = CONTROLS,
    first_position: int = 1,
    batch_size: int = 16,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress = False,
) -> TrajectoryAlignment:
    """Does a state approach what follows it in the sentence, over the layers?

    Three targets, all at the same layer l: the last position's `y_l`, the next position's `y_l`,
    and the next token's column of `A_U`. Two places: `end` is the last position that has a
    successor (the next state is the last one there), `middle` every position before it. For each
    the mean angle `a_l` at every layer, and two summaries, positive where the angle falls:

    - `fall`: `a_0 - a_L`, from the first state to the last.
    - `trend`: `-L` times the slope of the straight line fitted to `a_l` over the layers.

    Both are compared with the same figure for another word of the sentence, drawn at random
    (neither the position itself, nor its successor, nor the last one, nor the same token), with
    that for the word two away (the one after next; before, where that is the last), and with the
    controls. Shuffled layers keep both ends of every path: they speak on the trend only.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        prompts: sentences, as for `trajectory_statistics`.
        controls: as for `trajectory_statistics`; other words are always there.
        first_position: positions before it are left out, as those that look out and as others.
        batch_size: prompts run together.
        seed: of the controls, the other words and the bootstrap.
        checkpoint: a file to keep the study in, as for `trajectory_statistics`.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        ValueError: a control is unknown, or no prompt has a position to measure.
        CheckpointError: (a ValueError) the kept study is of other settings or prompts.
        UnsupportedModelError: see `read_weights` and `permute_weights`.

    Example:
        >>> found = trajectory_alignment(model, ["w5 w6 w7 w8 w9", "w8 w9 w10 w11"], controls=[])
        >>> found.sources
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
        others = [torch.full_like(own, math.nan)] * len(OTHERS)  # of the model, not its controls
        if generator is not None:
            chosen = [choose(tokens, first_position, generator) for choose in OTHERS.values()]
            others = [_angles(weights, stream, tokens, of) for of in chosen]
        columns = torch.stack([own, *others])
        end = torch.zeros(len(tokens), dtype=torch.bool)
        end[-2:-1] = True
        by_place = [columns.where(place, torch.nan) for place in (~end, end)]
        return torch.stack(by_place, dim=2).flatten(0, 2)

    looked_at = (MODEL, *OTHERS)
    columns = [f"{of}, {t}, {p}" for of in looked_at for t in TARGETS for p in PLACES]
    found = run_study(
        model, prompts, measure, columns, settings, checkpoint=checkpoint, progress=progress
    )
    parts = found.means.unflatten(2, (len(looked_at), len(TARGETS), len(PLACES)))
    angles = torch.cat([parts[:, 0], parts[:, 1:, 0]], dim=1)
    fall, trend = angles[..., 0] - angles[..., -1], _trend(angles)
    return TrajectoryAlignment(
        model_name=found.model_name,
        labels=found.labels,
        sources=(*looked_at, *found.sources[1:]),
        angle=estimate(angles),
        fall=estimate(fall),
        trend=estimate(trend),
        fall_difference=difference(fall[:, :1], fall[:, 1:]),
        trend_difference=difference(trend[:, :1], trend[:, 1:]),
        n_prompts=found.n_prompts,
        caveats=(*found.caveats, BOTH),
    )


def _trend(angles: Float[Tensor, "*cells layers_and_end"]) -> Float[Tensor, "*cells"]:
    """How far the straight line through the angles falls from the first layer to the last."""
    layers = torch.arange(angles.shape[-1], dtype=angles.dtype)
    off = layers - layers.mean()
    return -(len(layers) - 1) * (angles * off).sum(-1) / off.square().sum()


def _angles(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    tokens: Int[Tensor, " position"],
    others: Int[Tensor, " position"] | None,
) -> Float[Tensor, "targets layers_and_end position"]:
    """Angles to the three targets, or to others in their place (NaN where there is none)."""
    readout = weights.readout
    y = readout.norm.sphere(stream)
    after = torch.arange(1, len(tokens) + 1).clamp_max(len(tokens) - 1)
    last = torch.full_like(after, len(tokens) - 1)
    if others is not None:
        after = last = others.clamp_min(0)
    towards = readout.direction(tokens[after])
    found = torch.stack(
        [
            angle(y, y[:, last]),
            angle(y, y[:, after]),
            angle(readout.sphere(stream), towards.expand_as(y)),
        ]
    )
    known = torch.ones(len(tokens), dtype=torch.bool)
    known[-1] = False  # the last position has no successor
    return found.where(known if others is None else known & (others >= 0), math.nan)
