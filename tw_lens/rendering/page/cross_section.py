"""The section of a decoder's page on its cross-attention: what its heads read, on this prompt."""

from __future__ import annotations

from tw_lens.analyses import attention_pattern, head_atlas
from tw_lens.canonical import States, Weights
from tw_lens.rendering.page.atlas_section import atlas_panel
from tw_lens.rendering.page.lazy_figures import lazy_figure
from tw_lens.rendering.page.panels import Panel, Section
from tw_lens.results.base import component_label, layer_label
from tw_lens.tokens import visible

TITLE = "Cross-attention"
TABLE_TEXT = (
    "W_QK maps the decoder's tokens to the source's; W_OV maps what is read of the source to what "
    "is written to the decoder."
)


def cross_section(weights: Weights, states: States, layers: tuple[int, ...]) -> Section:
    """Return the section on cross-attention.

    Args:
        weights: of the cross-attention.
        states: of the decoder, beside its source.
        layers: the layers whose attention is drawn.
    """
    atlas = head_atlas(weights, n=1, score="standardised")
    table = atlas_panel(atlas, (), "Top tokens of each cross head's leading direction", TABLE_TEXT)
    return Section("crossing", TITLE, (table, *(_pattern(weights, states, la) for la in layers)))


def _pattern(weights: Weights, states: States, layer: int) -> Panel:
    """Return the attention of every head of a layer from the prompt to the source."""
    found = attention_pattern(weights, states, layer=layer)
    share = found.pattern.mean(1)
    head, key = divmod(int(share.argmax()), share.shape[1])
    return Panel(
        f"{layer_label(layer, weights.model_name)}: from the prompt (rows) to the source (columns)",
        f"{component_label(layer, head, weights.model_name)} attends to one source token most: "
        f"{visible(found.key_strings[key])} (position {key}) gets "
        f"{100 * float(share[head, key]):.0f} % of its attention on average.",
        lazy_figure(found),
    )
