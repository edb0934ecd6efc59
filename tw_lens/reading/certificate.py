"""The certificate: the canonical form against the running model, quantity by quantity.

1. Run the model once on a prompt, keeping its own hooks.
2. For every layer, take the stream the model had and recompute queries, keys, values, scores and
   the attention output from the canonical form alone.
3. Build the stream anew: canonical start, plus recomputed attention, plus the model's MLP.
4. Read the model's final state with the canonical readout.
5. Compare each with the model's own: largest absolute gap over the largest absolute value.

A model in half precision rounds as it runs, the canonical form does not, and roundings pile up: a
stream that was once large keeps what was rounded off it, a softmax enlarges what was rounded off
its scores. There every quantity is made of the model's own previous one instead of ours. What is
left, in steps of the number format (2^-7 in bfloat16, 2^-10 in float16): 2.1 at most on SmolLM2,
1.5 on MiniLM, 6.3 on a random Gemma 4; mistakes (a norm's bias, the rotation, swapped heads) begin
at 19. `ROUNDINGS` steps pass. What is smaller stays hidden: a factor off by 1 % is seen in float16,
not in bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.reading.embeddings import initial_residual
from tw_lens.reading.forward import residual_hooks, run
from tw_lens.reading.prompts import tokenize_prompt
from tw_lens.reading.states import attn_and_mlp_out, write_hooks
from tw_lens.reading.weights import read_weights

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4
ROUNDINGS = 8
HOOKS = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern")


@dataclass(frozen=True)
class Comparison:
    """One quantity of one layer: the canonical form against the model."""

    layer: int
    quantity: str
    max_abs_error: float
    rel_error: float


@dataclass(frozen=True)
class Certificate:
    """The outcome of `check`: passed, and how far each quantity was off.

    `rel_error` is the largest absolute gap over the largest absolute value of the quantity in its
    layer. The layer of `logits` is the number of layers: they come after the last block.
    """

    model_name: str
    tokens: tuple[int, ...]
    tolerance: float
    comparisons: tuple[Comparison, ...]
    caveats: tuple[Caveat, ...]

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of all quantities and layers (NaN counts as infinite)."""
        errors = [c.rel_error for c in self.comparisons]
        return float("inf") if any(e != e for e in errors) else max(errors)

    @property
    def passed(self) -> bool:
        """Whether every quantity is within the tolerance."""
        return self.max_rel_error < self.tolerance

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest relative error."""
        return max(self.comparisons, key=lambda c: (c.rel_error != c.rel_error, c.rel_error))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and quantity: layer, quantity, max_abs_error, rel_error."""
        import pandas as pd

        return pd.DataFrame([vars(c) for c in self.comparisons])

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        return (
            f"{self.model_name}: {'passed' if self.passed else 'FAILED'}, largest relative error "
            f"{self.max_rel_error:.1e} at layer {self.worst.layer} {self.worst.quantity}, "
            f"tolerance {self.tolerance:.0e}, {len(self.tokens)} tokens"
        )

    def __repr__(self) -> str:
        return f"Certificate({self.verdict})"


def check(
    model: Any, prompt: str | Sequence[int] | Tensor, *, tolerance: float | None = None
) -> Certificate:
    """Certify that the canonical form computes what the model computes.

    Recomputes q, k, v, attn_scores (with the model's rotation, before the mask; the pattern where
    TransformerLens' score hook holds only that: GPT-Neo, OPT), attn_out, resid
    (the stream rebuilt from the canonical start, the recomputed attention and the model's MLP)
    and logits, and compares each with the model's own hooks.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run once and not changed.
        prompt: a text or token ids.
        tolerance: largest relative error that passes; 1e-4 for float32 models by default; eight
            steps of the number format in half precision (6e-2 in bfloat16, 8e-3 in float16), for
            the model itself rounds.

    Raises:
        UnsupportedModelError: a part of the model does not fit the canonical form.
        ValueError: the prompt is empty or beyond the context.

    Example:
        >>> check(model, "w5 w6 w7").passed
        True
    """
    return certify(model, read_weights(model), prompt, tolerance=tolerance)


def certify(
    model: Any,
    weights: Weights,
    prompt: str | Sequence[int] | Tensor,
    *,
    tolerance: float | None = None,
) -> Certificate:
    """`check` for weights that were read before (see there)."""
    tokens = tokenize_prompt(model, prompt)
    needed = residual_hooks(weights.n_layers)
    wanted = [f"blocks.{n}.attn.{hook}" for n in weights.attention_layers for hook in HOOKS]
    logits, held = run(model, tokens, needed, also=wanted + write_hooks(weights.n_layers))
    rows: list[Comparison] = []
    in_half = is_half_precision(model)
    stream = initial_residual(model, weights.vocabulary, tokens)
    for layer in range(weights.n_layers):
        before, after = (held[name] for name in needed[layer : layer + 2])
        if layer in weights.attention_layers:
            block = weights.block(layer)
            theirs = {hook: held.get(f"blocks.{layer}.attn.{hook}") for hook in HOOKS}
            found, attn_out = _attention(block, before, theirs, in_half)
            rows += [_compare(layer, *quantity) for quantity in found]
            added, rest = attn_and_mlp_out(held, model, layer, before, after)
            rows.append(_compare(layer, "attn_out", attn_out, added))
            stream = block.resid_post(stream, attn_out, rest)
        else:
            stream = stream + (after - before)
        rows.append(_compare(layer, "resid", stream, after))
        if in_half:
            stream = after
    if not weights.readout.is_embedding:
        ours = weights.readout.logits(held[needed[-1]])
        rows.append(_compare(weights.n_layers, "logits", ours, logits))
    return Certificate(
        model_name=weights.model_name,
        tokens=tuple(tokens.tolist()),
        tolerance=default_tolerance(model) if tolerance is None else tolerance,
        comparisons=tuple(rows),
        caveats=weights.caveats,
    )


def default_tolerance(model: Any) -> float:
    """What a model's own rounding allows: its coarsest number format decides."""
    return max(TOLERANCE, ROUNDINGS * _step_of(model))


def is_half_precision(model: Any) -> bool:
    """Whether some of the model's numbers are coarser than float32."""
    return _step_of(model) > torch.finfo(torch.float32).eps


def _step_of(model: Any) -> float:
    return max(torch.finfo(p.dtype).eps for p in model.parameters())


def _attention(
    block: Block, x: Tensor, theirs: dict[str, Tensor | None], in_half: bool
) -> tuple[list[tuple[str, Tensor, Tensor]], Tensor]:
    """Every quantity of one layer, ours beside the model's, and what our attention adds."""
    q, k, v = block.queries(x), block.keys(x), block.values(x)
    held = {"q": _query_alone(theirs["hook_q"], q), "k": theirs["hook_k"], "v": theirs["hook_v"]}
    if (
        block.bottleneck_KV is not None
    ):  # these hooks hold rotated queries and keys, heads outermost
        scores = block.scores(q, k)
        q, k = block.attention_scores.norm_and_rotate(q, k)
        held = {name: None if t is None else t.transpose(0, 1) for name, t in held.items()}
    else:
        scores = block.scores(
            _teacher_forced(held["q"], q, in_half), _teacher_forced(held["k"], k, in_half)
        )
    found = [(n, t, held[n]) for n, t in zip("qkv", (q, k, v), strict=True) if held[n] is not None]
    pattern, seen = block.attention_scores.pattern(scores), block.attention_scores.mask(len(x))
    model_scores, model_pattern = theirs["hook_attn_scores"], theirs["hook_pattern"]
    compared = scores
    if model_scores is None or (model_pattern is not None and model_scores.equal(model_pattern)):
        # This model's score hook holds the pattern (or nothing): compare patterns.
        compared, model_scores = pattern, model_pattern
        given = model_pattern if in_half and model_pattern is not None else pattern
    else:
        given = block.attention_scores.pattern(model_scores) if in_half else pattern
        if block.attention_scores.slopes is not None:
            # ALiBi may be counted from the query or from the first key: up to a constant.
            compared, model_scores = (
                t - t.diagonal(0, 1, 2)[..., None] for t in (scores, model_scores)
            )
    if model_scores is not None:
        found.append(("attn_scores", compared[:, seen], model_scores[:, seen]))
    return found, block.attn_out(given, v, x)


def _teacher_forced(held: Tensor | None, ours: Tensor, in_half: bool) -> Tensor:
    """What the next quantity is made of: in half precision the model's own, where it shows it."""
    return held if in_half and held is not None else ours


def _query_alone(held: Tensor | None, q: Tensor) -> Tensor | None:
    """The query of a hook that may hold its output gate beside it (Qwen 3.5)."""
    n, heads, d_head = q.shape
    if held is None or held.numel() != 2 * q.numel():
        return held
    return held.reshape(n, heads, 2, d_head)[:, :, 0]


def _compare(layer: int, quantity: str, ours: Tensor, theirs: Tensor) -> Comparison:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"layer {layer} {quantity}: the canonical form gives shape {tuple(ours.shape)}, the "
            f"model's hook {tuple(theirs.shape)}."
        )
    gap = float((ours - theirs).abs().max())
    size = float(theirs.abs().max())
    return Comparison(layer, quantity, gap, gap / size if size else gap)
