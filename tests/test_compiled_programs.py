"""Programs compiled by Tracr are read back as what they are: a truth that nobody here wrote."""

from __future__ import annotations

import pytest
import torch

import tw_lens as tw
from tests.compiled import (
    PROGRAMS,
    area_under_curve,
    compiled,
    coordinates,
    families_of_pairs,
    hidden,
    read_pairs,
    score_matrix,
    svd_scores,
    true_pairs,
)


def test_there_are_eleven_programs():
    assert len(PROGRAMS) == 11 and {"reverse", "histogram", "sort"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_head_is_read_as_the_program_says(name: str):
    program = compiled(name)
    weights, points = tw.read_weights(program.model), coordinates(program)
    assert tw.check(program.model, list(program.prompt)).max_rel_error < 1e-5
    stream = tw.read_states(program.model, list(program.prompt)).stream[-1]
    assert torch.allclose(stream, program.residual, atol=1e-5)  # what Tracr itself computes
    for head in program.heads:
        keys, written = (
            score_matrix(weights, points, head.layer, head.head, circuit)
            for circuit in ("QK", "OV")
        )
        if head.truth is None:
            assert not keys.any() and not written.any()
            continue
        pairs = read_pairs(keys, program.labels)
        assert pairs == true_pairs(program, head.truth)
        queries, key_families = families_of_pairs(pairs)
        assert (queries, key_families) == ({head.truth["queries"]}, {head.truth["keys"]})
        read, wrote = families_of_pairs(read_pairs(written, program.labels))
        assert (read, wrote) == ({head.truth["reads"]}, {head.truth["writes"]})


def test_programs_hidden_by_rotation_and_noise_are_read_better_than_by_plain_svd():
    ours, plain = [], []
    for name in ("reverse", "swapped", "successor", "first"):
        program = compiled(name)
        head = next(head for head in program.heads if head.truth is not None)
        pairs = true_pairs(program, head.truth)
        for seed in range(3):
            weights, points = hidden(program, head, 1.0, seed)
            scores = score_matrix(weights, points, 0, 0)
            ours.append(area_under_curve(scores, program.labels, pairs))
            plain.append(area_under_curve(svd_scores(weights, points, 0), program.labels, pairs))
    assert min(ours) > 0.9 and sum(ours) > sum(plain) + 0.1
