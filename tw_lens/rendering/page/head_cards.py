"""Cards of heads: all that the page says about one head of a layer, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tw_lens.analyses import (
    AttentionPattern,
    BiasDirections,
    HeadProbe,
    attention_pattern,
    bias_directions,
    head_ellipsoid,
    head_probe,
    head_spectrum,
)
from tw_lens.analyses.bias_directions import CELLS
from tw_lens.canonical import LayerVocabulary, States, Weights, position_points
from tw_lens.errors import Caveat
from tw_lens.rendering.figures.null_markers import null_marker, significance_sentence
from tw_lens.rendering.page.circuit_tokens import CircuitTokens, circuit_tokens
from tw_lens.rendering.page.head_scores import HeadScores, head_scores
from tw_lens.rendering.page.kinds_section import kind_table, kinds_sentence
from tw_lens.rendering.page.lazy_figures import lazy_figure, lazy_widget
from tw_lens.rendering.page.panels import TokenTable
from tw_lens.rendering.widgets.circuitsvis import attention_widget
from tw_lens.results.arguments import CIRCUITS
from tw_lens.results.base import component_label
from tw_lens.studies import HeadKinds

if TYPE_CHECKING:
    from markupsafe import Markup

N_LISTED = 20


@dataclass(frozen=True)
class HeadCard:
    """One head: its kinds, both circuits, what it does with words, and its attention.

    `unexplained` says why there is no map of attention. `picture` is the ellipsoid of the layer's
    strongest head, with its `caption`; None for the others.
    """

    anchor: str
    kinds: str
    circuits: tuple[CircuitTokens, ...]
    tables: tuple[TokenTable, ...]
    scores: HeadScores | None
    unexplained: str
    picture: Markup | None = None
    caption: str = ""


@dataclass(frozen=True)
class LayerCards:
    """The cards of one layer's heads, and what concerns all of them together."""

    layer: int
    cards: tuple[HeadCard, ...]
    together: TokenTable
    attention: Markup
    notes: tuple[str, ...]
    caveats: tuple[Caveat, ...]


def layer_cards(
    weights: Weights,
    states: States,
    layer: int,
    words: list[int],
    vocabulary: LayerVocabulary | None = None,
    *,
    kinds: HeadKinds,
    n_layers: int = 1,
) -> LayerCards:
    """Return the cards of one layer: spectra, probes, biases and attention of every head.

    Args:
        weights: from `read_weights`.
        states: the prompt's, from `read_states`.
        layer: an attention layer.
        words: ids of the tokens that are probed.
        vocabulary: points of the tokens; embeddings by default.
        kinds: the kinds of all heads.
        n_layers: number of layers with cards on the page; with many, cards hold fewer positions.
    """
    qk = head_spectrum(weights, layer=layer, circuit="QK", n=N_LISTED, vocabulary=vocabulary)
    ov, ov_dot = (
        head_spectrum(
            weights, layer=layer, circuit="OV", n=N_LISTED, vocabulary=vocabulary, score=score
        )
        for score in ("standardised", "dot")
    )
    more_qk = {}
    if weights.positions is not None:
        points = position_points(weights)
        more_qk["at learned positions"] = head_spectrum(
            weights, layer=layer, circuit="QK", n=N_LISTED, points=points
        )
    circuits = zip(
        circuit_tokens(weights, qk, more_qk, kinds),
        circuit_tokens(weights, ov, {"by dot products (logits)": ov_dot}, kinds),
        strict=True,
    )
    keys, updates = (
        head_probe(weights, layer=layer, words=words, circuit=c, vocabulary=vocabulary)
        for c in CIRCUITS
    )
    biases, why_not = _biases(weights, layer, vocabulary)
    pattern = attention_pattern(weights, states, layer=layer)
    scores, unexplained = head_scores(weights, states, pattern, n_cards=n_layers * len(qk.heads))
    strongest = int(qk.singular_values[:, 0].argmax())
    ellipsoid, caption = _ellipsoid(weights, layer, strongest, words, vocabulary)
    cards = tuple(
        HeadCard(
            component_label(layer, head, weights.model_name),
            kinds_sentence(kinds, layer, head),
            both,
            (_probe_table(keys, updates, head), *_bias_tables(biases, head),
             kind_table(kinds, layer, head)),
            scores[head] if scores else None,
            unexplained[:1].upper() + unexplained[1:],
            *((ellipsoid, caption) if head == strongest else (None, "")),
        )
        for head, both in zip(qk.heads, circuits, strict=True)
    )  # fmt: skip
    caveats = dict.fromkeys(
        [*qk.caveats, *ov.caveats, *keys.caveats, *updates.caveats,
         *(() if biases is None else biases.caveats)]
    )  # fmt: skip
    directions = (qk.left, qk.right, ov.left, ov.right)
    faithful = qk.token_source.agreement([layer], CIRCUITS)
    notes = (
        "" if faithful is None else f"Faithfulness: {faithful}.",
        significance_sentence("of the directions of this layer", *directions),
        significance_sentence("of its probes", keys.lists, updates.lists),
        why_not,
    )
    return LayerCards(
        layer, cards, _together(updates), _attention(pattern), tuple(filter(None, notes)),
        tuple(caveats),
    )  # fmt: skip


def _attention(pattern: AttentionPattern) -> Markup:
    label = f"attention pattern of layer {pattern.layer}, by head"
    return lazy_widget(attention_widget(pattern), label)


def _probe_table(keys: HeadProbe, updates: HeadProbe, head: int) -> TokenTable:
    """Return what each word attends to most, and what is written for it, through one head."""
    n, rows = len(keys.words), []
    for w in dict(zip(reversed(keys.word_index), reversed(range(n)), strict=True)).values():
        cells = [(keys.words[w],)]
        for probe in (keys, updates):
            index = probe.heads.index(head) * n + w
            cells += [probe.lists.token_string[index], null_marker(probe.lists, index)]
        rows.append(tuple(cells))
    columns = ("word", "keys it scores highest", "coherence", "tokens written for it", "coherence")
    return TokenTable("words through this head", columns, tuple(reversed(rows)))


def _together(updates: HeadProbe) -> TokenTable:
    """Return what all heads of the layer write together for each word."""
    n, rows = len(updates.words), []
    for w, word in enumerate(updates.words):
        index = updates.heads.index(None) * n + w
        marker = null_marker(updates.lists, index)
        rows.append(((word,), updates.lists.token_string[index], marker))
    columns = ("word", "tokens written for it by all heads", "coherence")
    return TokenTable("sum over the heads", columns, tuple(rows))


def _biases(
    weights: Weights, layer: int, vocabulary: LayerVocabulary | None
) -> tuple[BiasDirections | None, str]:
    """Return the bias directions of a layer, or why it has none."""
    try:
        return bias_directions(weights, layer=layer, vocabulary=vocabulary), ""
    except ValueError as refusal:
        reason = str(refusal).partition(": ")[2] or str(refusal)
        return None, reason[:1].upper() + reason[1:]


def _bias_tables(biases: BiasDirections | None, head: int) -> tuple[TokenTable, ...]:
    """Return the table of a head's bias directions; none where the model has no biases."""
    if biases is None:
        return ()
    first = biases.heads.index(head) * len(CELLS)
    rows = []
    for i, (side, sign) in enumerate(CELLS, start=first):
        tokens, marker = biases.lists.token_string[i], null_marker(biases.lists, i)
        rows.append((f"{sign.replace('-', chr(0x2212))}{side}", tokens, marker))
    columns = ("bias direction", "tokens favoured whatever the text", "coherence")
    return (TokenTable("query and key biases", columns, tuple(rows)),)


def _ellipsoid(
    weights: Weights, layer: int, head: int, words: list[int], vocabulary: LayerVocabulary | None
) -> tuple[Markup | None, str]:
    """Return the ellipsoid of a head with its caption; None where it has none."""
    if weights.d_head < 3:
        return None, ""
    try:
        found = head_ellipsoid(weights, layer=layer, head=head, words=words, vocabulary=vocabulary)
    except ValueError:  # a head of zeros
        return None, ""
    caption = (
        "The strongest head of its layer: W_QK maps the unit sphere of its three leading query "
        "directions to an ellipsoid on the key side. Tokens are placed by their direction in this "
        f"subspace, which holds {100 * float(found.share.mean()):.1f} % of a token's squared "
        "length on average."
    )
    return lazy_figure(found), caption
