"""Faithfulness in the words of the page: its definition, its means, and that of one head."""

from __future__ import annotations

from tw_lens.canonical import HeadFaithfulness
from tw_lens.results.arguments import Circuit
from tw_lens.results.base import correlation_text, unsigned_zero
from tw_lens.results.token_source import TokenSource

DEFINITION = (
    "Faithfulness r: how well the points of tokens predict the running model on held-out text (QK: "
    "correlation of attention scores; OV: cosine of what a head writes). Floor: r with the points "
    "of permuted tokens, which know positions and nothing of the words."
)


def by_layer(found: HeadFaithfulness, circuit: Circuit) -> str:
    """Return the mean over all heads with its floor, and the lowest and the highest layer."""
    layers = sorted(set(found.heads[:, 0].tolist()))
    means = {layer: found.mean("value", circuit, [layer]) for layer in layers}
    means = {layer: mean for layer, mean in means.items() if mean == mean}
    r, floor = (found.mean(field, circuit, layers) for field in ("value", "floor"))
    text = f"{circuit} {correlation_text(r, floor)}"
    if not means:
        return text
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    if low == high:
        return text
    return f"{text}, from {means[low]:.2f} in layer {low} to {means[high]:.2f} in layer {high}"


def of_head(source: TokenSource, layer: int, head: int, circuit: Circuit) -> str:
    """Return the faithfulness of one circuit of a head, its interval, and its floor."""
    found = source.faithfulness
    if found is None or not len(found.columns([layer], head)):
        return "Faithfulness not measured."
    r = found.mean("value", circuit, [layer], head)
    low, high, floor = (
        found.mean(field, circuit, [layer], head) for field in ("low", "high", "floor")
    )
    if r != r:
        return "Faithfulness not defined (too few or equal states)."
    below = "" if low > floor or floor != floor else ", not above its floor"
    return (
        f"Faithfulness r = {r:.2f} [{low:.2f}, {high:.2f}] (floor "
        f"{'not defined' if floor != floor else unsigned_zero(floor)}){below}."
    )
