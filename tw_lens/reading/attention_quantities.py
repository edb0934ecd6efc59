"""One layer's attention against the model's own hooks, quantity by quantity."""

from __future__ import annotations

from torch import Tensor

from tw_lens.canonical import Block

Quantity = tuple[str, Tensor, Tensor]
"""A quantity's name, its value from the canonical form, and the model's own."""

HOOKS = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern")


def compare_attention(
    block: Block,
    x: Tensor,
    theirs: dict[str, Tensor | None],
    in_half: bool,
    source: Tensor | None = None,
) -> tuple[list[Quantity], Tensor]:
    """Return a layer's quantities, and our attention output.

    Args:
        block: of the layer.
        x: the stream that queries read.
        theirs: the model's values at `HOOKS`, None where it has no such hook.
        in_half: whether the model is in half precision, where each quantity is computed from the
            model's own previous one.
        source: the stream that keys and values read; the queries' own by default.
    """
    read = x if source is None else source
    q, k, v = block.queries(x), block.keys(read), block.values(read)
    model_q, model_k = _without_gate(theirs["hook_q"], q), theirs["hook_k"]
    model_v = theirs["hook_v"]
    if block.bottleneck_KV is not None:
        # These hooks hold rotated queries and keys, with the heads as the first axis.
        scores = block.scores(q, k)
        q, k = block.attention_scores.norm_and_rotate(q, k)
        model_q, model_k, model_v = (
            None if t is None else t.transpose(0, 1) for t in (model_q, model_k, model_v)
        )
    else:
        model_k, model_v = _one_per_group(model_k, k), _one_per_group(model_v, v)
        scores = block.scores(
            _teacher_forced(model_q, q, in_half), _teacher_forced(model_k, k, in_half)
        )
    candidates = (("q", q, model_q), ("k", k, model_k), ("v", v, model_v))
    quantities = [(name, ours, value) for name, ours, value in candidates if value is not None]
    compared, pattern = _scores_and_pattern(block, scores, theirs, in_half)
    if compared is not None and compared[0].shape == compared[1].shape:
        ours, value = compared
        mask = block.attention_scores.mask(len(x), len(read))
        quantities.append(("attn_scores", ours[:, mask], value[:, mask]))
    return quantities, block.attn_out(pattern, v, x)


def _scores_and_pattern(
    block: Block, scores: Tensor, theirs: dict[str, Tensor | None], in_half: bool
) -> tuple[tuple[Tensor, Tensor] | None, Tensor]:
    """Return the scores to compare (ours, the model's) and the pattern for the attention output.

    Patterns are compared where the model's score hook holds the pattern or nothing.
    """
    pattern = block.attention_scores.pattern(scores)
    model_scores, model_pattern = theirs["hook_attn_scores"], theirs["hook_pattern"]
    if model_scores is None or (model_pattern is not None and model_scores.equal(model_pattern)):
        compared = None if model_pattern is None else (pattern, model_pattern)
        return compared, _teacher_forced(model_pattern, pattern, in_half)
    next_pattern = block.attention_scores.pattern(model_scores) if in_half else pattern
    if block.attention_scores.slopes is not None:
        # ALiBi may be counted from the query or from the first key: up to a constant.
        scores = scores - scores.diagonal(0, 1, 2)[..., None]
        model_scores = model_scores - model_scores.diagonal(0, 1, 2)[..., None]
    return (scores, model_scores), next_pattern


def _teacher_forced(theirs: Tensor | None, ours: Tensor, in_half: bool) -> Tensor:
    """Return the input of the next quantity: the model's own in half precision, if it is hooked."""
    return theirs if in_half and theirs is not None else ours


def _without_gate(model_q: Tensor | None, q: Tensor) -> Tensor | None:
    """Return the query of a hook that may hold the output gate too (Qwen 3.5)."""
    n, heads, d_head = q.shape
    if model_q is None or model_q.numel() != 2 * q.numel():
        return model_q
    return model_q.reshape(n, heads, 2, d_head)[:, :, 0]


def _one_per_group(theirs: Tensor | None, ours: Tensor) -> Tensor | None:
    """Return keys or values once per group of heads (HookedTransformer can ungroup them)."""
    if theirs is None or theirs.ndim != 3 or theirs.shape[1] % ours.shape[1]:
        return theirs
    return theirs[:, :: theirs.shape[1] // ours.shape[1]]
