"""Parts of a TransformerLens model, measured where its flags cannot be trusted.

A norm is read by asking it: the candidate (gain as stored or as an offset from one, centred or
not, each eps on offer) that reproduces what the module itself returns is the right one.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from tw_lens.canonical import Norm, Rotary
from tw_lens.errors import UnsupportedModel


def architecture_of(model: Any) -> str:
    """The architecture's name, as the configuration has it."""
    cfg = model.cfg
    named = getattr(cfg, "architecture", None) or getattr(cfg, "original_architecture", None)
    return str(named or type(model).__name__)


def name_of(model: Any) -> str:
    """The model's name, as the configuration has it."""
    return str(getattr(model.cfg, "model_name", None) or architecture_of(model))


def plain(tensor: Tensor, what: str) -> Tensor:
    """A detached float32 copy on the CPU.

    Raises:
        ValueError: the tensor is empty of data, quantised, or holds NaN or infinity.
    """
    if tensor.is_meta:
        raise ValueError(
            f"{what} is on the meta device: it has no data. Load the model's weights first."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"{what} is quantised ({tensor.dtype}): its numbers are not the model's weights. Load "
            "the model in float32, bfloat16 or float16."
        )
    copy = tensor.detach().to("cpu", torch.float32, copy=True)
    if not torch.isfinite(copy).all():
        raise ValueError(
            f"{what} holds NaN or infinity: every result would be meaningless. Check the "
            "checkpoint it was loaded from."
        )
    return copy


def read_norm(module: Any, model: Any, where: str) -> Norm:
    """Read a norm by comparing candidates with what the module returns.

    Raises:
        UnsupportedModel: no candidate reproduces the module.
    """
    d_model = int(model.cfg.d_model)
    weight = _parameter(module, "w", "weight")
    bias = _parameter(module, "b", "bias")
    stored = torch.ones(d_model) if weight is None else plain(weight, f"{where}.weight")
    shift = torch.zeros(d_model) if bias is None else plain(bias, f"{where}.bias")
    dtype = torch.float32 if weight is None else weight.dtype
    device = model.cfg.device if weight is None else weight.device
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 4, d_model, generator=generator) + 0.5
    # The second pair is so small that eps decides the result.
    probe = (probe * torch.tensor([1.0, 3.0, 1e-3, 3e-3])[:, None]).to(dtype)
    with torch.no_grad():
        answer = module(probe.to(device)).float().cpu()
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    candidates = [
        Norm(gain=gain, bias=offset, eps=eps, centred=centred)
        for gain, offset, eps, centred in itertools.product(
            (stored,) if weight is None else (stored, stored + 1.0),
            (shift,) if bias is None else (shift, torch.zeros(d_model)),
            _epsilons(module, model),
            (True, False),
        )
    ]
    errors = [_mismatch(norm.affine(probe.float()), answer) for norm in candidates]
    best = min(range(len(candidates)), key=errors.__getitem__)
    if errors[best] > tolerance:
        raise UnsupportedModel(
            architecture_of(model),
            f"the norm {where} ({type(module).__name__}) is neither LayerNorm nor RMSNorm with a "
            f"gain and a bias (nearest candidate off by {errors[best]:.1e})",
            "Its residual stream can still be read with TransformerLens' own cache.",
        )
    return candidates[best]


def read_rotary(model: Any, attention: Any) -> Rotary | None:
    """The rotation of a block, from the tables the model itself uses; None without rotation."""
    cfg = model.cfg
    if getattr(cfg, "positional_embedding_type", None) != "rotary":
        return None
    if getattr(attention, "rotary_cos", None) is not None:  # HookedTransformer keeps its tables

        def tables(n: int) -> tuple[Tensor, Tensor]:
            return attention.rotary_cos[:n].float().cpu(), attention.rotary_sin[:n].float().cpu()

        interleaved = bool(cfg.rotary_adjacent_pairs)
    else:
        rotary_emb = getattr(model, "rotary_emb", None)
        if rotary_emb is None:
            raise UnsupportedModel(
                architecture_of(model),
                "its rotary positions are not in one module of the model",
                "Token norms and embedding distances do not need them.",
            )

        def tables(n: int) -> tuple[Tensor, Tensor]:
            device = attention.W_Q.device
            with torch.no_grad():
                cos, sin = rotary_emb(
                    torch.zeros(1, n, int(cfg.d_model), device=device),
                    torch.arange(n, device=device)[None],
                )
            return cos[0].float().cpu(), sin[0].float().cpu()

        interleaved = bool(getattr(cfg, "rotary_adjacent_pairs", False)) or bool(
            getattr(cfg, "rotary_interleaved_cos_sin", False)
        )
    return Rotary(tables=tables, rotary_dim=tables(1)[0].shape[-1], interleaved=interleaved)


def _parameter(module: Any, *names: str) -> Tensor | None:
    for name in names:
        for owner in (module, getattr(module, "original_component", None)):
            value = getattr(owner, name, None) if owner is not None else None
            if isinstance(value, Tensor):
                return value
    return None


def _epsilons(module: Any, model: Any) -> list[float]:
    inner = getattr(module, "original_component", None)
    found = [
        getattr(owner, name, None)
        for owner in (module, inner, model.cfg)
        for name in ("eps", "variance_epsilon")
    ]
    values = [float(value) for value in found if isinstance(value, (int, float, Tensor))]
    return list(dict.fromkeys(values)) or [1e-5]


def _mismatch(ours: Tensor, theirs: Tensor) -> float:
    gap = (ours - theirs).abs().amax(-1) / theirs.abs().amax(-1).clamp_min(1e-30)
    return float(gap.max())
