"""The page's sections on words and heads: figures, widgets, word tables, and two sentences each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tw_lens.analyses import (
    HeadSpectrum,
    attention_pattern,
    bias_directions,
    embedding_distances,
    head_atlas,
    head_ellipsoid,
    head_probe,
    head_spectrum,
    token_norms,
)
from tw_lens.analyses.degenerate_subspaces import DegenerateSubspaces, find_degenerate_subspaces
from tw_lens.canonical import States, Weights
from tw_lens.rendering.figures.null_markers import LEGEND, mark, significance_sentence
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.panels import HeadTokens, Panel, Section, Table, refusal_panel
from tw_lens.rendering.widgets.circuitsvis import attention_widget

if TYPE_CHECKING:
    import pandas as pd

DIRECTIONS_LISTED = 10


def tokens_section(weights: Weights) -> Section:
    """The words on the sphere."""
    distances = embedding_distances(weights)
    panels = [
        Panel(
            "How far does the norm move a word?",
            "Normalising projects every embedding onto one sphere of radius √d. The bars compare "
            "the projected embeddings with the embeddings as they are, centred, scaled, and both: "
            "a short bar says that this simple change already does what the norm does.",
            lazy_figure(distances),
            caveats=distances.caveats,
        )
    ]
    exact = token_norms(weights)
    panels.append(
        Panel(
            "Which words are loudest?",
            "The largest logit that any state on the sphere can give each token, under the final "
            "norm's gain and bias. Tokens at the top can be shouted; those at the bottom can "
            "hardly be said.",
            lazy_figure(exact),
            caveats=exact.caveats,
        )
    )
    if not weights.processed:
        for scale, bias in ((False, False), (True, False), (False, True), (True, True)):
            if bias and not weights.readout.norm.bias.any():
                continue  # a norm without a bias: the same numbers again
            result = token_norms(weights, scale=scale, bias=bias, convention="published")
            panels.append(
                Panel(
                    f"Token norms as published: {result.scheme.replace('_', ' ')}",
                    "The length of each embedding, with the final norm's gain or bias as named. "
                    "Numbers in brackets are token ids.",
                    lazy_figure(result),
                )
            )
    return Section("words", "The words on the sphere", tuple(panels))


def atlas_section(weights: Weights, layers: tuple[int, ...]) -> Section:
    """Every head of the model in one table, which leads to the heads of the layers read here."""
    atlas = head_atlas(weights, n=1)
    rows, anchors = [], []
    table = atlas.to_dataframe()
    for at, row in enumerate(table.itertuples()):
        shares = (round(100 * row.share, 1), float(f"{row.singular_value:.3g}"))
        left, right = mark(atlas.left, at).text, mark(atlas.right, at).text
        rows.append(
            (row.component, row.circuit, *shares, row.left_tokens, left, row.right_tokens, right)
        )
        anchors.append(_anchor(row.component, row.circuit) if row.layer in layers else None)
    columns = ("head", "map", "share (%)", "strength", "query, or read", "coherence", "key, or written",
               "coherence")  # fmt: skip
    panels = (
        Panel(
            "Which heads have one strong direction?",
            "The share of its spectrum that each head's leading direction holds. A bright cell is "
            "a head that mostly does one thing; hover for its words.",
            lazy_figure(atlas),
        ),
        Panel(
            "What does each head connect?",
            "The words at both ends of every head's leading direction: W_QK brings queries to "
            "keys, W_OV turns what is read into what is written. Search for a word or a head, "
            "choose a layer or a map, sort by a column; heads that are links lead to their words.",
            note=f"{LEGEND} {significance_sentence('here', atlas.left, atlas.right)}",
            table=Table(
                "every head of the model", columns, tuple(rows), tuple(anchors), _kinds(table)
            ),
            caveats=atlas.caveats,
        ),
    )
    return Section("atlas", "The atlas of heads", panels)


def _kinds(atlas: pd.DataFrame) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """By what the heads can be chosen."""
    return tuple(
        (said, tuple(map(str, atlas[of]))) for said, of in (("Layer", "layer"), ("Map", "circuit"))
    )


def layer_section(
    weights: Weights,
    states: States,
    layer: int,
    words: list[int],
    *,
    folded: bool = False,
) -> Section:
    """A layer's heads as maps of the sphere."""
    spectra = {c: head_spectrum(weights, layer=layer, circuit=c, n=20) for c in ("QK", "OV")}
    pattern = attention_pattern(weights, states, layer=layer)
    panels = (
        *_probe_panels(weights, layer, words),
        *(_spectrum_panel(weights, spectrum) for spectrum in spectra.values()),
        *_ellipsoid_panels(weights, spectra["QK"], words),
        _bias_panel(weights, layer),
        Panel(
            "Where does each position look?",
            "Attention on the prompt, recomputed from the canonical form: rows are the positions "
            "that look, columns those looked at. Choose a head, and hover over its tokens.",
            lazy_widget(attention_widget(pattern), f"attention of layer {layer}, head by head"),
        ),
    )
    title = f"Layer {layer}: heads as maps of the sphere"
    return Section(f"layer-{layer}", title, panels, folded)


def _probe_panels(weights: Weights, layer: int, words: list[int]) -> tuple[Panel, Panel]:
    looks = head_probe(weights, layer=layer, words=words, circuit="QK")
    writes = head_probe(weights, layer=layer, words=words, circuit="OV")
    return (
        Panel(
            "What does a head look for when it stands on a word?",
            "Each word's query is brought to the keys by W_QK; the cell shows the word whose key "
            "scores highest, hover for the next ones and how alike they are. Color is the score "
            f"before the softmax. {significance_sentence('here', looks.lists)}",
            lazy_figure(looks),
            caveats=looks.caveats,
        ),
        Panel(
            "What does a head write when it reads a word?",
            "The update each head writes for a word, and the sum over the heads (last column), "
            "read by the model's own final norm and unembedding. Color is the logit. "
            f"{significance_sentence('here', writes.lists)}",
            lazy_figure(writes),
            caveats=writes.caveats,
        ),
    )


def _spectrum_panel(weights: Weights, spectrum: HeadSpectrum) -> Panel:
    circuit, heads = spectrum.circuit, list(spectrum.heads)
    block = weights.block(spectrum.layer)
    together = find_degenerate_subspaces(block, heads, circuit, n=DIRECTIONS_LISTED)
    what = {
        "QK": "Left words are queries, right words the keys they find.",
        "OV": "Left words are read, right words are written.",
    }[circuit]
    return Panel(
        f"Which words does W_{circuit} connect?",
        "Each head's matrix, taken apart into singular directions: bars are their strengths, the "
        f"line their share of the whole. {what} Open a head for its words.",
        lazy_figure(spectrum),
        note="A direction \u201cin 3-5\u201d is only known together with its neighbours: rounding "
        "the weights to bfloat16 may turn them into each other, and their words with them. "
        f"{LEGEND if circuit == 'QK' else 'Marks beside the words as above.'} "
        f"{significance_sentence('here', spectrum.left, spectrum.right)}",
        heads=tuple(_head_tokens(spectrum, h, together) for h in range(len(heads))),
        caveats=spectrum.caveats,
    )


def _head_tokens(spectrum: HeadSpectrum, h: int, together: DegenerateSubspaces) -> HeadTokens:
    rows, markers = [], []
    for direction in range(min(spectrum.n, DIRECTIONS_LISTED)):
        which = h * spectrum.n + direction
        value = float(spectrum.singular_values[h, direction])
        left, right = spectrum.left.token_string[which], spectrum.right.token_string[which]
        named = together.named(h, direction)
        label = named if named == str(direction) else f"{direction} in {named}"
        rows.append((label, value, left, right))
        markers.append((mark(spectrum.left, which), mark(spectrum.right, which)))
    sides = ("query", "key") if spectrum.circuit == "QK" else ("read", "written")
    component, circuit = spectrum.components[h], spectrum.circuit
    name = f"{component} {circuit}"
    return HeadTokens(_anchor(component, circuit), name, sides, tuple(rows), tuple(markers))


def _anchor(component: str, circuit: str) -> str:
    return f"{component}-{circuit}"


def _ellipsoid_panels(
    weights: Weights, spectrum: HeadSpectrum, words: list[int]
) -> tuple[Panel, ...]:
    if weights.d_head < 3:
        return ()
    head = int(spectrum.singular_values[:, 0].argmax())
    result = head_ellipsoid(weights, layer=spectrum.layer, head=head, words=words)
    return (
        Panel(
            "From the sphere to an ellipsoid",
            f"The head with the strongest direction (L{result.layer}H{result.head}): the sphere of "
            "its three leading query directions becomes an ellipsoid on the key side. Words are "
            "drawn by their direction within these three (hover for the names of crowded ones); "
            "they hold "
            f"{100 * float(result.share.mean()):.1f} % of a word's squared length on average.",
            lazy_figure(result),
            caveats=result.caveats,
        ),
    )


def _bias_panel(weights: Weights, layer: int) -> Panel:
    title = "What does a head look for when no word asks?"
    try:
        result = bias_directions(weights, layer=layer)
    except ValueError as absent:
        return refusal_panel(title, absent)
    return Panel(
        title,
        "Biases give every query and every key a constant part. The words along these constant "
        "directions are attended to (key) or attend (query) whatever the text says.",
        lazy_figure(result),
        caveats=result.caveats,
    )
