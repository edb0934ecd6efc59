"""TransformerLens' own small models (`boot_native`) are exact in every setting."""

import pytest

import tw_lens as tw
from tests.architectures.support import EXACT, PROMPT
from tests.zoo import native

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


@pytest.mark.parametrize("name", SETTINGS)
def test_native_models_are_exact(name: str):
    certificate = tw.check(native(**(PLAIN | SETTINGS[name])), PROMPT)
    assert certificate.max_rel_error < EXACT
    assert {"q", "k", "v", "attn_scores", "attn_out", "resid", "logits"} == set(
        certificate.to_dataframe().quantity
    )
