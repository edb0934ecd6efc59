"""Sections of the page on trajectories: of one prompt, and of many prompts with controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import Trajectory, TrajectoryAttribution, fit_projection
from tw_lens.canonical import LayerVocabulary, States, Weights
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.neurons_panel import neurons_panel
from tw_lens.rendering.page.panels import Panel, Section, Table, refusal_panel
from tw_lens.rendering.widgets.circuitsvis import token_widget
from tw_lens.studies import PLACES, TARGETS, TrajectoryAlignment, TrajectoryStatistics

if TYPE_CHECKING:
    from tw_lens.analyses.projection import Method


def trajectory_section(
    weights: Weights,
    states: States,
    path: Trajectory,
    attribution: TrajectoryAttribution | ValueError,
    method: Method,
    vocabulary: LayerVocabulary | None = None,
) -> Section:
    """Return the section on the trajectories of the prompt's tokens.

    Args:
        weights: from `read_weights`.
        states: the prompt's, from `read_states`.
        path: their trajectories.
        attribution: of every step, or why steps are not attributed.
        method: of the projection.
        vocabulary: points of the tokens that neurons are read with.
    """
    projection = fit_projection(weights, states, method=method)
    panels = (
        Panel(
            "Trajectory measures by layer",
            "Norm of the residual state, step angle on the sphere, arc length so far, and turning "
            "angle between the arriving and the leaving step, all in the original space. A "
            "straight trajectory turns by 0; random steps in many dimensions turn by about π/2.",
            lazy_figure(path),
            caveats=path.caveats,
        ),
        _attribution_panel(attribution),
        neurons_panel(weights, states, vocabulary),
        Panel(
            "Step angle of each token, layer by layer",
            "The darker a token, the larger the angle of its step from the chosen layer to the "
            "next. Choose a layer by its name; hover for the angle in radians.",
            lazy_widget(token_widget(path), "tokens colored by their step angle, by layer"),
        ),
        Panel(
            "Projection of the trajectories",
            "Every residual state under the final norm, projected among the tokens it passes; "
            "hover for the model's readout at each layer. Check the trustworthiness score; prefer "
            "the numbers where they differ. Drag the slider or press Play to move the states "
            "(diamonds) through the layers.",
            lazy_figure(path, projection),
            caveats=projection.caveats,
        ),
    )
    return Section("trajectory", "Trajectories of the prompt", panels)


def prompts_section(alignment: TrajectoryAlignment, statistics: TrajectoryStatistics) -> Section:
    """Return the section on many prompts and their controls."""
    panels = (
        Panel(
            "Alignment with the successor",
            "The angle from a position's state to the last state, to the next state and to the "
            "next token's readout direction, over the layers. A falling angle counts as alignment "
            "with the successor only where it falls more than towards other tokens of the same "
            "prompt, near ones included, and more than in every control.",
            lazy_figure(alignment),
            caveats=alignment.caveats,
        ),
        Panel(
            "Fall of the angle, compared with controls",
            "The fall of each angle from the first layer to the last. \u201cAbove control\u201d "
            "means: larger than towards other tokens, than for random steps and than with permuted "
            "weights, and steadier than with shuffled layers, each at 95 % over prompts.",
            table=_alignment_table(alignment),
        ),
        Panel(
            "Trajectory measures over many prompts",
            f"Every measure over {statistics.n_prompts} prompts: the mean with its interval. The "
            "controls are the same steps in shuffled order, random steps of the same lengths, and "
            "the same architecture with permuted weights.",
            lazy_figure(statistics),
            caveats=statistics.caveats,
        ),
    )
    return Section("prompts", "Trajectories of many prompts", panels)


def _alignment_table(alignment: TrajectoryAlignment) -> Table:
    rows = []
    for place in PLACES:
        for target in TARGETS:
            fall, low, high = alignment.fall_of(target, place)
            interval = f"{low:.3f} to {high:.3f}"
            rows.append((place, target, round(fall, 3), interval, alignment.verdict(target, place)))
    columns = ("position", "target", "fall (rad)", "95 % interval", "compared with controls")
    return Table("fall of the angle to each target", columns, tuple(rows), (None,) * len(rows))


def _attribution_panel(attribution: TrajectoryAttribution | ValueError) -> Panel:
    title = "Attribution of each step to heads and MLP"
    if isinstance(attribution, ValueError):
        return refusal_panel(title, attribution)
    return Panel(
        title,
        "Every step is decomposed into what each head and the MLP added, as signed shares of the "
        "step: blue parts point along the step, red parts against it. The parts sum to the step up "
        f"to a relative error of {attribution.residual_error:.0e}.",
        lazy_figure(attribution),
        caveats=attribution.caveats,
    )
