"""Studies: one question over many prompts through the running model, with controls."""

from tw_lens.studies.ablation_pieces import ABLATION_MEASURES
from tw_lens.studies.bootstrap import Estimate
from tw_lens.studies.checkpoint import CheckpointError
from tw_lens.studies.direction_ablation import direction_ablation
from tw_lens.studies.direction_ablation_result import SOURCES, DirectionAblation
from tw_lens.studies.direction_examples import direction_examples
from tw_lens.studies.direction_examples_result import DirectionExamples, Example
from tw_lens.studies.faithfulness import faithfulness
from tw_lens.studies.faithfulness_result import Agreement, Faithfulness
from tw_lens.studies.head_kinds import head_kinds
from tw_lens.studies.head_kinds_result import HEAD_KINDS, HeadKinds
from tw_lens.studies.layer_vocabulary import layer_vocabulary
from tw_lens.studies.neuron_ablation import NeuronAblation, neuron_ablation
from tw_lens.studies.neuron_examples import neuron_examples
from tw_lens.studies.neuron_examples_result import NeuronExample, NeuronExamples
from tw_lens.studies.paper_result import PaperFile, PaperTables
from tw_lens.studies.reference_text import (
    ReferenceTextError,
    reference_prompts,
    reference_vocabulary,
)
from tw_lens.studies.runner import CONTROLS
from tw_lens.studies.sweep import sweep
from tw_lens.studies.sweep_measures import SWEEP_MEASURES
from tw_lens.studies.sweep_result import Sweep, SweptModel
from tw_lens.studies.trajectory_alignment import (
    PLACES,
    TARGETS,
    TrajectoryAlignment,
    trajectory_alignment,
)
from tw_lens.studies.trajectory_statistics import TrajectoryStatistics, trajectory_statistics

__all__ = [
    "ABLATION_MEASURES",
    "CONTROLS",
    "HEAD_KINDS",
    "PLACES",
    "SOURCES",
    "SWEEP_MEASURES",
    "TARGETS",
    "Agreement",
    "CheckpointError",
    "DirectionAblation",
    "DirectionExamples",
    "Estimate",
    "Example",
    "Faithfulness",
    "HeadKinds",
    "NeuronAblation",
    "NeuronExample",
    "NeuronExamples",
    "PaperFile",
    "PaperTables",
    "ReferenceTextError",
    "Sweep",
    "SweptModel",
    "TrajectoryAlignment",
    "TrajectoryStatistics",
    "direction_ablation",
    "direction_examples",
    "faithfulness",
    "head_kinds",
    "layer_vocabulary",
    "neuron_ablation",
    "neuron_examples",
    "reference_prompts",
    "reference_vocabulary",
    "sweep",
    "trajectory_alignment",
    "trajectory_statistics",
]
