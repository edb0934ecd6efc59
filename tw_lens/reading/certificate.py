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

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.reading.attention_quantities import HOOKS, Quantity, compare_attention
from tw_lens.reading.embeddings import initial_residual
from tw_lens.reading.forward import run
from tw_lens.reading.layer import host_layer
from tw_lens.reading.mlp_states import compare_mlp, mlp_hooks, readable_mlp, unread_mlps
from tw_lens.reading.model_access import name_of, optional
from tw_lens.reading.model_parts import residual_hooks
from tw_lens.reading.precision import default_tolerance, is_half_precision
from tw_lens.reading.prompts import Prompt, tokenize_prompt
from tw_lens.reading.stack_names import SOURCE_HOOK
from tw_lens.reading.stacks import is_encoder_decoder, stack
from tw_lens.reading.states import write_hooks, written_parts
from tw_lens.reading.weights import read_weights
from tw_lens.results import Result

if TYPE_CHECKING:
    import pandas as pd

CROSS = "cross_attn"


@dataclass(frozen=True)
class Comparison:
    """One quantity of one layer: the canonical form against the model.

    `stack` is "encoder" or "decoder" in an encoder-decoder, else empty.
    """

    layer: int
    quantity: str
    max_abs_error: float
    rel_error: float
    stack: str = ""


@dataclass(frozen=True, repr=False)
class Certificate(Result):
    """The result of `check`: whether the model passed, and the error of each quantity.

    `rel_error` is the largest absolute gap over the largest absolute value of the quantity in its
    layer. The layer of `logits` is the number of layers: they come after the last block.
    `source_tokens` are the encoder's in an encoder-decoder, whose `tokens` are the decoder's.
    """

    model_name: str
    tokens: tuple[int, ...]
    tolerance: float
    comparisons: tuple[Comparison, ...]
    caveats: tuple[Caveat, ...]
    source_tokens: tuple[int, ...] = ()

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
            f"{self.max_rel_error:.1e} at {self.worst.stack and self.worst.stack + ' '}layer "
            f"{self.worst.layer} {self.worst.quantity}, "
            f"tolerance {self.tolerance:.0e}, {len(self.tokens)} tokens"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per layer and quantity.

        Columns: stack (of an encoder-decoder), layer, quantity, max_abs_error, rel_error.
        """
        import pandas as pd

        table = pd.DataFrame([vars(c) for c in self.comparisons])
        stack = table.pop("stack")
        if stack.any():
            table.insert(0, "stack", stack)
        return table


@checked
def check(
    model: Any, prompt: Prompt, target: Prompt | None = None, *, tolerance: float | None = None
) -> Certificate:
    """Certify that the canonical form computes what the model computes.

    Recomputes q, k, v, attn_scores (with the model's rotation, before the mask; the pattern where
    TransformerLens' score hook holds only that: GPT-Neo, OPT), attn_out, mlp_pre (the neurons'
    inputs, gates included), mlp_out (rebuilt from the neurons), resid (the residual stream rebuilt
    from the canonical start, the recomputed attention and the model's MLP) and logits, and compares
    each with the model's own hooks. Of an encoder-decoder both stacks, and cross-attention too:
    cross_q, cross_k, cross_v, cross_attn_scores, cross_out.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run once and not changed.
        prompt: a text or token ids; for an encoder-decoder the source.
        target: for an encoder-decoder what its decoder reads: a text, which is shifted behind the
            model's start token, or token ids, which are not.
        tolerance: largest relative error that passes; 1e-4 for float32 models by default; eight
            steps of the number format in half precision (6e-2 in bfloat16, 8e-3 in float16),
            because the model itself rounds.

    Raises:
        UnsupportedModelError: a part of the model does not fit the canonical form.
        ValueError: the prompt is empty or longer than the context; a target is missing, or given
            to a model without a decoder of its own.

    Example:
        >>> check(model, "w5 w6 w7").passed
        True
    """
    if is_encoder_decoder(model):
        return _check_both_stacks(model, prompt, target, tolerance)
    if target is not None and optional(model, "blocks") is not None:
        raise ValueError(
            f"{name_of(model)} has one stack, and target= is what a second one reads; leave it out."
        )
    return certify(model, read_weights(model, device="cpu"), prompt, tolerance=tolerance)


def _check_both_stacks(
    model: Any, source: Prompt, target: Prompt | None, tolerance: float | None
) -> Certificate:
    """Certify both stacks of an encoder-decoder, and what crosses between them."""
    if target is None:
        raise ValueError(
            f"{name_of(model)} has an encoder and a decoder; give what each reads: check(model, "
            "source, target)."
        )
    stacks = {"encoder": stack(model, "encoder"), "decoder": stack(model, "decoder", source=source)}
    found = {
        name: certify(one, read_weights(one, device="cpu"), prompt, tolerance=tolerance)
        for (name, one), prompt in zip(stacks.items(), (source, target), strict=True)
    }
    encoder, decoder = found.values()
    return Certificate(
        model_name=name_of(model),
        tokens=decoder.tokens,
        source_tokens=encoder.tokens,
        tolerance=decoder.tolerance,
        comparisons=tuple(
            replace(c, stack=name) for name, one in found.items() for c in one.comparisons
        ),
        caveats=tuple(
            caveat._replace(name=f"{side}: {caveat.name}")
            for side, one in found.items()
            for caveat in one.caveats
        ),
    )


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
    parts_hooked = ("attn", CROSS) if weights.read_cross else ("attn",)
    also = [
        f"blocks.{n}.{part}.{hook}"
        for n in weights.attention_layers
        for part in parts_hooked
        for hook in HOOKS
    ]
    also += write_hooks(weights.n_layers) + mlp_hooks(weights.n_layers)
    logits, values = run(model, tokens, residuals, also=also)
    comparisons: list[Comparison] = []
    unread: list[int] = []
    in_half = is_half_precision(model)
    stream = initial_residual(model, weights.vocabulary, tokens)
    for index in range(weights.n_layers):
        before, after = (values[name] for name in residuals[index : index + 2])
        parts = None
        if index in weights.attention_layers:
            layer, block = host_layer(model, index), weights.block(index)
            theirs = {hook: values.get(f"{layer.attention_name}.{hook}") for hook in HOOKS}
            quantities, attn_out = compare_attention(block, before, theirs, in_half)
            parts = written_parts(values, layer, before, after)
            quantities.append(("attn_out", attn_out, parts.attn_out))
            cross_out = None
            if parts.cross_out is not None:
                mid = block.resid_mid(before, parts.attn_out)
                found, cross_out = _cross_quantities(weights, values, index, mid, in_half)
                quantities += [*found, ("cross_out", cross_out, parts.cross_out)]
            comparisons += [_compare(index, *quantity) for quantity in quantities]
            stream = block.resid_post(stream, attn_out, parts.mlp_out, cross_out)
        else:
            stream = stream + (after - before)
        mlp = readable_mlp(weights, index)
        if mlp is None:
            unread += [index] * (index not in weights.layers_without_mlp)
        else:
            found = compare_mlp(mlp, values, before, parts, in_half=in_half)
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


def _cross_quantities(
    weights: Weights, values: dict[str, Tensor], layer: int, x: Tensor, in_half: bool
) -> tuple[list[Quantity], Tensor]:
    """Return the quantities of a layer's cross-attention, and our output of it."""
    theirs = {hook: values.get(f"blocks.{layer}.{CROSS}.{hook}") for hook in HOOKS}
    found, out = compare_attention(
        weights.cross_block(layer), x, theirs, in_half, values[SOURCE_HOOK]
    )
    return [(f"cross_{name}", ours, value) for name, ours, value in found], out


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
