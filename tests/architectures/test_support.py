"""No architecture is wrong, and the table in the documentation is the table of the run."""

import pytest

from tests.architectures.support import EXACT, architectures, markdown, row, rows, written


@pytest.mark.parametrize("architecture", architectures())
def test_exact_or_rejected(architecture: str):
    result = row(architecture)
    assert "WRONG" not in (result.outcome, result.processed)
    assert result.error < EXACT
    if result.outcome == "refused":
        assert len(result.remarks.split()) > 3


@pytest.mark.parametrize("architecture", architectures())
def test_heads_and_mlp_add_up_to_every_step(architecture: str):
    result = row(architecture)
    assert result.attribution_error < 1e-5 and result.heads_separable


@pytest.mark.parametrize("architecture", architectures())
def test_parts_of_queries_and_keys_sum_to_the_scores(architecture: str):
    assert row(architecture).score_error < 1e-5


@pytest.mark.parametrize("architecture", architectures())
def test_neurons_sum_to_what_the_mlp_adds_and_to_its_share(architecture: str):
    assert row(architecture).neuron_error < 1e-5


@pytest.mark.parametrize("architecture", architectures())
def test_kinds_and_named_points_of_every_architecture(architecture: str):
    assert row(architecture).kinds_are_finite


@pytest.mark.parametrize("architecture", architectures())
def test_a_head_is_ablated_in_the_running_model(architecture: str):
    """The residual stream is the canonical form's up to rounding, and the output has changed."""
    result = row(architecture)
    assert result.ablation_error < EXACT and result.ablation_change > 0.01


def test_enough_architectures_are_exact():
    attending = [r for r in rows() if r.kind == "attention"]
    exact = [r for r in attending if r.outcome == "exact"]
    assert len(exact) >= 45
    assert len(exact) / len(attending) >= 0.95


def test_enough_encoder_decoders_are_exact():
    two = [r for r in rows() if r.kind == "two stacks"]
    assert sum(r.outcome == "exact" for r in two) >= 13
    assert all(r.processed in ("exact", "cannot be") for r in two if r.outcome == "exact")


def test_the_table_in_the_docs_is_the_run():
    assert written() == markdown(rows()), (
        "the table of architectures is stale; run: python -m tests.architectures.support"
    )
