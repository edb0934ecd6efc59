"""Figure of neuron examples: the positions where neurons fire, in context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.rendering.figures.style import escape_token, token_table
from tw_lens.results import figure
from tw_lens.studies import NeuronExamples

if TYPE_CHECKING:
    import plotly.graph_objects as go

ROWS = 60


@figure.register(NeuronExamples)
def draw_neuron_examples(result: NeuronExamples) -> go.Figure:
    """Draw a table: each position with its activation, its token in bold, and the neuron's r."""
    rows = [
        (f"{component}<br>r = {float(r):.2f}", f"{example.activation:.3g}",
         f"{''.join(map(escape_token, example.before))}<b>{escape_token(example.token_string)}</b>"
         f"{''.join(map(escape_token, example.after))}")
        for component, examples, r in zip(
            result.components, result.examples, result.r, strict=True)
        for example in examples
    ]  # fmt: skip
    columns = zip(*rows[:ROWS], strict=True) if rows else ((), (), ())
    names = ("neuron", "activation", "context")
    shown = f" (first {ROWS} of {len(rows)})" if len(rows) > ROWS else ""
    title = f"Layer {result.layer}: where neurons fire in {result.n_prompts} prompts{shown}"
    return token_table(title, dict(zip(names, columns, strict=True)))
