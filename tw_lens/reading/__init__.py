"""Reading: the only place that knows TransformerLens."""

from tw_lens.reading.certificate import Certificate, Comparison, certify, check, runs_in_half
from tw_lens.reading.edited import EditedRun, run_edited
from tw_lens.reading.kept import StatesNotLoaded, load_states, save_states
from tw_lens.reading.loading import ModelNotLoaded, load_model
from tw_lens.reading.prompts import Prompt, many_tokens
from tw_lens.reading.running import read_entering, read_streams
from tw_lens.reading.states import read_states
from tw_lens.reading.twin import fingerprint, random_twin
from tw_lens.reading.weights import read_weights

__all__ = [
    "Certificate",
    "Comparison",
    "EditedRun",
    "ModelNotLoaded",
    "Prompt",
    "StatesNotLoaded",
    "certify",
    "check",
    "fingerprint",
    "load_model",
    "load_states",
    "many_tokens",
    "random_twin",
    "read_entering",
    "read_states",
    "read_streams",
    "read_weights",
    "run_edited",
    "runs_in_half",
    "save_states",
]
