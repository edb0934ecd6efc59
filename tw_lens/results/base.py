"""Base class of the results: headline, table, figure and notebook HTML."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from functools import singledispatch
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tw_lens.errors import Caveat
from tw_lens.tokens import named
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FIGURES = "tw_lens.rendering.figures"
STACK_NAME = re.compile(r" \((encoder|decoder|cross)\)$")  # how the name of a stack's model ends
STACK_LETTERS = {"encoder": "E", "decoder": "D", "cross": "D"}


def layer_label(layer: int, model_name: str = "") -> str:
    """Return a layer's label: "L5", or "EL5" and "DL5" in the stacks of an encoder-decoder.

    Args:
        layer: the layer's number.
        model_name: the model's, which names the stack (see `stack`).
    """
    found = STACK_NAME.search(model_name)
    return f"{'' if found is None else STACK_LETTERS[found[1]]}L{layer}"


def component_label(layer: int, head: int | None, model_name: str = "") -> str:
    """Return a head's label, "L5H1", or that of a whole layer, "L5".

    In an encoder-decoder "EL5H1" and "DL5H1", and "DL5X1" for a head of cross-attention.
    """
    letter = "X" if model_name.endswith("(cross)") else "H"
    return layer_label(layer, model_name) + ("" if head is None else f"{letter}{head}")


def head_columns(layer: int, head: int | None, model_name: str) -> dict[str, Any]:
    """Return the first columns of every head table: layer, head (None for a layer), component."""
    label = component_label(layer, head, model_name)
    return {"layer": layer, "head": head, "component": label}


def plural(n: int, noun: str) -> str:
    """Return a count with its noun: "1 head", "4 heads"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def correlation_text(r: float, floor: float) -> str:
    """Return a faithfulness and its floor in words: "r = 0.93 (floor 0.10)"."""
    if math.isnan(r):
        return "r not defined (too few or equal states)"
    return f"r = {r:.2f} (floor {'not defined' if math.isnan(floor) else unsigned_zero(floor)})"


def unsigned_zero(value: float) -> str:
    """Return a number with two decimals, 0.00 for what rounds to 0 from below."""
    return f"{round(value, 2) + 0:.2f}"


def dropped_summary(dropped: Sequence[str]) -> str:
    """Return the words that are not a single token, as a clause for a headline; "" for none."""
    return f", {len(dropped)} dropped: {named(dropped)}" if dropped else ""


class HeadComponents:
    """The labels of a result on heads of one layer."""

    model_name: str
    layer: int
    heads: Any

    @property
    def components(self) -> tuple[str, ...]:
        """The label of each head, "L5H1", and "L5" for the sum over heads."""
        return tuple(component_label(self.layer, head, self.model_name) for head in self.heads)

    @property
    def only_head(self) -> int | None:
        """The head of a result on a single one, None where there are several."""
        return self.heads[0] if len(self.heads) == 1 else None


@singledispatch
def figure(result: Any, *options: Any) -> Any:
    """Return the figure of a result; `FIGURES` registers one function per result class.

    It is imported at the first figure: results themselves know no picture.
    """
    import_module(FIGURES)
    draw = figure.dispatch(type(result))
    if draw is figure.dispatch(object):
        raise NotImplementedError(f"no figure is registered for {type(result).__name__}.")
    return draw(result, *options)


class Result:
    """A frozen result: `repr` (headline), `to_dataframe()` (tidy), `plot()` and `_repr_html_`."""

    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the result in one line."""
        raise NotImplementedError

    def to_dataframe(self) -> pd.DataFrame:
        """Return the result as a tidy table."""
        raise NotImplementedError

    @default_settings()
    def plot(self) -> go.Figure:
        """Return the result as a plotly figure, without showing it."""
        return figure(self)

    @default_settings()
    def __repr__(self) -> str:
        names = "; ".join(caveat.name for caveat in self.caveats)
        return f"{type(self).__name__}({self.headline()}){f' [{names}]' if names else ''}"

    @default_settings()
    def _repr_html_(self) -> str:
        notes = "".join(f"<br><small>{html.escape(str(c))}</small>" for c in self.caveats)
        table = self.to_dataframe().head(60).to_html(index=False, escape=True, border=0)
        return f"<p>{html.escape(self.headline())}{notes}</p>{table}"
