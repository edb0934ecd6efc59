"""Reading: the only place that knows TransformerLens."""

from tw_lens.reading.certificate import Certificate, Comparison, certify, check
from tw_lens.reading.kept import StatesNotLoaded, load_states, save_states
from tw_lens.reading.loading import ModelNotLoaded, load_model
from tw_lens.reading.states import read_states
from tw_lens.reading.weights import read_weights

__all__ = [
    "Certificate",
    "Comparison",
    "ModelNotLoaded",
    "StatesNotLoaded",
    "certify",
    "check",
    "load_model",
    "load_states",
    "read_states",
    "read_weights",
    "save_states",
]
