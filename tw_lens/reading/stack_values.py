"""Values at the hooks of a stack: at the source's own positions, and only true patterns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

QKV, SCORES = ("hook_q", "hook_k", "hook_v"), ("hook_attn_scores", "hook_pattern")
ROUNDED = 2e-2  # of a pattern's row in half precision, from a sum of 1


def of_source(attention: Any, name: str, value: Tensor, n: int) -> Tensor:
    """Return a value at the source's own positions, behind the axis of prompts.

    LED pads its source to a multiple of its window, and has positions before prompts in queries,
    keys and values.

    Args:
        attention: the original attention of the encoder's first block.
        name: of the hook.
        value: at the hook.
        n: number of positions of the source.
    """
    if hasattr(attention, "longformer_self_attn") and name.endswith(QKV):
        value = value.transpose(0, 1)
    return value[:, :n] if value.shape[1] > n and not name.endswith(SCORES) else value


def has_pattern(shown: dict[str, Tensor], name: str, n_queries: int) -> bool:
    """Return whether a block's hook of the pattern holds one, of queries by keys.

    What TransformerLens takes for the pattern may be the bias of relative positions (Switch) or a
    band of it (LED), and the hook of the scores holds the same then.
    """
    pattern = shown.get(name.rpartition(".")[0] + ".hook_pattern")
    if pattern is None:
        return True
    sums = pattern.float().sum(-1)
    return pattern.shape[-2] == n_queries and float((sums - 1).abs().max()) < ROUNDED
