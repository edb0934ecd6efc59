"""Sections of the page on attention heads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tw_lens.analyses import (
    HeadSpectrum,
    attention_pattern,
    bias_directions,
    head_atlas,
    head_ellipsoid,
    head_probe,
    head_spectrum,
)
from tw_lens.analyses.degenerate_subspaces import DegenerateSubspaces, find_degenerate_subspaces
from tw_lens.canonical import LayerVocabulary, States, Weights, position_points
from tw_lens.devices import CPU, moved
from tw_lens.rendering.figures.null_markers import LEGEND, null_marker, significance_sentence
from tw_lens.rendering.page.kinds_section import add_kinds
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.panels import HeadTokens, Panel, Section, Table, refusal_panel
from tw_lens.rendering.page.score_panel import score_panel
from tw_lens.rendering.widgets.circuitsvis import attention_widget
from tw_lens.results.arguments import CIRCUITS, Circuit, Score
from tw_lens.studies import HeadKinds
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    import pandas as pd

N_DIRECTIONS = 10
SPECTRA: tuple[tuple[Circuit, Score], ...] = (
    ("QK", "dot"), ("OV", "standardised"), ("OV", "dot"),
)  # fmt: skip
STANDARDISED = (
    "Scores of written tokens are standardised: logits over their deviation for what the layer "
    "writes, so that tokens with long readout directions do not lead every list."
)
R_LEGEND = (
    "r: agreement of the tokens' points with the head on held-out text (QK: correlation of scores, "
    "OV: cosine of writes); empty where it was not measured."
)
ATLAS_COLUMNS = ("head", "circuit", "share (%)", "singular value", "query / read tokens",
                 "coherence", "key / written tokens", "coherence", "r")  # fmt: skip


def atlas_section(
    weights: Weights,
    layers: tuple[int, ...],
    vocabulary: LayerVocabulary | None = None,
) -> Section:
    """Return the section on all heads, with links to the heads of the layers on this page."""
    atlas = head_atlas(weights, n=1, vocabulary=vocabulary, score="standardised")
    rows, anchors = [], []
    table = atlas.to_dataframe()
    for i, row in enumerate(table.to_dict("records")):
        component, circuit = str(row["component"]), str(row["circuit"])
        share, value = round(100 * row["share"], 1), float(f"{row['singular_value']:.3g}")
        left, right = null_marker(atlas.left, i).text, null_marker(atlas.right, i).text
        tokens = (row["left_tokens"], left, row["right_tokens"], right)
        r = row["faithfulness"]
        rows.append((component, circuit, share, value, *tokens, "" if r != r else round(r, 2)))
        anchors.append(_anchor(component, circuit) if row["layer"] in layers else None)
    panels = (
        Panel(
            "Share of the spectrum in each head's leading direction",
            "The leading singular value over the sum of all singular values, for every head. A "
            "bright cell is a head dominated by one direction; hover for its top tokens.",
            lazy_figure(atlas),
        ),
        Panel(
            "Top tokens of each head's leading direction",
            "W_QK maps queries to keys; W_OV maps what is read to what is written. Search for a "
            "token or a head, filter by layer or circuit, or sort by a column; a linked head leads "
            f"to its token lists. {STANDARDISED} Their 50 commonest tokens take "
            f"{100 * atlas.hubness('OV', 'right'):.0f} % of the entries.",
            note=f"{LEGEND} {significance_sentence('here', atlas.left, atlas.right)} {R_LEGEND}",
            table=Table(
                "all heads of the model", ATLAS_COLUMNS, tuple(rows), tuple(anchors),
                _atlas_filters(table),
            ),
            caveats=atlas.caveats,
        ),
    )  # fmt: skip
    return Section("atlas", "Head atlas", panels)


def _atlas_filters(atlas: pd.DataFrame) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (name, tuple(map(str, atlas[column])))
        for name, column in (("Layer", "layer"), ("Circuit", "circuit"))
    )


def layer_section(
    weights: Weights,
    states: States,
    layer: int,
    words: list[int],
    vocabulary: LayerVocabulary | None = None,
    *,
    kinds: HeadKinds,
    folded: bool = False,
) -> Section:
    """Return the section on one layer's heads: probes, spectra, biases and attention."""
    qk, ov, ov_dot = (
        head_spectrum(
            weights, layer=layer, circuit=circuit, n=20, vocabulary=vocabulary, score=score
        )
        for circuit, score in SPECTRA
    )
    positions = None
    if weights.positions is not None:
        points = position_points(weights)
        positions = head_spectrum(weights, layer=layer, circuit="QK", n=20, points=points)
    pattern = attention_pattern(weights, states, layer=layer)
    panels = (
        *_probe_panels(weights, layer, words, vocabulary),
        add_kinds(_spectrum_panel(weights, qk, {"at learned positions": positions}), kinds, layer),
        add_kinds(_spectrum_panel(weights, ov, {"by dot products (logits)": ov_dot}), kinds, layer),
        *_ellipsoid_panels(weights, qk, words, vocabulary),
        _bias_panel(weights, layer, vocabulary),
        Panel(
            "Attention pattern on the prompt",
            "The attention pattern, recomputed from the canonical form: rows are query positions, "
            "columns key positions. Choose a head, and hover over its tokens.",
            lazy_widget(attention_widget(pattern), f"attention pattern of layer {layer}, by head"),
        ),
        score_panel(weights, states, pattern),
    )
    return Section(f"layer-{layer}", f"Layer {layer}: attention heads", panels, folded)


def _probe_panels(
    weights: Weights, layer: int, words: list[int], vocabulary: LayerVocabulary | None
) -> tuple[Panel, Panel]:
    keys, updates = (
        head_probe(weights, layer=layer, words=words, circuit=c, vocabulary=vocabulary)
        for c in CIRCUITS
    )
    return (
        Panel(
            "QK probe: highest-scoring key of each token",
            "Each token's query is mapped to the keys by W_QK. A cell shows the token whose key "
            "scores highest, and on hover the next ones with their coherence; color is the score "
            f"before the softmax. {significance_sentence('here', keys.lists)}",
            lazy_figure(keys),
            caveats=keys.caveats,
        ),
        Panel(
            "OV probe: tokens written for each token read",
            "The update that each head writes for a token, and the sum over the heads (last "
            "column), under the model's final norm and unembedding. Color is the logit. "
            f"{significance_sentence('here', updates.lists)}",
            lazy_figure(updates),
            caveats=updates.caveats,
        ),
    )


def _spectrum_panel(
    weights: Weights, spectrum: HeadSpectrum, more: dict[str, HeadSpectrum | None]
) -> Panel:
    """Return the panel of a spectrum; `more` are the same directions read otherwise, by name."""
    circuit, heads = spectrum.circuit, list(spectrum.heads)
    block = weights.block(spectrum.layer)
    with default_settings(weights.device):
        found = find_degenerate_subspaces(block, heads, circuit, n=N_DIRECTIONS)
    subspaces = moved(found, CPU)
    sides = {
        "QK": "Left tokens are queries, right tokens are keys.",
        "OV": "Left tokens are read, right tokens are written. " + STANDARDISED,
    }[circuit]
    heads_tokens = [
        replace(
            _head_tokens(spectrum, h, subspaces),
            more=tuple(
                (name, _head_tokens(other, h, subspaces))
                for name, other in more.items()
                if other is not None
            ),
        )
        for h in range(len(heads))
    ]
    return Panel(
        f"Singular directions of W_{circuit}",
        "The singular value decomposition of each head's matrix: bars are singular values, the "
        f"line is their cumulative share. {sides} Open a head for its top tokens.",
        lazy_figure(spectrum),
        note="A direction \u201cin 3-5\u201d lies in a near-degenerate subspace: rounding the "
        "weights to bfloat16 may rotate its directions into each other, and change their tokens. "
        f"{LEGEND if circuit == 'QK' else 'Coherence and symbols as above.'} "
        f"{significance_sentence('here', spectrum.left, spectrum.right)}",
        heads=tuple(heads_tokens),
        caveats=spectrum.caveats,
    )


def _head_tokens(spectrum: HeadSpectrum, h: int, subspaces: DegenerateSubspaces) -> HeadTokens:
    rows, markers = [], []
    for direction in range(min(spectrum.n, N_DIRECTIONS)):
        index = h * spectrum.n + direction
        value = float(spectrum.singular_values[h, direction])
        left, right = spectrum.left.token_string[index], spectrum.right.token_string[index]
        subspace = subspaces.label(h, direction)
        label = subspace if subspace == str(direction) else f"{direction} in {subspace}"
        rows.append((label, value, left, right))
        markers.append((null_marker(spectrum.left, index), null_marker(spectrum.right, index)))
    sides = ("query", "key") if spectrum.circuit == "QK" else ("read", "written")
    component, circuit = spectrum.components[h], spectrum.circuit
    name = f"{component} {circuit}"
    sentence = spectrum.token_source.sentence([spectrum.layer], [circuit], spectrum.heads[h])
    note = f"{sentence[:1].upper()}{sentence[1:]}."
    lists = range(h * spectrum.n, (h + 1) * spectrum.n)
    found = [side.above_chance(lists) for side in (spectrum.left, spectrum.right)]
    known = [one for one in found if one is not None]
    return HeadTokens(
        _anchor(component, circuit), name, sides, tuple(rows), tuple(markers), note,
        above_chance=any(known) if known else None,
    )  # fmt: skip


def _anchor(component: str, circuit: str) -> str:
    return f"{component}-{circuit}"


def _ellipsoid_panels(
    weights: Weights, spectrum: HeadSpectrum, words: list[int], vocabulary: LayerVocabulary | None
) -> tuple[Panel, ...]:
    if weights.d_head < 3:
        return ()
    head = int(spectrum.singular_values[:, 0].argmax())
    title = "Image of the unit sphere under W_QK: an ellipsoid"
    try:
        ellipsoid = head_ellipsoid(
            weights, layer=spectrum.layer, head=head, words=words, vocabulary=vocabulary
        )
    except ValueError as refusal:  # heads of zeros
        return (refusal_panel(title, refusal),)
    share = 100 * float(ellipsoid.share.mean())
    return (
        Panel(
            title,
            f"L{ellipsoid.layer}H{ellipsoid.head} has the largest singular value of the layer; the "
            "unit sphere of its three leading query directions becomes an ellipsoid on the key "
            f"side. Tokens are placed by their direction in this subspace, which holds {share:.1f} "
            "% of a token's squared length on average (hover for tokens without a label).",
            lazy_figure(ellipsoid),
            caveats=ellipsoid.caveats,
        ),
    )


def _bias_panel(weights: Weights, layer: int, vocabulary: LayerVocabulary | None) -> Panel:
    title = "Tokens favoured by the query and key biases"
    try:
        biases = bias_directions(weights, layer=layer, vocabulary=vocabulary)
    except ValueError as refusal:
        return refusal_panel(title, refusal)
    return Panel(
        title,
        "Biases add a constant part to every query and every key. Tokens along these directions "
        "are attended to (key) or attend (query) regardless of the text.",
        lazy_figure(biases),
        caveats=biases.caveats,
    )
