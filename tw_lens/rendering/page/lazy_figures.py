"""Pictures of a page that are drawn when they come into view: a page of hundreds opens at once."""

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
    """A result's figure for the page: its data, and the place where the page's script draws it.

    The template all figures share is left out; the page holds it once (`shared_template`).
    """
    drawn = figure(result, *options)
    title = (drawn.layout.title.text or type(result).__name__).replace("<br>", ", ")
    height = int(drawn.layout.height or DEFAULT_HEIGHT)
    drawn.layout.template = None
    return _place("plotly", in_script(drawn.to_json()), html.unescape(title), height)


def lazy_widget(widget: Widget, label: str) -> Markup:
    """A CircuitsVis widget for the page, drawn by the page's script."""
    data = {"component": widget.component, "properties": widget.properties}
    return _place("circuitsvis", json_in_script(data), label, None)


def shared_template() -> str:
    """The template of all figures as JSON, safe inside a script element."""
    import plotly.io as pio

    return json_in_script(pio.templates["plotly_white"].to_plotly_json())


def _place(kind: str, data: str, label: str, height: int | None) -> Markup:
    from markupsafe import Markup

    style = "" if height is None else f' style="height:{height}px"'
    return Markup(
        f'<div class="deferred {kind}" data-kind="{kind}" role="figure" tabindex="0" '
        f'aria-label="{html.escape(label)}"{style}>'
        f'<script type="application/json">{data}</script></div>'
    )
