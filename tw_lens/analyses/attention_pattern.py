"""Attention pattern of a layer on a prompt, recomputed from the canonical form."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat
from tw_lens.results.base import HeadComponents, Result, head_columns


@dataclass(frozen=True, repr=False, eq=False)
class AttentionPattern(HeadComponents, Result):
    """The softmax of a layer's scores on a prompt: `pattern[head, query, key]`.

    `causal`: queries attend to themselves and earlier keys only; otherwise (encoders) to all keys.
    `key_strings` are the tokens of the source in cross-attention, of the prompt elsewhere.
    """

    model_name: str
    layer: int
    heads: tuple[int, ...]
    token_strings: tuple[str, ...]
    pattern: Float[Tensor, "heads position key"]
    causal: bool
    key_strings: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the number of heads, and the share of attention on the first position."""
        first = float(self.pattern[:, 1:, 0].mean()) if self.pattern.shape[1] > 1 else 1.0
        return (
            f"{self.model_name} layer {self.layer}: {self.pattern.shape[0]} heads, "
            f"{100 * first:.0f} % of the attention on the first position"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per head, query and key that the query may attend to.

        Columns: layer, head, component, query, key (positions), query_token, key_token, attention.
        """
        rows = []
        tokens, keys = self.token_strings, self.key_strings
        for head, pattern in zip(self.heads, self.pattern.tolist(), strict=True):
            columns = tuple(head_columns(self.layer, head, self.model_name).values())
            for i, row in enumerate(pattern):
                for j in range(i + 1 if self.causal else len(row)):
                    rows.append((*columns, i, j, tokens[i], keys[j], row[j]))
        columns = ["layer", "head", "component", "query", "key", "query_token", "key_token",
                   "attention"]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)


@checked
def attention_pattern(
    weights: Weights, states: States, *, layer: int, head: int | None = None
) -> AttentionPattern:
    """Return the attention pattern of a layer on a prompt, `softmax(s q_i R(i-j) k_j^T)`.

    The softmax is over j <= i in causal models, over all j in encoders, over the source in
    cross-attention.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        layer: index of the block.
        head: one head, or None for all.

    Raises:
        IndexError: the layer or the head does not exist.
        TypeError: an argument of another type.
        ValueError: states of another model.

    Example:
        >>> attention_pattern(weights, states, layer=0).pattern.shape
        torch.Size([4, 4, 4])

    Source: definitions of a head in canonical form; certified by `check` (attn_out).
    """
    weights.require_states(states)
    block = weights.attention_block(layer)
    heads = block.heads(head)
    x, source, keys = states.stream[layer], None, states.token_strings
    if block.source_norm is not None:
        crossing = states.require_crossing()
        x, source = block.resid_mid(x, states.attn_out[layer]), crossing.source
        keys = crossing.source_token_strings
    return AttentionPattern(
        model_name=weights.model_name,
        layer=layer,
        heads=tuple(heads),
        token_strings=states.token_strings,
        pattern=block.attention_pattern(x, source)[heads],
        key_strings=keys,
        causal=block.attention_scores.causal,
    )
