"""Analyses: one question, one function, one frozen result."""

from tw_lens.analyses.attention_pattern import AttentionPattern, attention_pattern
from tw_lens.analyses.bias_directions import BiasDirections, bias_directions
from tw_lens.analyses.chart import Chart, fit_map
from tw_lens.analyses.coherence import Coherence, coherence
from tw_lens.analyses.common_nouns import NounList, common_nouns
from tw_lens.analyses.direction_blocks import DirectionBlocks, direction_blocks
from tw_lens.analyses.ellipsoid import Ellipsoid, head_ellipsoid
from tw_lens.analyses.embedding_distances import EmbeddingDistances, embedding_distances
from tw_lens.analyses.head_atlas import HeadAtlas, head_atlas
from tw_lens.analyses.head_probe import HeadProbe, head_probe
from tw_lens.analyses.head_spectrum import HeadSpectrum, head_spectrum, head_svd
from tw_lens.analyses.movers import Movers, movers
from tw_lens.analyses.qk_distance import (
    DistanceProbe,
    ScoreByDistance,
    distance_probe,
    score_by_distance,
)
from tw_lens.analyses.result import Result, WordLists, figure
from tw_lens.analyses.side_pairing import SidePairing, side_pairing
from tw_lens.analyses.token_norms import TokenNorms, token_norms
from tw_lens.analyses.trajectory import Trajectory, trajectory
from tw_lens.analyses.word_filter import WordFilter, word_filter

__all__ = [
    "AttentionPattern",
    "BiasDirections",
    "Chart",
    "Coherence",
    "DirectionBlocks",
    "DistanceProbe",
    "Ellipsoid",
    "EmbeddingDistances",
    "HeadAtlas",
    "HeadProbe",
    "HeadSpectrum",
    "Movers",
    "NounList",
    "Result",
    "ScoreByDistance",
    "SidePairing",
    "TokenNorms",
    "Trajectory",
    "WordFilter",
    "WordLists",
    "attention_pattern",
    "bias_directions",
    "coherence",
    "common_nouns",
    "direction_blocks",
    "distance_probe",
    "embedding_distances",
    "figure",
    "fit_map",
    "head_atlas",
    "head_ellipsoid",
    "head_probe",
    "head_spectrum",
    "head_svd",
    "movers",
    "score_by_distance",
    "side_pairing",
    "token_norms",
    "trajectory",
    "word_filter",
]
