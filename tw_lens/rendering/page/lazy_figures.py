"""Lazy figures: placeholders that the page's script renders when they come into view."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from tw_lens.rendering.figures.style import in_script, json_in_script
from tw_lens.rendering.widgets.circuitsvis import Widget
from tw_lens.results import figure

if TYPE_CHECKING:
    from markupsafe import Markup

DEFAULT_HEIGHT = 420


def lazy_figure(result: Any, *options: Any) -> Markup:
    """Return a result's figure for the page: its data in a placeholder.

    The template that all figures share is left out; the page holds it once (`shared_template`).
    """
    fig = figure(result, *options)
    title = (fig.layout.title.text or type(result).__name__).replace("<br>", ", ")
    height = int(fig.layout.height or DEFAULT_HEIGHT)
    fig.layout.template = None
    return _placeholder("plotly", in_script(fig.to_json()), html.unescape(title), height)


def lazy_widget(widget: Widget, label: str) -> Markup:
    """Return a CircuitsVis widget for the page: its properties in a placeholder."""
    data = {"component": widget.component, "properties": widget.properties}
    return _placeholder("circuitsvis", json_in_script(data), label, None)


def lazy_scores(data: dict[str, Any], label: str) -> Markup:
    """Return a map of attention whose cells show the parts of a score (see `scores.js`)."""
    return _placeholder("scores", json_in_script(data), label, None)


def shared_template() -> str:
    """Return the template of all figures as JSON, safe inside a script element."""
    import plotly.io as pio

    return json_in_script(pio.templates["plotly_white"].to_plotly_json())


def _placeholder(kind: str, data: str, label: str, height: int | None) -> Markup:
    from markupsafe import Markup

    style = "" if height is None else f' style="height:{height}px"'
    return Markup(
        f'<div class="deferred {kind}" data-kind="{kind}" role="figure" tabindex="0" '
        f'aria-label="{html.escape(label)}"{style}>'
        f'<script type="application/json">{data}</script></div>'
    )
