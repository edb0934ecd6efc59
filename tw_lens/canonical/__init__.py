"""Canonical form: frozen, typed weights and states, independent of model and processing."""

from tw_lens.canonical.ablation import AblatedHead, RankOnePieces, ablate_pieces, score_contribution
from tw_lens.canonical.attention_heads import Block
from tw_lens.canonical.attention_output import AttentionOutput, Gate, HeadRouting
from tw_lens.canonical.attention_scores import AttentionScores
from tw_lens.canonical.embedding import ROWS_AT_ONCE, TokenVectorChunks, Vocabulary
from tw_lens.canonical.head_faithfulness import HeadFaithfulness
from tw_lens.canonical.latent_attention import Bottleneck
from tw_lens.canonical.layer_vocabulary import (
    SOURCES,
    LayerVocabulary,
    Source,
    VocabularyFileError,
    apply_affine_map,
    load_vocabulary,
)
from tw_lens.canonical.mlp import MLP, PreActivations
from tw_lens.canonical.points import (
    POINT_KINDS,
    PointKind,
    Points,
    met_by,
    position_points,
    weights_of_points,
)
from tw_lens.canonical.points_io import load_points, sae_points
from tw_lens.canonical.relative_positions import RelativePositions
from tw_lens.canonical.rotary import Rotary
from tw_lens.canonical.sphere_projection import HeadNorm, Norm
from tw_lens.canonical.standardised_readout import standardise_readout
from tw_lens.canonical.states import Crossing, States
from tw_lens.canonical.token_points import (
    TokenPoints,
    combined_mask,
    token_points,
    whole_vocabulary_points,
)
from tw_lens.canonical.unembedding import Readout
from tw_lens.canonical.weights import Weights

__all__ = [
    "MLP",
    "POINT_KINDS",
    "ROWS_AT_ONCE",
    "SOURCES",
    "AblatedHead",
    "AttentionOutput",
    "AttentionScores",
    "Block",
    "Bottleneck",
    "Crossing",
    "Gate",
    "HeadFaithfulness",
    "HeadNorm",
    "HeadRouting",
    "LayerVocabulary",
    "Norm",
    "PointKind",
    "Points",
    "PreActivations",
    "RankOnePieces",
    "Readout",
    "RelativePositions",
    "Rotary",
    "Source",
    "States",
    "TokenPoints",
    "TokenVectorChunks",
    "Vocabulary",
    "VocabularyFileError",
    "Weights",
    "ablate_pieces",
    "apply_affine_map",
    "combined_mask",
    "load_points",
    "load_vocabulary",
    "met_by",
    "position_points",
    "sae_points",
    "score_contribution",
    "standardise_readout",
    "token_points",
    "weights_of_points",
    "whole_vocabulary_points",
]
