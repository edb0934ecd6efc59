"""TransformerLens' own small models (`boot_native`) are exact in every setting.

How much a model amplifies rounding differs: without norms its scores grow, and the softmax turns
their absolute error into a relative one. The bound is therefore the model's own rounding, measured
as the gap between its float32 and its float64 run.
"""

from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.architectures.support import PROMPT
from tests.zoo import native
from tw_lens.reading.certificate import HOOKS
from tw_lens.reading.mlp_states import mlp_hooks
from tw_lens.reading.model_parts import residual_hooks

ROUNDINGS = 10
MASKED = 1e30  # scores of positions that a query does not see

PLAIN = {"attn_scores_soft_cap": -1.0, "positional_embedding_type": "standard"}
SETTINGS = {
    "LN": {},
    "RMS": {"normalization_type": "RMS"},
    "LNPre": {"normalization_type": "LNPre"},
    "RMSPre": {"normalization_type": "RMSPre"},
    "no norm": {"normalization_type": None},
    "rotary": {"positional_embedding_type": "rotary"},
    "partial rotary": {"positional_embedding_type": "rotary", "rotary_dim": 4},
    "scaled rotary": {
        "positional_embedding_type": "rotary",
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
    "soft-cap": {"attn_scores_soft_cap": 2.0},
    "logit soft-cap": {"output_logits_soft_cap": 3.0},
    "own scale": {"attn_scale": 3.0},
    "scale left out": {"attn_scale": 3.0, "use_attn_scale": False},
    "both ways": {"attention_dir": "bidirectional"},
    "one head": {"n_heads": 1, "n_key_value_heads": 1},
    "attention only": {"attn_only": True},
    "gated": {"gated_mlp": True},
}


def own_rounding(model: Any) -> float:
    """Return the largest relative gap of a quantity between the float32 and the float64 run.

    The model is in float64 afterwards.
    """
    names = residual_hooks(model)
    names += [f"blocks.{n}.attn.{hook}" for n in range(len(model.blocks)) for hook in HOOKS]
    names += mlp_hooks(len(model.blocks))

    def quantities() -> list[torch.Tensor]:
        with torch.no_grad():
            logits, cache = model.run_with_cache(torch.tensor([PROMPT]))
        return [logits.double(), *(cache[name].double() for name in names if name in cache)]

    def relative_gap(rounded: torch.Tensor, exact: torch.Tensor) -> float:
        seen = exact.isfinite() & (exact.abs() < MASKED)
        return float((rounded - exact)[seen].abs().max() / exact[seen].abs().max())

    rounded = quantities()
    model.double()
    return max(map(relative_gap, rounded, quantities()))


@pytest.mark.parametrize("name", SETTINGS)
def test_native_models_are_exact(name: str):
    model = native(**(PLAIN | SETTINGS[name]))
    certificate = tw.check(model, PROMPT)
    assert certificate.max_rel_error < ROUNDINGS * own_rounding(model)
    names = {"q", "k", "v", "attn_scores", "attn_out", "resid", "logits"}
    names |= set() if name == "attention only" else {"mlp_pre", "mlp_out"}
    assert names == set(certificate.to_dataframe().quantity)
