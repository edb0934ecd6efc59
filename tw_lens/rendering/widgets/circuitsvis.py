"""CircuitsVis widgets, offline: the script once per page, properties as escaped JSON."""

from __future__ import annotations

import html
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import uuid4

from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses import AttentionPattern, StepNeurons, Trajectory, TrajectoryAttribution
from tw_lens.analyses.neuron_points import neuron_label
from tw_lens.analyses.step_parts import is_head
from tw_lens.arguments import checked
from tw_lens.rendering.figures.style import LIGHT_RED_TO_BLUE, MUCH, json_in_script, to_lists
from tw_lens.tokens import visible

NEURONS_SHOWN = 20  # of the neurons with the largest mean shares
OPENING_CHARACTERS = str.maketrans({"<": "<\u200b", "&": "&\u200b"})


def neutralise_html(token: str) -> str:
    """Return a token for components that parse HTML: nothing in it opens a tag or an entity."""
    return visible(token).translate(OPENING_CHARACTERS)


# CircuitsVis reserves 600 pixels below a widget for its tooltips.
FRAME_STYLE = (
    "body { margin: 0; background: white; font-family: sans-serif }"
    ".widget > div { padding-bottom: 90px !important }"
)
RESIZE_FRAME = (
    "new ResizeObserver(() => { try {"
    ' frameElement.style.height = document.querySelector(".widget").scrollHeight + "px";'
    " } catch { /* a frame without access to its notebook */ } }).observe(document.body);"
)


@dataclass(frozen=True, repr=False)
class Widget:
    """A CircuitsVis component with its properties; notebooks show it in a frame."""

    component: str
    properties: dict[str, Any]
    height: int = 420

    def __repr__(self) -> str:
        return f"Widget({self.component}, for notebooks and pages)"

    def fragment(self) -> str:
        """Return HTML for a page that holds `circuitsvis_script()` once, before it."""
        name = f"circuitsvis-{uuid4().hex[:12]}"
        properties = json_in_script(self.properties)
        call = f'CircuitsVis.render("{name}", CircuitsVis.{self.component}, {properties});'
        return f'<div id="{name}" class="widget"></div>\n<script>{call}</script>'

    def _repr_html_(self) -> str:
        """Return an iframe that shares nothing with other cells and has an initial height.

        Where the notebook permits it, the frame then takes the height of its content.
        """
        page = (
            f'<!doctype html><meta charset="utf-8"><style>{FRAME_STYLE}</style><body>'
            f"<script>{circuitsvis_script()}</script>\n{self.fragment()}"
            f"<script>{RESIZE_FRAME}</script></body>"
        )
        return (
            f'<iframe srcdoc="{html.escape(page)}" width="100%" height="{self.height}" '
            'style="border: 0" title="CircuitsVis"></iframe>'
        )


@lru_cache(maxsize=1)
def circuitsvis_script() -> str:
    """Return the script of the installed CircuitsVis, safe inside a script element."""
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("circuitsvis")
    if spec is None or spec.origin is None:
        raise ImportError("circuitsvis is not installed; run pip install circuitsvis.")
    script = Path(spec.origin).parent / "dist" / "cdn" / "iife.js"
    return script.read_text(encoding="utf-8").replace("</script", "<\\/script")


@checked
def attention_widget(result: AttentionPattern) -> Widget:
    """Return a widget of a layer's attention patterns: thumbnails to choose from, one in full.

    Args:
        result: from `attention_pattern`.

    Example:
        >>> from tw_lens import attention_pattern
        >>> attention_widget(attention_pattern(weights, states, layer=0))
        Widget(AttentionHeads, for notebooks and pages)
    """
    if result.key_strings != result.token_strings:
        raise ValueError(
            "the widget shows a text that attends to itself, and cross-attention attends to a "
            "source; draw it with .plot()."
        )
    names = list(result.components)
    tokens = [neutralise_html(token) for token in result.token_strings]
    return Widget(
        "AttentionHeads",
        {
            "attention": to_lists(result.pattern, 3),
            "attentionHeadNames": names,
            "tokens": tokens,
            "maskUpperTri": result.causal,
            "positiveColor": MUCH,
        },
        height=900,
    )


@checked
def token_widget(
    result: Trajectory | TrajectoryAttribution | StepNeurons, component: str | None = None
) -> Widget:
    """Return a widget of a prompt's tokens, colored by their value at a layer or neuron to choose.

    Of a `Trajectory`, the value is the angle of the step from that layer on, in radians. Of a
    `TrajectoryAttribution`, it is the signed share of the step of one component, blue along the
    step and red against it. Of `StepNeurons` (an attribution's `neurons`), it is the same share of
    one of the neurons with the largest mean shares, as "L5N123". Hovering over a token lists its
    values of all layers or neurons.

    Args:
        result: from `trajectory` or `trajectory_attribution`.
        component: of an attribution, in every layer: "MLP" (the default), "H3", another of its
            `components`, or "heads" for the sum over the heads; or in one layer, as in its table:
            "L5H3", "L5 MLP".

    Raises:
        ValueError: the attribution has no such component, or the result has no components.

    Example:
        >>> from tw_lens import trajectory
        >>> token_widget(trajectory(weights, states))
        Widget(ColoredTokensMulti, for notebooks and pages)
    """
    if isinstance(result, TrajectoryAttribution):
        layers, values = _shares(result, "MLP" if component is None else component)
        labels = [f"layer {layer}" for layer in layers]
    elif component is not None:
        raise ValueError(
            f"component={component!r} chooses a part of an attribution, and the result is a "
            f"{type(result).__name__}; leave it out."
        )
    elif isinstance(result, StepNeurons):
        values = result.largest_share[:NEURONS_SHOWN]
        labels = [
            neuron_label(la, n, result.model_name) for la, n, _ in result.largest[:NEURONS_SHOWN]
        ]
    else:
        values = _step_angles(result)
        labels = [f"layer {layer}" for layer in range(len(values))]
    return Widget(
        "ColoredTokensMulti",
        {
            "tokens": [neutralise_html(token) for token in result.token_strings],
            "values": to_lists(values.nan_to_num(0.0).T, 4),
            "labels": labels,
            "positiveColor": MUCH if isinstance(result, Trajectory) else LIGHT_RED_TO_BLUE[-1],
            "negativeColor": LIGHT_RED_TO_BLUE[0],
        },
        height=160 + 24 * len(values),  # hovering over a token lists all its values
    )


def _step_angles(path: Trajectory) -> Float[Tensor, "n_layers position"]:
    return path.values["step_angle"][:-1]


def _shares(
    attribution: TrajectoryAttribution, component: str
) -> tuple[list[int], Float[Tensor, "layers position"]]:
    """The layers and shares of one component: of every layer, or of the layer in its name."""
    share, names = attribution.share, attribution.components
    layers = list(range(len(share)))
    heads = [is_head(name) for name in names]
    if component == "heads" and any(heads):
        return layers, share[:, heads].nansum(1)
    if component in names:
        return layers, share[:, names.index(component)]
    for layer, c in (~share.isnan().all(-1)).nonzero().tolist():
        if attribution.label(layer, c) == component:
            return [layer], share[layer, c][None]
    expected = ", ".join(map(repr, [*names, *["heads"] * any(heads)]))
    raise ValueError(
        f"unknown component {component!r}; expected one of {expected}, or one of a layer, as in "
        "the table: 'L0 MLP'."
    )
