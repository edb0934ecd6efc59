"""The page's sections on the walk: of one prompt, and of many beside their controls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tw_lens.analyses import fit_projection, trajectory, trajectory_attribution
from tw_lens.canonical import States, Weights
from tw_lens.reading import Prompt
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.panels import Panel, Section, Table, refusal_panel
from tw_lens.rendering.widgets.circuitsvis import token_widget
from tw_lens.studies import PLACES, TARGETS, trajectory_alignment, trajectory_statistics

if TYPE_CHECKING:
    from tw_lens.analyses.projection import Method


def trajectory_section(weights: Weights, states: States, method: Method) -> Section:
    """The prompt's words travelling."""
    path = trajectory(weights, states)
    projection = fit_projection(weights, states, method=method)
    panels = (
        Panel(
            "How far does each word travel?",
            "Norm of the state, angle of each step on the sphere, arc length so far, and the angle "
            "between arriving and leaving, layer by layer, all measured in the original space. A "
            "straight walk turns by 0; a turn near π/2 is what random steps in many dimensions do.",
            lazy_figure(path),
            caveats=path.caveats,
        ),
        _movers_panel(weights, states),
        Panel(
            "Which words move, layer by layer?",
            "The darker a token, the further it moves from the layer chosen. Choose a layer by its "
            "name; hover for the angle in radians.",
            lazy_widget(token_widget(path), "tokens by their step angle, layer by layer"),
        ),
        Panel(
            "The paths among the words",
            "Every state under the final norm, drawn flat among the words it passes; hover to see "
            "what the model would read at each layer. Trust the drawing as far as the figure above "
            "it says, and the numbers before the drawing. Drag the slider or press Play to follow "
            "the words (diamonds) through the layers.",
            lazy_figure(path, projection),
            caveats=projection.caveats,
        ),
    )
    return Section("walk", "The words travelling", panels)


def prompts_section(model: Any, prompts: list[Prompt]) -> Section:
    """Many sentences travelling, beside their controls."""
    found, counted = trajectory_alignment(model, prompts), trajectory_statistics(model, prompts)
    rows = []
    for place in PLACES:
        for target in TARGETS:
            fall, low, high = found.fall_of(target, place)
            ends = f"{low:.3f} to {high:.3f}"
            rows.append((place, target, round(fall, 3), ends, found.verdict(target, place)))
    columns = ("place", "towards", "falls by (rad)", "95 % interval", "beside controls")
    panels = (
        Panel(
            "Does a word approach what follows it?",
            "The angle from a word's state to the last state, to the next state and to the next "
            "token's readout direction, over the layers. A line that falls is an approach; it "
            "counts for the successor only where it falls more than towards other words of the "
            "same sentence, near ones too, and than in every control.",
            lazy_figure(found),
            caveats=found.caveats,
        ),
        Panel(
            "What can be claimed?",
            "The fall from the first layer to the last. Above control: more than towards other "
            "words, than for random steps, than in the same architecture with random weights, and "
            "steadier than with the layers shuffled, each for certain (95 % over sentences).",
            table=Table("the approach in numbers", columns, tuple(rows), (None,) * len(rows)),
        ),
        Panel(
            "How do words travel?",
            f"Every measure of the walk over {counted.n_prompts} sentences, the mean with its "
            "interval, beside three controls: the same steps in another order, random steps of the "
            "same lengths, and the same architecture with random weights.",
            lazy_figure(counted),
            caveats=counted.caveats,
        ),
    )
    return Section("sentences", "Many sentences travelling", panels)


def _movers_panel(weights: Weights, states: States) -> Panel:
    title = "Who moved the words?"
    try:
        moved = trajectory_attribution(weights, states)
    except ValueError as refusal:  # half precision: the parts miss the step by its rounding
        return refusal_panel(title, refusal)
    return Panel(
        title,
        "Every step taken apart into what each head and the MLP added, as signed shares of the "
        "step: blue pushed the way the words went, red held them back. The parts add up to the "
        f"step to {moved.residual_error:.0e}.",
        lazy_figure(moved),
        caveats=moved.caveats,
    )
