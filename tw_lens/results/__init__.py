"""Results: the base class, token lists with their null, and the arguments that calls share."""

from tw_lens.results.arguments import (
    CIRCUITS,
    CONVENTIONS,
    Circuit,
    Convention,
    require_choice,
    require_distance,
    require_positive,
    require_some,
    require_weights,
)
from tw_lens.results.base import Result, figure
from tw_lens.results.caveats import caveats_at_distance, without_distance
from tw_lens.results.token_lists import (
    SIGNIFICANCE,
    NullComparison,
    TokenLists,
    make_token_lists,
    significance_summary,
)

__all__ = [
    "CIRCUITS",
    "CONVENTIONS",
    "SIGNIFICANCE",
    "Circuit",
    "Convention",
    "NullComparison",
    "Result",
    "TokenLists",
    "caveats_at_distance",
    "figure",
    "make_token_lists",
    "require_choice",
    "require_distance",
    "require_positive",
    "require_some",
    "require_weights",
    "significance_summary",
    "without_distance",
]
