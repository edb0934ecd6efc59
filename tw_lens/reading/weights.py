"""Model to canonical weights: any TransformerLens model, read block by block, never changed."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from tw_lens.canonical import Block, Norm, Vocabulary, Weights
from tw_lens.reading.attention import read_block
from tw_lens.reading.caveats import caveats_of
from tw_lens.reading.embeddings import end_modules, read_readout, read_vocabulary
from tw_lens.reading.model_access import (
    POST_NORM,
    architecture_of,
    attention_of,
    name_of,
    original_module,
    resolved_module,
    unsupported,
)
from tw_lens.reading.norms import read_norm
from tw_lens.reading.offloaded import has_meta_weights, materialised
from tw_lens.reading.random_weights import fingerprint
from tw_lens.tokens import TokenStrings

READABLE = {torch.float64, torch.float32, torch.bfloat16, torch.float16}


def read_weights(model: Any) -> Weights:
    """Read a model's weights in canonical (folded-layernorm) form.

    Every block is read when it is asked for, raised to float32 on the CPU, and folded as
    `A_Q = P diag(gain) W_Q`, `a_Q = bias W_Q + b_Q` (definitions in `Block`), so that the result
    does not depend on how TransformerLens processed the model. The model is not changed.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`, raw or processed in any way.

    Returns:
        The weights, with the caveats that hold for this model.

    Raises:
        UnsupportedModelError: a part of the model does not fit the canonical form.
        ValueError: the embedding or unembedding has no data, is quantised, or holds NaN.

    Example:
        >>> weights = read_weights(model)
        >>> weights.block(0).A_Q.shape
        torch.Size([4, 64, 16])

    Source: arXiv 2309.07315, section 3.
    """
    _require_readable(model)
    attending = tuple(i for i, block in enumerate(model.blocks) if attention_of(block) is not None)
    if not attending:
        raise unsupported(model, "no layer has attention with hooks")
    norms = {layer: _attention_norm(model, layer) for layer in attending}
    with materialised(*end_modules(model)):
        vocabulary = read_vocabulary(model)
        readout = read_readout(model, vocabulary)
    centred_stream = (
        readout.norm.centred
        and len(attending) == len(model.blocks)
        and all(norm.centred for norm in norms.values())
    )

    @lru_cache(maxsize=1)
    def read(layer: int) -> Block:
        if layer not in norms:
            raise unsupported(
                model,
                f"layer {layer} has no attention",
                f"The layers with attention are {', '.join(map(str, attending))}.",
            )
        block = model.blocks[layer]
        with materialised(block, exclude=getattr(block, "mlp", None)):
            return read_block(
                model,
                layer,
                norms[layer],
                centred_stream=centred_stream,
                stream_norms=_stream_norms(model, layer),
            )

    first = read(attending[0])
    processed = _processing(list(norms.values()), readout.norm, vocabulary, centred_stream, first)
    return Weights(
        model_name=name_of(model),
        architecture=architecture_of(model),
        n_layers=len(model.blocks),
        attention_layers=attending,
        n_heads=first.n_heads,
        n_kv_heads=first.W_K.shape[0],
        d_model=int(model.cfg.d_model),
        d_head=first.d_head,
        vocabulary=vocabulary,
        readout=readout,
        tokens=TokenStrings(getattr(model, "tokenizer", None), len(vocabulary)),
        processed=processed,
        caveats=caveats_of(first, readout, processed, len(attending) < len(model.blocks)),
        read_block=read,
        read_fingerprint=lambda: fingerprint(model),
    )


def _require_readable(model: Any) -> None:
    """Refuse what is no TransformerLens language model, and weights that are not numbers."""
    stacks = any(name.endswith("blocks") for name in dir(model))
    if not hasattr(model, "cfg") or not (stacks or hasattr(model, "run_with_cache")):
        raise TypeError(
            f"read_weights takes a TransformerLens model (HookedTransformer or TransformerBridge), "
            f"not {type(model).__name__}: wrap it with TransformerBridge.boot_transformers."
        )
    if getattr(model, "blocks", None) is None:
        parts = [name for name, _ in model.named_children() if name.endswith("blocks")]
        crossed = any("decoder" in part for part in parts)
        more = ": an encoder and a decoder exchange words through cross-attention" * crossed
        raise unsupported(
            model, f"it has no single stack of blocks ({', '.join(parts) or 'none at all'}){more}"
        )
    if getattr(model, "embed", None) is None:
        raise unsupported(model, "it has no embed: there are no words to read")
    if has_meta_weights(model):
        raise ValueError(
            f"weights of {name_of(model)} are on the meta device, without data. Load them first."
        )
    packed = {p.dtype for p in model.parameters()} - READABLE
    if packed:
        raise ValueError(
            f"weights of {name_of(model)} are quantised ({', '.join(map(str, packed))}): their "
            "numbers are not the model's weights. Load it in float32, bfloat16 or float16."
        )


def _attention_norm(model: Any, layer: int) -> Norm:
    """The norm that attention reads through; none in post-norm models and in OLMo 2."""
    block = model.blocks[layer]
    ln1 = getattr(block, "ln1", None)
    if attention_of(block) is not getattr(block, "attn", None):
        owner = original_module(block)
        ln1 = getattr(owner, "norm", None) or getattr(owner, "temporal_pre_norm", None)
    if architecture_of(model) in POST_NORM or ln1 is None or resolved_module(ln1) is None:
        return Norm.none(int(model.cfg.d_model))
    return read_norm(ln1, model, f"blocks.{layer}.ln1")


def _stream_norms(model: Any, layer: int) -> tuple[Norm, Norm] | None:
    if architecture_of(model) not in POST_NORM:
        return None
    block = model.blocks[layer]
    return (
        read_norm(block.ln1, model, f"blocks.{layer}.ln1"),
        read_norm(block.ln2, model, f"blocks.{layer}.ln2"),
    )


def _processing(
    norms: list[Norm], final: Norm, vocabulary: Vocabulary, centred_stream: bool, first: Block
) -> tuple[str, ...]:
    """What TransformerLens has done to the weights, seen on the weights themselves."""
    done = []
    read_through = [norm for norm in (*norms, final) if norm.normalises]
    if read_through and all(norm.folded for norm in read_through):
        done.append("folded")
    if centred_stream:
        rows = vocabulary.embeddings(torch.arange(min(64, len(vocabulary))))
        if float(rows.mean(-1).abs().max()) < 1e-6 * float(rows.abs().max()):
            done.append("centred")
    if not first.b_V.any() and first.b_O.any() and (first.b_Q.any() or first.b_K.any()):
        done.append("without value biases")
    return tuple(done)
