"""Every example in a docstring runs, on the golden tiny GPT-2."""

import doctest
import importlib
import pkgutil

import pytest

import tw_lens
from tests.encoder_decoders import shared
from tests.models import golden_bridge

MODULES = [
    info.name
    for info in pkgutil.walk_packages(tw_lens.__path__, "tw_lens.")
    if not info.name.endswith("cli")
]
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
WITHOUT_EXAMPLE = {"figure"}


@pytest.fixture(scope="module")
def names():
    model = golden_bridge()
    weights = tw_lens.read_weights(model)
    states = tw_lens.read_states(model, "w5 w6 w7")
    return {"encoder_decoder": shared("BART"), "model": model, "weights": weights, "states": states}


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = importlib.import_module(module)
    result = doctest.testmod(loaded, extraglobs=dict(names), optionflags=FLAGS)
    assert result.failed == 0


def test_every_public_call_has_an_example():
    calls = [getattr(tw_lens, name) for name in tw_lens.__all__ if name[0].islower()]
    missing = [call.__name__ for call in calls if ">>>" not in (call.__doc__ or "")]
    assert len(calls) >= 13 and missing == []
