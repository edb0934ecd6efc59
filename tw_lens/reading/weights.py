"""Model to canonical weights: any TransformerLens model, read block by block, never changed."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch

from tw_lens.arguments import checked
from tw_lens.canonical import MLP, Block, Norm, Readout, Vocabulary, Weights
from tw_lens.devices import CPU, WITHOUT_FLOAT64, moved, on_device, usable_device
from tw_lens.reading.attention import read_block
from tw_lens.reading.caveats import caveats_of
from tw_lens.reading.embeddings import read_positions, read_readout, read_vocabulary
from tw_lens.reading.fingerprint import fingerprint, sampled_fingerprint
from tw_lens.reading.layer import HostLayer, host_layer, host_layers
from tw_lens.reading.mlp import read_mlp
from tw_lens.reading.mlp_parts import host_mlp
from tw_lens.reading.model_access import (
    architecture_of,
    name_of,
    optional,
    resolved_module,
    tokenizer_of,
    unsupported,
)
from tw_lens.reading.model_exceptions import normalises_output, normalises_stream
from tw_lens.reading.model_parts import model_parts
from tw_lens.reading.norms import read_norm
from tw_lens.reading.offloaded import materialised
from tw_lens.reading.precision import coarsest_step
from tw_lens.reading.readable_models import require_effectless_hooks, require_readable
from tw_lens.reading.stacks import Stack
from tw_lens.reading.user_hooks import hooked_modules, without_point_hooks
from tw_lens.tokens import TokenStrings
from tw_lens.torch_settings import default_settings

STREAM_NORMS = ("ln1", "cross_ln", "ln2")  # after attention, cross-attention and MLP


@checked
@default_settings()  # a model is read on the CPU, then moved
def read_weights(model: Any, *, device: torch.device | str | None = None) -> Weights:
    """Read a model's weights in canonical (folded-layernorm) form.

    Every block is read on demand, converted to float32, and folded as
    `A_Q = P diag(gain) W_Q`, `a_Q = bias W_Q + b_Q` (definitions in `Block`), so that the result
    does not depend on how TransformerLens processed the model. The model is not changed.

    Args:
        model: a `HookedTransformer`, `HookedEncoder` or `TransformerBridge`, raw or processed in
            any way.
        device: where calls compute with these weights, "cpu" or "cuda:1"; by default where the
            model's embedding is. Results return to the CPU. Apple's "mps" has no float64, so its
            models are computed with on the CPU.

    Returns:
        The weights, with the caveats that hold for this model.

    Raises:
        UnsupportedModelError: a part of the model does not fit the canonical form.
        ValueError: the embedding or unembedding has no data, is quantised, or contains NaN; PyTorch
            hooks on the model's modules change its activations; the device does not exist.

    Example:
        >>> weights = read_weights(model)
        >>> weights.block(0).A_Q.shape
        torch.Size([4, 64, 16])

    Source: arXiv 2309.07315, section 3.
    """
    require_readable(model)
    layers = [layer for layer in host_layers(model) if layer.attention is not None]
    if not layers:
        raise unsupported(model, "no layer has attention with hooks")
    n_layers, hybrid = len(model.blocks), len(layers) < len(model.blocks)
    with without_point_hooks(model):
        norms = {layer.index: _attention_norm(layer) for layer in layers}
    with without_point_hooks(model), materialised(*model_parts(model).modules()):
        vocabulary = read_vocabulary(model)
        readout = read_readout(model, vocabulary)
    centred_stream = (
        readout.norm.centred and not hybrid and all(norm.centred for norm in norms.values())
    )
    device = _compute_device(device, vocabulary)
    read_on_cpu = _block_reader(layers, norms, centred_stream)
    keeping_last = lru_cache(maxsize=1)  # of a device, what was moved there
    first = read_on_cpu(layers[0].index)
    if hooked_modules(model):
        require_effectless_hooks(model, len(vocabulary))
    processed = _processing(list(norms.values()), readout, vocabulary, centred_stream, first)
    return Weights(
        model_name=name_of(model),
        architecture=architecture_of(model),
        n_layers=n_layers,
        attention_layers=tuple(norms),
        n_heads=first.n_heads,
        n_kv_heads=first.W_K.shape[0],
        d_model=int(model.cfg.d_model),
        d_head=first.d_head,
        vocabulary=moved(vocabulary, device),
        readout=moved(readout, device),
        tokens=TokenStrings(tokenizer_of(model), len(vocabulary)),
        processed=processed,
        caveats=caveats_of(first, vocabulary, readout, processed, hybrid),
        rounding=coarsest_step(model),
        read_positions=on_device(partial(read_positions, model, vocabulary), device),
        read_block=keeping_last(on_device(read_on_cpu, device)),
        read_mlp=keeping_last(on_device(_mlp_reader(model, norms, centred_stream), device)),
        read_fingerprint=lambda: fingerprint(model),
        sampled_fingerprint=sampled_fingerprint(model),
        device=device,
        layers_without_mlp=tuple(n.index for n in host_layers(model) if host_mlp(n) is None),
        **_crossing(model, device, centred_stream),
    )


def _crossing(model: Any, device: torch.device, centred_stream: bool) -> dict[str, Any]:
    """Return what weights of an encoder-decoder hold beside those of one stack.

    The blocks of cross-attention are the decoder's second ones; of its own weights the only ones.
    """
    if not isinstance(model, Stack):
        return {}
    if model.is_encoder:
        return {"stack": model.stack_name}
    with materialised(*model_parts(model.encoder).modules()):
        source = moved(read_vocabulary(model.encoder), device)
    held = {"stack": model.stack_name, "source_vocabulary": source}
    if model.stack_name == "cross":
        _require_common_words(model, source)
        return held
    layers = host_layers(model.cross)
    norms = {layer.index: _attention_norm(layer) for layer in layers}
    read = on_device(_block_reader(layers, norms, centred_stream), device)
    return held | {"read_cross": lru_cache(maxsize=1)(read)}


def _require_common_words(model: Stack, source: Vocabulary) -> None:
    """Reject cross-attention between stacks of other tokens or another width.

    Raises:
        UnsupportedModelError: with the sizes of both.
    """
    sizes = {"tokens": (len(source), model.cfg.d_vocab)}
    sizes["dimensions"] = (source.W_E.shape[1], model.cfg.d_model)
    for name, (of_encoder, of_decoder) in sizes.items():
        if of_encoder != of_decoder:
            raise unsupported(
                model,
                f"its encoder has {of_encoder} {name} and its decoder {of_decoder}, so that both "
                "sides of its cross-attention cannot be read with one vocabulary",
                "Encoder and decoder can be read, and check certifies the crossing.",
            )


def _compute_device(device: torch.device | str | None, vocabulary: Vocabulary) -> torch.device:
    """Return the device to compute on.

    Raises:
        ValueError: the device does not exist here.
    """
    found = usable_device(vocabulary.W_E.device if device is None else device)
    if device is None:
        return CPU if found.type in (*WITHOUT_FLOAT64, "meta") else found
    if found.type in WITHOUT_FLOAT64:
        raise ValueError(f"device {device!r} has no float64; give 'cpu', or leave it out.")
    if found.type == "meta":
        raise ValueError("device 'meta' holds no numbers; give 'cpu', or leave it out.")
    return found


def _block_reader(layers: list[HostLayer], norms: dict[int, Norm], centred_stream: bool) -> Any:
    """Return a function from a layer's number to its block; the last block is cached."""
    by_index = {layer.index: layer for layer in layers}

    @lru_cache(maxsize=1)
    def read(index: int) -> Block:
        layer = by_index[index]
        with (
            without_point_hooks(layer.block),
            materialised(layer.block, exclude=optional(layer.block, "mlp")),
        ):
            return read_block(
                layer,
                norms[index],
                centred_stream=centred_stream,
                stream_norms=_stream_norms(layer),
                source_norm=_source_norm(layer),
            )

    return read


def _mlp_reader(model: Any, norms: dict[int, Norm], centred_stream: bool) -> Any:
    """Return a function from a layer's number to its MLP; the last MLP is cached."""
    nothing = Norm.none(int(model.cfg.d_model))

    @lru_cache(maxsize=1)
    def read(index: int) -> MLP:
        layer = host_layer(model, index)
        with without_point_hooks(layer.block), materialised(layer.block):
            return read_mlp(
                layer,
                norms.get(index, nothing),
                (_stream_norms(layer) or ())[:-1],
                centred_stream=centred_stream,
            )

    return read


def _attention_norm(layer: HostLayer) -> Norm:
    """Read the norm before attention; none in post-norm models and in OLMo 2."""
    ln1 = optional(layer.block, "ln1")
    if layer.has_unhooked_attention:
        ln1 = optional(layer.original_block, "norm", "temporal_pre_norm")
    elsewhere = normalises_stream(layer.model) or normalises_output(layer.model)
    if elsewhere or ln1 is None or resolved_module(ln1) is None:
        return Norm.none(int(layer.model.cfg.d_model))
    return read_norm(ln1, layer.model, f"{layer.name}.ln1")


def _stream_norms(layer: HostLayer) -> tuple[Norm, ...] | None:
    """Read the norms of the residual stream in a post-norm model; None in other models."""
    if not normalises_stream(layer.model):
        return None
    if layer.attends_to_source:  # the norms of the decoder's whole block
        layer = host_layer(layer.model.decoder, layer.index)
    found = ((name, optional(layer.block, name)) for name in STREAM_NORMS)
    return tuple(
        read_norm(norm, layer.model, f"{layer.name}.{name}")
        for name, norm in found
        if norm is not None
    )


def _source_norm(layer: HostLayer) -> Norm | None:
    """Read the norm through which cross-attention reads the encoder; None in other attention."""
    if not layer.attends_to_source:
        return None
    encoder = layer.model.encoder
    final = optional(encoder, "ln_final")
    if final is None:
        return Norm.none(int(encoder.cfg.d_model))
    return read_norm(final, encoder, "encoder_ln_final")


def _processing(
    norms: list[Norm],
    readout: Readout,
    vocabulary: Vocabulary,
    centred_stream: bool,
    first: Block,
) -> tuple[str, ...]:
    """Detect TransformerLens' processing from the weights themselves."""
    processed = []
    active = [norm for norm in (*norms, readout.norm) if norm.normalises]
    if active and all(norm.folded for norm in active):
        processed.append("folded")
    if centred_stream:
        rows = vocabulary.embeddings(torch.arange(min(64, len(vocabulary))))
        if float(rows.mean(-1).abs().max()) < 1e-6 * float(rows.abs().max()):
            processed.append("centred")
    if not first.b_V.any() and first.b_O.any() and (first.b_Q.any() or first.b_K.any()):
        processed.append("without value biases")
    return tuple(processed)
