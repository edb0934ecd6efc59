"""The panel that explains single scores: a map of attention whose cells show the parts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tw_lens.analyses import AttentionPattern
from tw_lens.analyses.score_attribution import PairParts, parts_of_all_pairs
from tw_lens.canonical import States, Weights
from tw_lens.devices import moved
from tw_lens.rendering.figures.style import escape_token, to_lists
from tw_lens.rendering.page.lazy_figures import lazy_scores
from tw_lens.rendering.page.panels import Panel, refusal_panel
from tw_lens.tokens import visible
from tw_lens.torch_settings import default_settings

TITLE = "Why this score: parts of query and key"
MOST_POSITIONS = 32
LISTED = 6


def score_panel(weights: Weights, states: States, pattern: AttentionPattern) -> Panel:
    """Return the panel of one layer: a head's attention, and the parts of the chosen score."""
    n = min(len(states), MOST_POSITIONS)
    try:
        with default_settings(weights.device):
            there = moved(states, weights.device)
            names, heads = parts_of_all_pairs(weights, there, pattern.layer, n)
            scores = [_head_scores(one) for one in heads]
    except ValueError as refusal:
        return refusal_panel(TITLE, refusal)
    tokens = states.token_strings[:n]
    data = {
        "heads": list(pattern.components),
        "parts": list(names),
        "tokens": [visible(token) for token in tokens],
        "labels": [f"{i} {escape_token(token)}" for i, token in enumerate(tokens)],
        "pattern": to_lists(pattern.pattern[:, :n, :n], 3),
        "scores": scores,
        "first": _most_attended(pattern.pattern[:, :n, :n]),
    }
    shown = "" if n == len(states) else f" The first {n} positions of the prompt are shown."
    return Panel(
        TITLE,
        "Choose a cell, or a head, a query and a key: the tables list the parts of the residual "
        "stream that give most of the score, above the mean of the query's keys. Query parts are "
        f"summed over all key parts, and key parts over all query parts.{shown}",
        lazy_scores(data, f"attention of layer {pattern.layer} with the parts of each score"),
    )


def _head_scores(head: PairParts) -> list[list[Any]]:
    """Return `[score, query parts, key parts]` for every key that a query sees."""
    rows = []
    for i, seen in enumerate(head.sees.tolist()):
        rows.append(
            [
                [to_lists(head.score[i, j])[0], _largest(head.by_query[i, j]),
                 _largest(head.by_key[i, j])] if visible_key else None
                for j, visible_key in enumerate(seen)
            ]
        )  # fmt: skip
    return rows


def _largest(parts: Tensor) -> list[list[Any]]:
    """Return the largest parts by absolute value, `[index, contribution]` each."""
    order = parts.abs().topk(min(LISTED, len(parts))).indices
    return [[int(i), to_lists(parts[i, None], 3)[0]] for i in order]


def _most_attended(pattern: Tensor) -> list[int]:
    """Return head, query and key of the largest weight off the first position, if there is any."""
    inside = pattern.clone()
    inside[..., 0] = 0
    n = pattern.shape[-1]
    head, pair = divmod(int(inside.argmax()), n * n)
    return [head, *divmod(pair, n)]
