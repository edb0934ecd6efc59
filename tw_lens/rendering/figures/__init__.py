"""Figures: one plotly figure per result class; importing this package registers all of them."""

from tw_lens.rendering.figures import (  # noqa: F401 - imported to register their figures
    atlas,
    coherence,
    direction_examples,
    distance,
    faithfulness,
    head_kinds,
    heads,
    neuron_ablation,
    neuron_examples,
    neurons,
    paper_tables,
    points,
    score_attribution,
    score_directions,
    source_attribution,
    step_neurons,
    studies,
    sweep,
    tokens,
    trajectory,
    trajectory_attribution,
)
from tw_lens.rendering.figures.trajectory import plot_trajectories
from tw_lens.rendering.figures.trajectory_measures import plot_trajectory_measures

__all__ = ["plot_trajectories", "plot_trajectory_measures"]
