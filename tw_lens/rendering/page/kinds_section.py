"""The section of the page on kinds of heads, and a head's kinds as a sentence."""

from __future__ import annotations

from dataclasses import replace

from tw_lens.rendering.page.lazy_figures import lazy_figure
from tw_lens.rendering.page.panels import HeadTokens, Panel, Section, Table
from tw_lens.studies import HEAD_KINDS, HeadKinds

COLUMNS = ("head", "kind", "from weights", "p", "in use")
POSITIONAL = HEAD_KINDS[0], HEAD_KINDS[3]  # previous token, attention sink
AGREEMENT = ("kind", "heads, from weights", "heads, in use", "rank correlation", "AUC")


def kinds_section(kinds: HeadKinds) -> Section:
    """Return the map of kinds, how well weights predict use, and the heads of every kind."""
    heads = kinds.to_dataframe()
    heads = heads.query("claimed or in_use")
    rows = tuple(
        (row["component"], row["kind"], *map(_rounded, (row["from_weights"], row["p"])),
         _rounded(row["from_use"]))
        for row in heads.to_dict("records")
    )  # fmt: skip
    agreement = kinds.agreement().to_dict("records")
    text = "; ".join(
        f"{row['kind']} {row['auc']:.2f}" for row in agreement if row["auc"] == row["auc"]
    )
    table = tuple(
        (row["kind"], row["n_claimed"], row["n_in_use"], _rounded(row["rank_correlation"]),
         _rounded(row["auc"]))
        for row in agreement
    )  # fmt: skip
    panels = (
        Panel(
            "Kinds of heads, from weights and in use",
            "Above: scores from the weights, for sampled tokens at their points. Below: the same "
            "kinds where the model runs on random tokens, repeated once. Area under the curve of "
            f"the weights' score for the heads that show a kind in use: {text or 'not defined'}.",
            lazy_figure(kinds),
            table=Table("agreement of weights and use", AGREEMENT, table, (None,) * len(table)),
            caveats=kinds.caveats,
        ),
        Panel(
            "Heads of a known kind",
            "Every head that the weights claim, or that shows the kind in use. Search for a head "
            "or a kind.",
            table=Table(
                "heads of a known kind", COLUMNS, rows, (None,) * len(rows),
                filters=(("Kind", tuple(row[1] for row in rows)),),
            ),
        ),
    )  # fmt: skip
    return Section("kinds", "Kinds of heads", panels)


def add_kinds(panel: Panel, kinds: HeadKinds, layer: int) -> Panel:
    """Return a panel of all heads of a layer, their notes beginning with their kinds."""
    heads = []
    for h, tokens in enumerate(panel.heads):
        sentence = kinds_sentence(kinds, layer, h)
        sentence += _unread_sentence(tokens, kinds, layer, h)
        heads.append(replace(tokens, note=sentence + tokens.note))
    return replace(panel, heads=tuple(heads))


def _unread_sentence(tokens: HeadTokens, kinds: HeadKinds, layer: int, head: int) -> str:
    """Return that nothing which is listed reads a head, where that is so; "" otherwise."""
    readings = [tokens, *(other for _, other in tokens.more)]
    column = kinds.heads.index((layer, head))
    found = (kinds.claimed() | kinds.shown_in_use())[:, column]
    by_position = any(found[HEAD_KINDS.index(kind)] for kind in POSITIONAL)
    if by_position or any(one.above_chance is not False for one in readings):
        return ""
    return (
        "No word and no position reads this: its lists exceed the covariance-matched null no more "
        "often than by chance, and it is of no kind that attends by position. "
    )


def kinds_sentence(kinds: HeadKinds, layer: int, head: int) -> str:
    """Return the kinds of a head, from weights and in use."""
    column = kinds.heads.index((layer, head))
    shown = kinds.shown_in_use()[:, column]
    found = {
        "from its weights": kinds.kinds_of(layer, head),
        "in use": tuple(kind for kind, is_one in zip(HEAD_KINDS, shown, strict=True) if is_one),
    }
    parts = [f"{' and '.join(names)} {where}" for where, names in found.items() if names]
    return f"Kind: {'; '.join(parts)}. " if parts else "Of no known kind. "


def _rounded(value: float) -> float | str:
    return "" if value != value else round(value, 3)
