"""The section of the page on the tokens: embeddings on the sphere, and their norms."""

from __future__ import annotations

from tw_lens.analyses import embedding_distances, token_norms
from tw_lens.canonical import Weights
from tw_lens.rendering.page.lazy_figures import lazy_figure
from tw_lens.rendering.page.panels import Panel, Section


def tokens_section(weights: Weights) -> Section:
    """Return the section on embeddings on the sphere and token norms."""
    distances = embedding_distances(weights)
    norms = token_norms(weights)
    panels = [
        Panel(
            "Distance between embeddings and their normalised form",
            "Normalisation projects every embedding onto one sphere of radius √d. The bars compare "
            "the normalised embeddings with the embeddings themselves, centred, scaled, and both: "
            "a short bar means that this simpler change comes close to the normalisation.",
            lazy_figure(distances),
            caveats=distances.caveats,
        ),
        Panel(
            "Token norms under the final norm",
            "The largest logit that any state on the sphere can give each token, under the final "
            "norm's gain and bias. Top tokens can receive the largest logits, bottom tokens the "
            "smallest.",
            lazy_figure(norms),
            caveats=norms.caveats,
        ),
    ]
    if not weights.processed:
        panels += _published_norm_panels(weights)
    return Section("tokens", "Tokens on the sphere", tuple(panels))


def _published_norm_panels(weights: Weights) -> list[Panel]:
    panels = []
    for scale, bias in ((False, False), (True, False), (False, True), (True, True)):
        if bias and not weights.readout.norm.bias.any():
            continue  # a norm without a bias gives the same numbers again
        norms = token_norms(weights, scale=scale, bias=bias, convention="published")
        panels.append(
            Panel(
                f"Token norms, published convention: {norms.scheme.replace('_', ' ')}",
                "The length of each embedding, with the final norm's gain or bias as named. "
                "Numbers in brackets are token ids.",
                lazy_figure(norms),
                folded=True,
            )
        )
    return panels
