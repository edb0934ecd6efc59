"""CircuitsVis, offline: its script once per page, its properties as JSON that cannot break out."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import AttentionPattern, Trajectory, TrajectoryAttribution
from tw_lens.rendering.figures.style import json_in_script, to_lists
from tw_lens.tokens import visible

READS_HTML = str.maketrans({"<": "<\u200b", "&": "&\u200b"})


def neutralise_html(token: str) -> str:
    """A token for components that read HTML: with nothing in it that opens a tag or an entity."""
    return visible(token).translate(READS_HTML)


# CircuitsVis leaves 600 pixels below a widget for its hints.
FRAME_STYLE = (
    "body { margin: 0; background: white; font-family: sans-serif }"
    ".widget > div { padding-bottom: 90px !important }"
)
FITTING = (
    "new ResizeObserver(() => { try {"
    ' frameElement.style.height = document.querySelector(".widget").scrollHeight + "px";'
    " } catch { /* a frame that may not see its notebook */ } }).observe(document.body);"
)


@dataclass(frozen=True, repr=False)
class Widget:
    """A CircuitsVis component with its properties."""

    component: str
    properties: dict[str, Any]
    height: int = 420

    def __repr__(self) -> str:
        return f"Widget({self.component}, for notebooks and pages)"

    def fragment(self) -> str:
        """HTML for a page that holds `circuitsvis_script()` once, before it."""
        name = f"circuitsvis-{uuid4().hex[:12]}"
        properties = json_in_script(self.properties)
        call = f'CircuitsVis.render("{name}", CircuitsVis.{self.component}, {properties});'
        return f'<div id="{name}" class="widget"></div>\n<script>{call}</script>'

    def _repr_html_(self) -> str:
        """A frame of its own: nothing shared with other cells, a height from the start.

        Where the notebook lets it, the frame then takes the height of what it holds.
        """
        page = (
            f'<!doctype html><meta charset="utf-8"><style>{FRAME_STYLE}</style><body>'
            f"<script>{circuitsvis_script()}</script>\n{self.fragment()}"
            f"<script>{FITTING}</script></body>"
        )
        return (
            f'<iframe srcdoc="{html.escape(page)}" width="100%" height="{self.height}" '
            'style="border: 0" title="CircuitsVis"></iframe>'
        )


@lru_cache(maxsize=1)
def circuitsvis_script() -> str:
    """The script of the installed CircuitsVis, safe inside a script element."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("circuitsvis")
    if spec is None or spec.origin is None:
        raise ImportError("circuitsvis is not installed: pip install circuitsvis.")
    script = Path(spec.origin).parent / "dist" / "cdn" / "iife.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")


def attention_widget(result: AttentionPattern) -> Widget:
    """Attention patterns of a layer's heads: small ones to choose from, one in full.

    Example:
        >>> from tw_lens import attention_pattern
        >>> attention_widget(attention_pattern(weights, states, layer=0))
        Widget(AttentionHeads, for notebooks and pages)
    """
    names = list(result.components)
    tokens = [neutralise_html(token) for token in result.token_strings]
    return Widget(
        "AttentionHeads",
        {
            "attention": to_lists(result.pattern, 3),
            "attentionHeadNames": names,
            "tokens": tokens,
            "maskUpperTri": result.causal,
        },
        height=900,
    )


def token_widget(result: Trajectory | TrajectoryAttribution, component: str = "MLP") -> Widget:
    """A prompt's tokens colored layer by layer, the layer chosen by the reader.

    Of a `Trajectory`: by the angle of the step from that layer on, in radians. Of `TrajectoryAttribution`: by the
    signed share of the step that a component moved (`MLP`, `H3`, or `heads` for their sum), blue,
    or red where it held the word back. Pointing at a token lists its values of all layers.

    Args:
        result: from `trajectory` or `trajectory_attribution`.
        component: whose share, of movers.

    Raises:
        ValueError: the attribution has no such component.

    Example:
        >>> from tw_lens import trajectory
        >>> token_widget(trajectory(weights, states))
        Widget(ColoredTokensMulti, for notebooks and pages)
    """
    values = _steps(result) if isinstance(result, Trajectory) else _shares(result, component)
    return Widget(
        "ColoredTokensMulti",
        {
            "tokens": [neutralise_html(token) for token in result.token_strings],
            "values": to_lists(values.nan_to_num(0.0).T, 4),
            "labels": [f"layer {layer}" for layer in range(len(values))],
        },
        height=160 + 24 * len(values),  # pointing at a token lists its values of all layers
    )


def _steps(path: Trajectory) -> Float[Tensor, "n_layers position"]:
    return path.values["step_angle"][:-1]


def _shares(movers: TrajectoryAttribution, component: str) -> Float[Tensor, "n_layers position"]:
    heads = [name.startswith("H") for name in movers.components]
    if component == "heads" and any(heads):
        return movers.share[:, heads].nansum(1)
    if component not in movers.components:
        raise ValueError(
            f"component={component!r} is none of {', '.join(movers.components)}, nor 'heads'."
        )
    return movers.share[:, movers.components.index(component)]
