"""Studies: one question over many prompts through the running model, with controls."""

from tw_lens.studies.approach import PLACES, TARGETS, Approach, approach
from tw_lens.studies.direction_effect import SOURCES, DirectionEffect, direction_effect
from tw_lens.studies.direction_uses import direction_uses
from tw_lens.studies.kept import StudyNotResumed
from tw_lens.studies.taken_out import MEASURES
from tw_lens.studies.tally import Estimate
from tw_lens.studies.trajectory_statistics import TrajectoryStatistics, trajectory_statistics
from tw_lens.studies.uses import DirectionUses, Use
from tw_lens.studies.walks import CONTROLS

__all__ = [
    "CONTROLS",
    "MEASURES",
    "PLACES",
    "SOURCES",
    "TARGETS",
    "Approach",
    "DirectionEffect",
    "DirectionUses",
    "Estimate",
    "StudyNotResumed",
    "TrajectoryStatistics",
    "Use",
    "approach",
    "direction_effect",
    "direction_uses",
    "trajectory_statistics",
]
