"""MLPs that Tracr compiled are lookup tables: neurons are read back as the program's functions."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

import tw_lens as tw
from tests.compiled import compiled, coordinates

LOOKUPS: list[tuple[str, int, tuple[str, ...], str, Callable[..., float], int]] = [
    # program, layer, families read, family written, function of their values, entries
    ("reverse", 1, ("indices", "length_5"), "opp_idx_4", lambda i, n: n - i, 30),
    ("reverse", 2, ("opp_idx_4",), "opp_idx-1_3", lambda value: value - 1, 10),
    ("sort", 0, ("indices", "tokens"), "sequence_map_13", lambda i, t: t + i / 5, 20),
]


@pytest.mark.parametrize(("name", "layer", "read", "written", "function", "entries"), LOOKUPS)
def test_every_entry_of_a_lookup_table_is_read_back(
    name: str, layer: int, read: tuple[str, ...], written: str, function: Callable, entries: int
):
    program = compiled(name)
    weights = tw.read_weights(program.model)
    table = tw.neuron_table(weights, layer=layer, k=len(read), points=coordinates(program))
    found = {}
    for n, norm in enumerate(table.norm_out.tolist()):
        if norm < 1e-6:
            continue
        keys = dict(_split(label) for label in table.reads.token_string[n])
        family, value = _split(table.writes.token_string[n][0])
        assert set(keys) == set(read) and family == written
        arguments = tuple(keys[one] for one in read)
        assert float(value) == pytest.approx(function(*map(float, arguments)))
        found[arguments] = value
    assert len(found) == entries


def _split(label: str) -> tuple[str, str]:
    family, _, value = re.fullmatch(r"(.*)(:)(.*)", label).groups()
    return family, value


def test_a_probe_of_a_coordinate_drives_the_neurons_that_look_it_up():
    program = compiled("reverse")
    weights = tw.read_weights(program.model)
    points = tw.Points(torch.eye(len(program.labels)), program.labels, "state")
    with pytest.raises(ValueError, match="the points are of kind 'direction'"):
        tw.neuron_probe(weights, layer=2, words=[0], points=coordinates(program))
    probe = tw.neuron_probe(weights, layer=2, words=["opp_idx_4:2"], n=1, k=1, points=points)
    assert probe.lists.token_string == (("opp_idx-1_3:1",),)
    assert float(probe.share) == pytest.approx(1)
