"""The certificate: the canonical form against the running model, quantity by quantity.

1. Run the model once on a prompt, keeping its own hooks.
2. For every layer, take the stream the model had and recompute queries, keys, values, scores and
   the attention output from the canonical form alone.
3. Build the stream anew: canonical start, plus recomputed attention, plus the model's MLP.
4. Read the model's final state with the canonical readout.
5. Compare each with the model's own: largest absolute gap over the largest absolute value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.reading.states import prompt_tokens, run, stream_hooks
from tw_lens.reading.weights import read_weights

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}
HALF_TOLERANCE = 5e-2


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
        tolerance: largest relative error that passes; 1e-4 for float32 models by default, 5e-2 for
            half precision (the model's own rounding).

    Raises:
        UnsupportedModel: a part of the model does not fit the canonical form.
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
    tokens = prompt_tokens(model, prompt)
    hooks = (
        "attn.hook_q",
        "attn.hook_k",
        "attn.hook_v",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
    )
    names = [f"blocks.{layer}.{hook}" for layer in range(weights.n_layers) for hook in hooks]
    logits, held = run(model, tokens, stream_hooks(weights.n_layers) + names)
    rows: list[Comparison] = []
    stream = _start_of_stream(model, weights, tokens)
    for layer in range(weights.n_layers):
        block = weights.block(layer)
        theirs = {hook: held[f"blocks.{layer}.{hook}"] for hook in hooks}
        q, k, v = block.qkv(held[f"blocks.{layer}.hook_resid_pre"])
        scores = block.scores(q, k)
        pattern = block.pattern(scores)
        attn_out = block.attention_output(pattern, v)
        model_scores = theirs["attn.hook_attn_scores"]
        if torch.equal(model_scores, theirs["attn.hook_pattern"]):
            scores = pattern  # this model's score hook holds the pattern: compare like with like
        stream = stream + attn_out + held[f"blocks.{layer}.hook_mlp_out"]
        after = "hook_resid_post" if layer + 1 == weights.n_layers else None
        resid = held[f"blocks.{layer}.{after}" if after else f"blocks.{layer + 1}.hook_resid_pre"]
        seen = block.visible(tokens.numel())
        for quantity, ours, model_value in (
            ("q", q, theirs["attn.hook_q"]),
            ("k", k, theirs["attn.hook_k"]),
            ("v", v, theirs["attn.hook_v"]),
            ("attn_scores", scores[:, seen], model_scores[:, seen]),
            ("attn_out", attn_out, held[f"blocks.{layer}.hook_attn_out"]),
            ("resid", stream, resid),
        ):
            rows.append(_compare(layer, quantity, ours, model_value))
    final = held[f"blocks.{weights.n_layers - 1}.hook_resid_post"]
    rows.append(_compare(weights.n_layers, "logits", weights.readout.logits(final), logits))
    dtype = next(model.parameters()).dtype
    return Certificate(
        model_name=weights.model_name,
        tokens=tuple(tokens.tolist()),
        tolerance=TOLERANCE.get(dtype, HALF_TOLERANCE) if tolerance is None else tolerance,
        comparisons=tuple(rows),
        caveats=weights.caveats,
    )


def _start_of_stream(model: Any, weights: Weights, tokens: Tensor) -> Tensor:
    """The stream before the first block: scaled embeddings, plus learned positions if any."""
    start = weights.vocabulary.embeddings(tokens) * weights.vocabulary.scale
    if getattr(model.cfg, "positional_embedding_type", None) != "standard":
        return start
    W_pos = model.pos_embed.W_pos.detach().float().cpu()
    first = max(0, W_pos.shape[0] - int(model.cfg.n_ctx))  # OPT keeps two rows in front
    return start + W_pos[first : first + tokens.numel()]


def _compare(layer: int, quantity: str, ours: Tensor, theirs: Tensor) -> Comparison:
    if ours.shape != theirs.shape:
        raise ValueError(
            f"layer {layer} {quantity}: the canonical form gives shape {tuple(ours.shape)}, the "
            f"model's hook {tuple(theirs.shape)}."
        )
    gap = float((ours - theirs).abs().max())
    size = float(theirs.abs().max())
    return Comparison(layer, quantity, gap, gap / size if size else gap)
