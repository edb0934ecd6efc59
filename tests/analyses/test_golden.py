"""The published convention against the golden file, on a bridge."""

from collections.abc import Callable

import pytest

import tw_lens as tw
from tests.golden import CHECKS
from tests.models import golden_bridge
from tw_lens.canonical import Weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    return tw.read_weights(golden_bridge())


@pytest.mark.parametrize("check", CHECKS)
def test_golden(check: Callable[[Weights], None], weights: Weights):
    check(weights)


def test_published_needs_unprocessed_weights():
    model = golden_bridge()
    model.enable_compatibility_mode()
    weights = tw.read_weights(model)
    published = {"convention": "published"}
    calls = [
        lambda: tw.token_norms(weights, **published),
        lambda: tw.head_probe(weights, layer=0, words=[1], **published),
        lambda: tw.head_probe(weights, layer=0, words=[1], circuit="OV", **published),
        lambda: tw.head_spectrum(weights, layer=0, **published),
        lambda: tw.bias_directions(weights, layer=0, **published),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"needs the raw weights.*folded"):
            call()
    with pytest.raises(ValueError, match=r"scale=False needs the raw weights"):
        tw.token_norms(weights, scale=False)
