"""The result of `head_kinds`: scores of every head for every kind, from weights and from use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.errors import Caveat
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.token_source import TokenSource
from tw_lens.torch_settings import default_settings

HeadKind = Literal[
    "previous token", "same token", "induction", "attention sink", "copying", "suppression"
]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
WRITTEN = ("copying", "suppression")
TESTED = ("induction", *WRITTEN)
"""Kinds whose claim needs a permutation test."""
SHARE, MATCHED, WRITES, LEVEL = 0.4, 0.9, 0.75, 0.01
"""A kind is claimed from this share of the attention, or of the tokens that score lower, at this
level: for what queries match (induction), and for what heads write."""


@dataclass(frozen=True, repr=False, eq=False)
class HeadKinds(Result):
    """Scores of every head for six kinds, from the weights and on token sequences.

    `from_weights` and `p` (NaN for kinds without a permutation test) have the axes kinds and heads;
    so has `from_use`, None without a model. See `head_kinds` for the scores.
    """

    model_name: str
    heads: tuple[tuple[int, int], ...]
    from_weights: Float[Tensor, "kinds heads"]
    p: Float[Tensor, "kinds heads"]
    from_use: Float[Tensor, "kinds heads"] | None
    n_sequences: int
    token_source: TokenSource
    caveats: tuple[Caveat, ...] = ()

    @default_settings()
    def claimed(self) -> Bool[Tensor, "kinds heads"]:
        """Return which kinds the weights alone claim (see `head_kinds`)."""
        above = self.from_weights >= least_from_weights()[:, None]
        return above & ((self.p <= LEVEL) | self.p.isnan())

    @default_settings()
    def shown_in_use(self) -> Bool[Tensor, "kinds heads"]:
        """Return which kinds heads show on token sequences; none without a model."""
        if self.from_use is None:
            return torch.zeros_like(self.from_weights, dtype=torch.bool)
        return self.from_use >= least_in_use()[:, None]

    def agreement(self) -> pd.DataFrame:
        """Return how well the weights predict the use of heads, one row per kind.

        Columns: kind, n_claimed, n_in_use, rank_correlation (Spearman, over heads), auc (of the
        weights' score for the heads that show the kind; NaN where none or all do).
        """
        from sklearn.metrics import roc_auc_score

        rows = []
        claimed, shown = self.claimed().sum(1), self.shown_in_use()
        for i, kind in enumerate(HEAD_KINDS):
            correlation = auc = float("nan")
            if self.from_use is not None:
                known = self.from_weights[i].isfinite() & self.from_use[i].isfinite()
                a, b = self.from_weights[i][known], self.from_use[i][known]
                if len(a) > 2 and len(a.unique()) > 1 and len(b.unique()) > 1:
                    correlation = pd.Series(a.numpy()).corr(pd.Series(b.numpy()), method="spearman")
                label = shown[i][known]
                if 0 < int(label.sum()) < len(label):
                    auc = float(roc_auc_score(label.numpy(), a.numpy()))
            rows.append((kind, int(claimed[i]), int(shown[i].sum()), correlation, auc))
        names = ["kind", "n_claimed", "n_in_use", "rank_correlation", "auc"]
        return pd.DataFrame(rows, columns=names)

    @checked
    def kinds_of(self, layer: int, head: int) -> tuple[HeadKind, ...]:
        """Return the kinds that the weights claim for a head.

        Raises:
            IndexError: the result does not hold the head.
        """
        if (layer, head) not in self.heads:
            label = component_label(layer, head, self.model_name)
            raise IndexError(f"{label} is not among the {len(self.heads)} heads.")
        column = self.claimed()[:, self.heads.index((layer, head))]
        return tuple(kind for kind, is_one in zip(HEAD_KINDS, column, strict=True) if is_one)

    def headline(self) -> str:
        """Return how many heads each kind has, and how well weights predict use."""
        table = self.agreement()
        counts = [
            f"{row['n_claimed']} {row['kind']}"
            for row in table.to_dict("records")
            if row["n_claimed"]
        ]
        found = ", ".join(counts) if counts else "no kind claimed"
        layers = sorted({layer for layer, _ in self.heads})
        text = (
            f"{self.model_name}: {len(self.heads)} heads, from weights {found}"
            f"{self.token_source.summary(layers, ['QK'])}"
        )
        known = table.query("auc == auc")
        if self.from_use is None or not len(known):
            return text
        aucs = ", ".join(f"{row['kind']} {row['auc']:.2f}" for row in known.to_dict("records"))
        return f"{text}; AUC for their use on {self.n_sequences} sequences: {aucs}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head and kind.

        Columns: layer, head, component, kind, from_weights, p, claimed and, with a model, from_use,
        in_use.
        """
        claimed, shown = self.claimed(), self.shown_in_use()
        rows = []
        for h, (layer, head) in enumerate(self.heads):
            for i, kind in enumerate(HEAD_KINDS):
                row = head_columns(layer, head, self.model_name) | {
                    "kind": kind,
                    "from_weights": float(self.from_weights[i, h]),
                    "p": float(self.p[i, h]),
                    "claimed": bool(claimed[i, h]),
                }
                if self.from_use is not None:
                    row |= {"from_use": float(self.from_use[i, h]), "in_use": bool(shown[i, h])}
                rows.append(row)
        return pd.DataFrame(rows)


def least_from_weights() -> Float[Tensor, " kinds"]:
    """Return the least score from the weights at which each kind is claimed."""
    least = dict.fromkeys(WRITTEN, WRITES) | {"induction": MATCHED}
    return torch.tensor([least.get(kind, SHARE) for kind in HEAD_KINDS])


def least_in_use() -> Float[Tensor, " kinds"]:
    """Return the least score in use at which a head shows each kind."""
    return torch.tensor([WRITES if kind in WRITTEN else SHARE for kind in HEAD_KINDS])
