"""The residual stream behind the parts of a block: their sum, or with a norm behind each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tw_lens.canonical.sphere_projection import Norm


def add_parts(x: Tensor, parts: Sequence[Tensor | None], norms: Sequence[Norm] | None) -> Tensor:
    """Return `x` plus the parts, `n_2(n_1(x + part_1) + part_2)` in a post-norm model.

    Args:
        x: the stream that enters the block, `[*batch, position, d_model]`.
        parts: what attention, cross-attention and MLP add, in this order; None for a part that the
            block does not have.
        norms: one behind every part of the block, in their order; none of them by default.
    """
    present = [part for part in parts if part is not None]
    if not norms:
        return sum(present, x)
    for norm, part in zip(norms, present, strict=True):
        x = norm(x + part)
    return x
