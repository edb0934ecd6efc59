"""The panel on neurons: those that move the prompt's tokens, and what they read and write."""

from __future__ import annotations

from tw_lens.analyses import NeuronTable, neuron_table, trajectory_attribution
from tw_lens.canonical import LayerVocabulary, States, Weights
from tw_lens.rendering.figures.null_markers import null_marker
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.panels import Panel, Table, refusal_panel
from tw_lens.rendering.widgets.circuitsvis import token_widget
from tw_lens.tokens import visible

TITLE = "Neurons that move the last token"
SHOWN, LISTED = 5, 10
SIDES = {"gate": "gate", "in": "reads", "out": "writes"}


def neurons_panel(
    weights: Weights, states: States, vocabulary: LayerVocabulary | None = None
) -> Panel:
    """Return the panel: the leading neurons of every layer, and a table of those with most."""
    try:
        neurons = trajectory_attribution(weights, states, neurons=SHOWN).neurons
        assert neurons is not None
        leading = {(la, n): share for la, n, share in neurons.largest[:LISTED] if share == share}
        tables = []
        for layer in sorted({layer for layer, _ in leading}):
            known = vocabulary is not None and layer in vocabulary.layers
            tables.append(
                neuron_table(
                    weights, layer=layer, vocabulary=vocabulary if known else None,
                    neurons=[neuron for of, neuron in leading if of == layer],
                )
            )  # fmt: skip
    except ValueError as refusal:
        return refusal_panel(TITLE, refusal)
    sides = [side for side in SIDES if any(side in table.sides for table in tables)]
    rows = []
    for table in tables:
        for i, component in enumerate(table.components):
            share = round(100 * leading[table.layer, table.neurons[i]], 1)
            rows.append((component, share, *_cells(table, sides, i)))
    columns = [name for side in sides for name in (SIDES[side], "coherence")]
    return Panel(
        TITLE,
        "The MLP's share of each step, split over its neurons: the leading ones of the last "
        "position, and the sum of the others. The table lists the neurons with the largest mean "
        "share (by absolute value) over the positions after the first, with the tokens whose "
        "points give their gate and input the largest values, and the tokens whose logits they "
        "raise most. In the line of tokens choose a neuron by its name: blue tokens "
        "move along their step by it, red ones against.",
        lazy_figure(neurons, len(states) - 1)
        + lazy_widget(token_widget(neurons), "tokens colored by one neuron's share of their step"),
        note="neuron_examples tests on text how well such lists predict what drives a neuron.",
        table=Table(
            "leading neurons of the prompt", ("neuron", "mean share (%)", *columns), tuple(rows),
            (None,) * len(rows),
        ),
        caveats=tuple(
            dict.fromkeys([*neurons.caveats, *(c for table in tables for c in table.caveats)])
        ),
    )  # fmt: skip


def _cells(table: NeuronTable, sides: list[str], i: int) -> list[str]:
    """Return the tokens and the coherence of one neuron on every side; "" for a missing side."""
    cells = []
    for side in sides:
        lists = table.sides.get(side)
        cells.append("" if lists is None else " ".join(map(visible, lists.token_string[i])))
        cells.append("" if lists is None else null_marker(lists, i).text)
    return cells
