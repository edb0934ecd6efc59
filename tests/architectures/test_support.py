"""No architecture is wrong, and the table in the documentation is the table of the run."""

import pytest

from tests.architectures.support import EXACT, architectures, markdown, row, rows, written


@pytest.mark.parametrize("architecture", architectures())
def test_exact_or_refused(architecture: str):
    found = row(architecture)
    assert "WRONG" not in (found.outcome, found.processed)
    assert found.error < EXACT
    if found.outcome == "refused":
        assert len(found.remarks.split()) > 3


@pytest.mark.parametrize("architecture", architectures())
def test_every_step_is_the_sum_of_what_heads_and_mlp_added(architecture: str):
    found = row(architecture)
    assert found.movers_gap < 1e-5 and found.heads_apart


@pytest.mark.parametrize("architecture", architectures())
def test_pieces_of_a_head_are_taken_out_of_the_running_model(architecture: str):
    """The stream is the canonical form's, to rounding, and what the head writes has changed."""
    found = row(architecture)
    assert found.taken_out_gap < EXACT and found.taken_out_change > 0.01


def test_enough_architectures_are_exact():
    attending = [found for found in rows() if found.kind == "attention"]
    exact = [found for found in attending if found.outcome == "exact"]
    assert len(exact) >= 45
    assert len(exact) / len(attending) >= 0.95


def test_the_table_in_the_docs_is_the_run():
    assert written() == markdown(rows()), (
        "the table of architectures is stale; run: python -m tests.architectures.support"
    )
