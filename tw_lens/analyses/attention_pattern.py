"""Where does each position look? A layer's attention, recomputed from the canonical form."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.result import Result, of_weights
from tw_lens.canonical import States, Weights
from tw_lens.errors import Caveat


@dataclass(frozen=True, repr=False, eq=False)
class AttentionPattern(Result):
    """The softmax of a layer's scores on a prompt: `pattern[head, query, key]`.

    `causal`: queries see themselves and earlier keys only; else (encoders) every key.
    """

    model_name: str
    layer: int
    token_strings: tuple[str, ...]
    pattern: Float[Tensor, "heads position position"]
    causal: bool
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """How many heads, and how much of the attention rests on the first position."""
        first = float(self.pattern[:, 1:, 0].mean()) if self.pattern.shape[1] > 1 else 1.0
        return (
            f"{self.model_name} layer {self.layer}: {self.pattern.shape[0]} heads, "
            f"{100 * first:.0f} % of the attention on the first position"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: component, query, key, query_token, key_token, attention (keys seen only)."""
        rows = []
        tokens = self.token_strings
        for head, pattern in enumerate(self.pattern.tolist()):
            for i, row in enumerate(pattern):
                for j in range(i + 1 if self.causal else len(row)):
                    rows.append((f"L{self.layer}H{head}", i, j, tokens[i], tokens[j], row[j]))
        columns = ["component", "query", "key", "query_token", "key_token", "attention"]
        return pd.DataFrame(rows, columns=columns)


@of_weights
def attention_pattern(weights: Weights, states: States, *, layer: int) -> AttentionPattern:
    """The attention pattern of a layer on a prompt, `softmax(s q_i R(i-j) k_j^T)`.

    The softmax is over j <= i in causal models, over every j in encoders.

    Raises:
        IndexError: the layer does not exist.
        ValueError: states of another model.

    Example:
        >>> attention_pattern(weights, states, layer=0).pattern.shape
        torch.Size([4, 4, 4])

    Source: definitions of a head in canonical form; certified by `check` (attn_out).
    """
    weights.require_states(states)
    block = weights.block(layer)
    x = states.stream[layer]
    pattern = block.pattern_on(x)
    causal = block.scoring.causal
    return AttentionPattern(states.model_name, layer, states.token_strings, pattern, causal)
