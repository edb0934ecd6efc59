"""Results: base class, token lists with their null comparison, and argument checks."""

from tw_lens.results.arguments import CIRCUITS, CONVENTIONS, Circuit, Convention, require_distance
from tw_lens.results.base import Result, figure
from tw_lens.results.caveats import caveats_at_distance, without_distance
from tw_lens.results.token_lists import (
    SIGNIFICANCE,
    NullComparison,
    TokenLists,
    make_token_lists,
    significance_summary,
)
from tw_lens.results.token_source import TokenSource

__all__ = [
    "CIRCUITS",
    "CONVENTIONS",
    "SIGNIFICANCE",
    "Circuit",
    "Convention",
    "NullComparison",
    "Result",
    "TokenLists",
    "TokenSource",
    "caveats_at_distance",
    "figure",
    "make_token_lists",
    "require_distance",
    "significance_summary",
    "without_distance",
]
