"""Canonical form: frozen, typed weights and states, the same for every model and processing."""

from tw_lens.canonical.block import Block
from tw_lens.canonical.latent import Latent
from tw_lens.canonical.norm import HeadNorm, Norm
from tw_lens.canonical.pieces import Pieces, WithoutPieces, part_of_scores, without_pieces
from tw_lens.canonical.rotary import Rotary
from tw_lens.canonical.scoring import Scoring
from tw_lens.canonical.states import States
from tw_lens.canonical.vocabulary import ROWS_AT_ONCE, Readout, Rows, Vocabulary
from tw_lens.canonical.weights import Weights
from tw_lens.canonical.writing import Gate, Writing

__all__ = [
    "ROWS_AT_ONCE",
    "Block",
    "Gate",
    "HeadNorm",
    "Latent",
    "Norm",
    "Pieces",
    "Readout",
    "Rotary",
    "Rows",
    "Scoring",
    "States",
    "Vocabulary",
    "Weights",
    "WithoutPieces",
    "Writing",
    "part_of_scores",
    "without_pieces",
]
