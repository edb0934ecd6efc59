"""Reading: the only place that knows TransformerLens."""

from tw_lens.reading.certificate import Certificate, Comparison, certify, check
from tw_lens.reading.fingerprint import fingerprint
from tw_lens.reading.forward import (
    read_resid_pre,
    read_resid_pre_of_layers,
    read_residuals,
)
from tw_lens.reading.intervention import InterventionRun, run_with_head_change
from tw_lens.reading.loading import ModelLoadError, load_model
from tw_lens.reading.mlp_intervention import run_with_mlp_change
from tw_lens.reading.mlp_states import read_resid_mid
from tw_lens.reading.precision import is_half_precision
from tw_lens.reading.prompts import Prompt, special_tokens_around, tokenize_prompts
from tw_lens.reading.random_weights import permute_weights
from tw_lens.reading.stacks import is_encoder_decoder, stack
from tw_lens.reading.states import read_states
from tw_lens.reading.states_io import StatesFileError, load_states, save_states
from tw_lens.reading.weights import read_weights

__all__ = [
    "Certificate",
    "Comparison",
    "InterventionRun",
    "ModelLoadError",
    "Prompt",
    "StatesFileError",
    "certify",
    "check",
    "fingerprint",
    "is_encoder_decoder",
    "is_half_precision",
    "load_model",
    "load_states",
    "permute_weights",
    "read_resid_mid",
    "read_resid_pre",
    "read_resid_pre_of_layers",
    "read_residuals",
    "read_states",
    "read_weights",
    "run_with_head_change",
    "run_with_mlp_change",
    "save_states",
    "special_tokens_around",
    "stack",
    "tokenize_prompts",
]
