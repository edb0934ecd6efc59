"""The certificate: the canonical form against the running model, quantity by quantity.

1. Run the model once on a prompt and record its own hooks.
2. For every layer, take the model's residual stream and recompute queries, keys, values, scores
   and the attention output from the canonical form alone.
3. From the model's stream before the MLP, recompute the neurons' inputs and what the MLP adds.
4. Rebuild the residual stream: canonical start, plus recomputed attention, plus the model's MLP.
5. Read the model's final state with the canonical readout.
6. Compare each with the model's own: largest absolute gap over the largest absolute value.

A model in half precision rounds at every step and the canonical form does not, so rounding errors
accumulate: a residual stream that was once large keeps what was rounded off it, a softmax amplifies
what was rounded off its scores. In half precision every quantity is therefore computed from the
model's own previous one. The remaining error, in steps of the number format (2^-7 in bfloat16,
2^-10 in float16), is at most 2.1 on SmolLM2, 1.5 on MiniLM and 6.3 on a random Gemma 4; mistakes (a
norm's bias, the rotation, swapped heads) begin at 19. `ROUNDINGS` steps pass. Smaller mistakes stay
hidden: a factor off by 1 % is detected in float16, not in bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Block, Weights
from tw_lens.errors import Caveat
from tw_lens.reading.embeddings import initial_residual
from tw_lens.reading.forward import run
from tw_lens.reading.layer import host_layer
from tw_lens.reading.mlp_states import compare_mlp, mlp_hooks, readable_mlp, unread_mlps
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.precision import default_tolerance, is_half_precision
from tw_lens.reading.prompts import Prompt, tokenize_prompt
from tw_lens.reading.states import attn_and_mlp_out, write_hooks
from tw_lens.reading.weights import read_weights
from tw_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd

HOOKS = ("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern")


@dataclass(frozen=True)
class Comparison:
    """One quantity of one layer: the canonical form against the model."""

    layer: int
    quantity: str
    max_abs_error: float
    rel_error: float


@dataclass(frozen=True, repr=False)
class Certificate(Result):
    """The result of `check`: whether the model passed, and the error of each quantity.

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
        """Return whether every quantity is within the tolerance."""
        return self.max_rel_error < self.tolerance

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest relative error."""
        return max(self.comparisons, key=lambda c: (c.rel_error != c.rel_error, c.rel_error))

    def headline(self) -> str:
        """Return the outcome in one line."""
        return (
            f"{self.model_name}: {'passed' if self.passed else 'FAILED'}, largest relative error "
            f"{self.max_rel_error:.1e} at layer {self.worst.layer} {self.worst.quantity}, "
            f"tolerance {self.tolerance:.0e}, {len(self.tokens)} tokens"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer and quantity: layer, quantity, max_abs_error, rel_error."""
        import pandas as pd

        return pd.DataFrame([vars(c) for c in self.comparisons])


@checked
def check(model: Any, prompt: Prompt, *, tolerance: float | None = None) -> Certificate:
    """Certify that the canonical form computes what the model computes.

    Recomputes q, k, v, attn_scores (with the model's rotation, before the mask; the pattern where
    TransformerLens' score hook holds only that: GPT-Neo, OPT), attn_out, mlp_pre (the neurons'
    inputs, gates included), mlp_out (rebuilt from the neurons), resid (the residual stream rebuilt
    from the canonical start, the recomputed attention and the model's MLP) and logits, and compares
    each with the model's own hooks.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run once and not changed.
        prompt: a text or token ids.
        tolerance: largest relative error that passes; 1e-4 for float32 models by default; eight
            steps of the number format in half precision (6e-2 in bfloat16, 8e-3 in float16),
            because the model itself rounds.

    Raises:
        UnsupportedModelError: a part of the model does not fit the canonical form.
        ValueError: the prompt is empty or longer than the context.

    Example:
        >>> check(model, "w5 w6 w7").passed
        True
    """
    return certify(model, read_weights(model, device="cpu"), prompt, tolerance=tolerance)


def certify(
    model: Any,
    weights: Weights,
    prompt: Prompt,
    *,
    tolerance: float | None = None,
) -> Certificate:
    """Certify weights that are already read (see `check`)."""
    tokens = tokenize_prompt(model, prompt)
    residuals = residual_hooks(model)
    also = [f"blocks.{n}.attn.{hook}" for n in weights.attention_layers for hook in HOOKS]
    also += write_hooks(weights.n_layers) + mlp_hooks(weights.n_layers)
    logits, values = run(model, tokens, residuals, also=also)
    comparisons: list[Comparison] = []
    unread: list[int] = []
    in_half = is_half_precision(model)
    stream = initial_residual(model, weights.vocabulary, tokens)
    for index in range(weights.n_layers):
        before, after = (values[name] for name in residuals[index : index + 2])
        model_attn_out = None
        if index in weights.attention_layers:
            layer, block = host_layer(model, index), weights.block(index)
            theirs = {hook: values.get(f"{layer.attention_name}.{hook}") for hook in HOOKS}
            quantities, attn_out = _attention(block, before, theirs, in_half)
            comparisons += [_compare(index, *quantity) for quantity in quantities]
            model_attn_out, mlp_out = attn_and_mlp_out(values, layer, before, after)
            comparisons.append(_compare(index, "attn_out", attn_out, model_attn_out))
            stream = block.resid_post(stream, attn_out, mlp_out)
        else:
            stream = stream + (after - before)
        mlp = readable_mlp(weights, index)
        if mlp is None:
            unread += [index] * (index not in weights.layers_without_mlp)
        else:
            found = compare_mlp(mlp, values, before, model_attn_out, in_half=in_half)
            comparisons += [_compare(index, *quantity) for quantity in found]
        comparisons.append(_compare(index, "resid", stream, after))
        if in_half:
            stream = after
    if not weights.readout.is_embedding:
        ours = weights.readout.logits(values[residuals[-1]])
        comparisons.append(_compare(weights.n_layers, "logits", ours, logits))
    return Certificate(
        model_name=weights.model_name,
        tokens=tuple(tokens.tolist()),
        tolerance=default_tolerance(model) if tolerance is None else tolerance,
        comparisons=tuple(comparisons),
        caveats=weights.caveats + unread_mlps(unread),
    )


def _attention(
    block: Block, x: Tensor, theirs: dict[str, Tensor | None], in_half: bool
) -> tuple[list[tuple[str, Tensor, Tensor]], Tensor]:
    """Return a layer's quantities as (name, ours, the model's), and our attention output."""
    q, k, v = block.queries(x), block.keys(x), block.values(x)
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
    if compared is not None:
        ours, value = compared
        mask = block.attention_scores.mask(len(x))
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


def _compare(layer: int, quantity: str, ours: Tensor, theirs: Tensor) -> Comparison:
    """Compare one quantity with the model's."""
    if ours.shape != theirs.shape:
        raise ValueError(
            f"layer {layer} {quantity}: the canonical form has shape {tuple(ours.shape)}, the "
            f"model's hook {tuple(theirs.shape)}."
        )
    gap = float((ours - theirs).abs().max())
    size = float(theirs.abs().max())
    return Comparison(layer, quantity, gap, gap / size if size else gap)
