"""The section of the page on kinds of heads, and one head's kinds for its card."""

from __future__ import annotations

from tw_lens.rendering.page.panels import Panel, Section, Table, TokenTable
from tw_lens.studies import HEAD_KINDS, HeadKinds
from tw_lens.studies.head_kinds_result import LEVEL, MATCHED, SHARE, TESTED, WRITES, WRITTEN

COLUMNS = ("head", "kind", "found", "score from weights", "p", "score in use")
FOUND = {(True, True): "both", (True, False): "claimed only", (False, True): "in use only"}
"""Whether the weights claim a kind, and whether the head shows it in use."""
NOTHING = "\u2013"
POSITIONAL = HEAD_KINDS[0], HEAD_KINDS[3]  # previous token, attention sink
AGREEMENT = ("kind", "heads claimed", "heads in use", "rank correlation", "AUC")


def kinds_section(kinds: HeadKinds, layers: tuple[int, ...]) -> Section:
    """Return how well weights predict use, and the heads of every kind, with links to cards."""
    heads = kinds.to_dataframe()
    heads = heads.query("claimed or in_use")
    rows = tuple(
        (row["component"], row["kind"], FOUND[row["claimed"], row["in_use"]],
         *map(_rounded, (row["from_weights"], row["p"], row["from_use"])))
        for row in heads.to_dict("records")
    )  # fmt: skip
    anchors = tuple(
        str(row["component"]) if row["layer"] in layers else None
        for row in heads.to_dict("records")
    )
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
            "Do weights predict use?",
            "Scores from the weights, for sampled tokens at their points, by which heads are "
            "claimed to be of a kind, against the same kinds in use, where the model runs on "
            "random tokens, repeated once. AUC: of the weights' score for the heads that show a "
            f"kind in use ({text or 'not defined'}). The map of heads shows "
            "both scores of every head.",
            table=Table("agreement of weights and use", AGREEMENT, table, (None,) * len(table)),
            caveats=kinds.caveats,
        ),
        Panel(
            "Heads of a known kind",
            "Every head that the weights alone claim to be of a kind, that shows the kind in use "
            "(where the model runs on repeated random tokens), or both. The column "
            "\u201cfound\u201d says which.",
            note=_cutoffs(),
            table=Table(
                "heads of a known kind", COLUMNS, rows, anchors,
                filters=(
                    ("Kind", tuple(row[1] for row in rows)),
                    ("Found", tuple(row[2] for row in rows)),
                ),
            ),
        ),
    )  # fmt: skip
    return Section("kinds", "Kinds of heads", panels)


def attends_by_position(kinds: HeadKinds, layer: int, head: int) -> bool:
    """Return whether a head is of a kind that attends by position, by weights or in use."""
    found = (kinds.claimed() | kinds.shown_in_use())[:, kinds.heads.index((layer, head))]
    return any(bool(found[HEAD_KINDS.index(kind)]) for kind in POSITIONAL)


def kinds_sentence(kinds: HeadKinds, layer: int, head: int) -> str:
    """Return the kinds of a head, from weights and in use."""
    column = kinds.heads.index((layer, head))
    shown = kinds.shown_in_use()[:, column]
    found = {
        "claimed by its weights": kinds.kinds_of(layer, head),
        "in use": tuple(kind for kind, is_one in zip(HEAD_KINDS, shown, strict=True) if is_one),
    }
    parts = [f"{where}: {' and '.join(names)}" for where, names in found.items() if names]
    return "; ".join(parts) if parts else "of no known kind"


def kind_table(kinds: HeadKinds, layer: int, head: int) -> TokenTable:
    """Return one head's scores for every kind."""
    column = kinds.heads.index((layer, head))
    rows = []
    for i, kind in enumerate(HEAD_KINDS):
        use = NOTHING if kinds.from_use is None else _rounded(float(kinds.from_use[i, column]))
        rows.append((kind, _rounded(float(kinds.from_weights[i, column])), use))
    return TokenTable("scores of kinds", ("kind", "from weights", "in use"), tuple(rows))


def _cutoffs() -> str:
    """Return from which scores on a kind is claimed or shown, and which kinds are tested."""
    places = ", ".join(kind for kind in HEAD_KINDS if kind not in TESTED)
    return (
        f"Claimed: a score from the weights of {SHARE:g} or more for {places} (mean attention to "
        f"that place), {MATCHED:g} for induction, {WRITES:g} for {' and '.join(WRITTEN)} (share of "
        f"other tokens that score lower, 0.5 by chance). In use: {WRITES:g} or more for "
        f"{' and '.join(WRITTEN)}, {SHARE:g} for the others. p: permutation test of the score from "
        f"the weights, {LEVEL:g} or less for a claim; {NOTHING} for {places}, which are claimed by "
        "their score alone."
    )


def _rounded(value: float) -> float | str:
    return NOTHING if value != value else round(value, 3)
