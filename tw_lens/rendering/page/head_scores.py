"""The parts of a head's scores on the prompt: a map of attention whose cells show them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tw_lens.analyses import AttentionPattern
from tw_lens.analyses.score_attribution import PairParts, parts_of_all_pairs
from tw_lens.canonical import States, Weights
from tw_lens.devices import moved
from tw_lens.rendering.figures.style import escape_token, to_lists
from tw_lens.rendering.page.lazy_figures import lazy_scores
from tw_lens.tokens import visible
from tw_lens.torch_settings import default_settings

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_POSITIONS, FEWEST_POSITIONS = 32, 4
PAIRS = 6_000  # of query and key on one page: about 160 bytes each
LISTED = 6


@dataclass(frozen=True)
class HeadScores:
    """A head's map of attention, and the pair with the most attention as a sentence."""

    figure: Markup
    sentence: str


def head_scores(
    weights: Weights, states: States, pattern: AttentionPattern, *, n_cards: int
) -> tuple[tuple[HeadScores, ...], str]:
    """Return the maps of a layer's heads; none, and the reason, where scores are no sums.

    `n_cards` is the number of maps on the page: with many, each shows fewer positions.
    """
    n = min(len(states), positions_shown(n_cards))
    try:
        with default_settings(weights.device):
            there = moved(states, weights.device)
            names, heads = parts_of_all_pairs(weights, there, pattern.layer, n)
            maps = [_of_head(one, names, pattern, n) for one in heads]
    except ValueError as refusal:
        return (), str(refusal)
    return tuple(maps), ""


def positions_shown(n_cards: int) -> int:
    """Return how many positions each map shows, so that all maps fit the page."""
    pairs_of_card = PAIRS // n_cards
    n = (math.isqrt(8 * pairs_of_card + 1) - 1) // 2  # n (n + 1) / 2 pairs
    return min(MOST_POSITIONS, max(FEWEST_POSITIONS, n))


def _of_head(
    scores: PairParts, names: tuple[str, ...], pattern: AttentionPattern, n: int
) -> HeadScores:
    cells, used = _with_used_parts(_scores(scores), names)
    attention, component = pattern.pattern[scores.head, :n, :n], pattern.components[scores.head]
    query, key = _most_attended(attention)
    tokens = [visible(token) for token in pattern.token_strings[:n]]
    data = {
        "head": component,
        "parts": used,
        "tokens": tokens,
        "labels": [f"{i} {escape_token(token)}" for i, token in enumerate(tokens)],
        "pattern": to_lists(attention, 3),
        "scores": cells,
        "first": [query, key],
    }
    sentence = (
        f"Most attention behind the first position: {float(attention[query, key]):.2f} from "
        f"{tokens[query]} ({query}) to {tokens[key]} ({key})."
        if key
        else "All attention is on the first position."
    )
    if n < len(pattern.token_strings):
        sentence += f" The first {n} positions are shown."
    label = f"attention of {component} with the parts of each score"
    return HeadScores(lazy_scores(data, label), sentence)


def _scores(head: PairParts) -> list[list[Any]]:
    """Return `[score, query parts, key parts]` for every key that a query sees, None elsewhere."""
    return [
        [
            [
                to_lists(head.score[i, j])[0],
                _largest(head.by_query[i, j]),
                _largest(head.by_key[i, j]),
            ]
            if seen
            else None
            for j, seen in enumerate(row)
        ]
        for i, row in enumerate(head.sees.tolist())
    ]


def _largest(parts: Tensor) -> list[list[Any]]:
    """Return the largest parts by absolute value, `[index, contribution]` each."""
    order = parts.abs().topk(min(LISTED, len(parts))).indices
    return [[int(i), to_lists(parts[i, None], 3)[0]] for i in order]


def _with_used_parts(
    scores: list[list[Any]], names: tuple[str, ...]
) -> tuple[list[list[Any]], list[str]]:
    """Return the scores with indices into the names that occur in them, and these names."""
    lists = [part for row in scores for cell in row if cell for part in cell[1:]]
    used = sorted({index for part in lists for index, _ in part})
    for part in lists:
        for pair in part:
            pair[0] = used.index(pair[0])
    return scores, [names[index] for index in used]


def _most_attended(attention: Tensor) -> tuple[int, int]:
    """Return query and key of the largest weight off the first position, if there is any."""
    inside = attention.clone()
    inside[:, 0] = 0
    query, key = divmod(int(inside.argmax()), inside.shape[-1])
    return query, key
