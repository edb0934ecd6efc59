"""One layer's attention against the model's own hooks, quantity by quantity."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Block, HeadRouting

Quantity = tuple[str, Tensor, Tensor]
"""A quantity's name, its value from the canonical form, and the model's own."""

ROUTER = "experts.router.hook_out"
HOOKS = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", ROUTER)


@dataclass(frozen=True, eq=False)
class GivenRouting(HeadRouting):
    """A routing by given logits: what a model in half precision rounds may change its choice."""

    given: Float[Tensor, "position n_experts"]

    def logits(self, n_x: Float[Tensor, "position d_model"]) -> Float[Tensor, "position n_experts"]:
        """Return the given logits, whatever the router would read."""
        return self.given


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
    block = _with_models_routing(block, theirs[ROUTER], len(x)) if in_half else block
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
    compared, pattern = _scores_and_pattern(block, x, scores, theirs, in_half)
    if compared is not None and compared[0].shape == compared[1].shape:
        ours, value = compared
        mask = block.attention_scores.mask(len(x), len(read))
        quantities.append(("attn_scores", ours[:, mask], value[:, mask]))
    return quantities, block.attn_out(pattern, v, x)


def _with_models_routing(block: Block, logits: Tensor | None, n: int) -> Block:
    """Return a mixture of attention experts with the model's own choice; others unchanged."""
    output = block.attention_output
    if logits is None or not isinstance(output.gate, HeadRouting):
        return block
    routing = GivenRouting(**vars(output.gate), given=logits.reshape(n, -1))
    return replace(block, attention_output=replace(output, gate=routing))


def _scores_and_pattern(
    block: Block, x: Tensor, scores: Tensor, theirs: dict[str, Tensor | None], in_half: bool
) -> tuple[tuple[Tensor, Tensor] | None, Tensor]:
    """Return the scores to compare (ours, the model's) and the pattern for the attention output.

    Patterns are compared where the model's score hook holds the pattern or nothing, and in a
    mixture of attention experts, of the heads that are chosen.
    """
    pattern = block.attention_scores.pattern(scores)
    model_scores, model_pattern = theirs["hook_attn_scores"], theirs["hook_pattern"]
    if isinstance(routing := block.attention_output.gate, HeadRouting):
        chosen = _of_chosen(pattern, routing.chosen_heads(block.norm(x)))
        return None if model_pattern is None else (chosen, model_pattern), pattern
    if model_scores is None or (model_pattern is not None and model_scores.equal(model_pattern)):
        compared = None if model_pattern is None else (pattern, model_pattern)
        return compared, _teacher_forced(model_pattern, pattern, in_half)
    next_pattern = block.attention_scores.pattern(model_scores) if in_half else pattern
    if block.attention_scores.slopes is not None:
        # ALiBi may be counted from the query or from the first key: up to a constant.
        scores = scores - scores.diagonal(0, 1, 2)[..., None]
        model_scores = model_scores - model_scores.diagonal(0, 1, 2)[..., None]
    return (scores, model_scores), next_pattern


def _of_chosen(
    pattern: Float[Tensor, "n_heads query key"], chosen: Int[Tensor, "query computed"]
) -> Float[Tensor, "computed query key"]:
    """Return the patterns of the heads that a mixture computes at each query."""
    queries = torch.arange(len(chosen))[:, None]
    return pattern[chosen, queries].transpose(0, 1)


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
