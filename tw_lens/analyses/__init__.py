"""Analyses: one function and one frozen result class per question."""

from tw_lens.analyses.attention_pattern import AttentionPattern, attention_pattern
from tw_lens.analyses.bias_directions import BiasDirections, bias_directions
from tw_lens.analyses.common_nouns import CommonNouns, common_nouns
from tw_lens.analyses.direction_association import DirectionAssociation, direction_association
from tw_lens.analyses.direction_coherence import DirectionCoherence, direction_coherence
from tw_lens.analyses.direction_degeneracy import DirectionDegeneracy, direction_degeneracy
from tw_lens.analyses.embedding_distances import EmbeddingDistances, embedding_distances
from tw_lens.analyses.head_atlas import HeadAtlas, head_atlas
from tw_lens.analyses.head_directions import head_svd
from tw_lens.analyses.head_distance import (
    HeadProbeByDistance,
    HeadScoreByDistance,
    head_probe_by_distance,
    head_score_by_distance,
)
from tw_lens.analyses.head_ellipsoid import HeadEllipsoid, head_ellipsoid
from tw_lens.analyses.head_position_scores import HeadPositionScores, head_position_scores
from tw_lens.analyses.head_probe import HeadProbe, head_probe
from tw_lens.analyses.head_spectrum import HeadSpectrum, head_spectrum
from tw_lens.analyses.neuron_probe import NeuronProbe, neuron_probe
from tw_lens.analyses.neuron_table import NeuronTable, neuron_table
from tw_lens.analyses.projection import Projection, fit_projection
from tw_lens.analyses.router_table import RouterTable, router_table
from tw_lens.analyses.score_attribution import ScoreAttribution, score_attribution
from tw_lens.analyses.score_directions import ScoreDirections, score_directions
from tw_lens.analyses.source_attribution import SourceAttribution, source_attribution
from tw_lens.analyses.span_shares import SpanShares, span_shares
from tw_lens.analyses.step_neurons import StepNeurons
from tw_lens.analyses.token_filter import TokenFilter, token_filter
from tw_lens.analyses.token_norms import TokenNorms, token_norms
from tw_lens.analyses.trajectory import Trajectory, trajectory
from tw_lens.analyses.trajectory_attribution import TrajectoryAttribution, trajectory_attribution

__all__ = [
    "AttentionPattern",
    "BiasDirections",
    "CommonNouns",
    "DirectionAssociation",
    "DirectionCoherence",
    "DirectionDegeneracy",
    "EmbeddingDistances",
    "HeadAtlas",
    "HeadEllipsoid",
    "HeadPositionScores",
    "HeadProbe",
    "HeadProbeByDistance",
    "HeadScoreByDistance",
    "HeadSpectrum",
    "NeuronProbe",
    "NeuronTable",
    "Projection",
    "RouterTable",
    "ScoreAttribution",
    "ScoreDirections",
    "SourceAttribution",
    "SpanShares",
    "StepNeurons",
    "TokenFilter",
    "TokenNorms",
    "Trajectory",
    "TrajectoryAttribution",
    "attention_pattern",
    "bias_directions",
    "common_nouns",
    "direction_association",
    "direction_coherence",
    "direction_degeneracy",
    "embedding_distances",
    "fit_projection",
    "head_atlas",
    "head_ellipsoid",
    "head_position_scores",
    "head_probe",
    "head_probe_by_distance",
    "head_score_by_distance",
    "head_spectrum",
    "head_svd",
    "neuron_probe",
    "neuron_table",
    "router_table",
    "score_attribution",
    "score_directions",
    "source_attribution",
    "span_shares",
    "token_filter",
    "token_norms",
    "trajectory",
    "trajectory_attribution",
]
