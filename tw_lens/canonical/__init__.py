"""Canonical form: frozen, typed weights and states, the same for every model and processing."""

from tw_lens.canonical.block import Block
from tw_lens.canonical.norm import Norm
from tw_lens.canonical.rotary import Rotary
from tw_lens.canonical.states import States
from tw_lens.canonical.vocabulary import ROWS_AT_ONCE, Readout, Rows, Vocabulary
from tw_lens.canonical.weights import Weights

__all__ = [
    "ROWS_AT_ONCE",
    "Block",
    "Norm",
    "Readout",
    "Rotary",
    "Rows",
    "States",
    "Vocabulary",
    "Weights",
]
