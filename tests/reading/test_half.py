"""Half precision: the canonical form holds the stored numbers, and mistakes are detected."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge, tiny_hf
from tests.reading.test_certificate import BROKEN, PROMPT, altered, scale_off, without_eps
from tw_lens.canonical import Block
from tw_lens.reading import certify

HALVES = (torch.bfloat16, torch.float16)
ARCHITECTURES = ("gpt2", "neox", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2")
# Smaller than the rounding of bfloat16, or of any half precision.
UNDETECTABLE = {torch.bfloat16: (scale_off, without_eps), torch.float16: (without_eps,)}
MISTAKES = [
    (dtype, architecture, change)
    for dtype in HALVES
    for architecture, change, _ in BROKEN
    if change not in UNDETECTABLE[dtype]
]


@lru_cache(maxsize=4)
def half(architecture: str, dtype: torch.dtype) -> Any:
    """Return a tiny bridge with every parameter in half precision."""
    return as_bridge(tiny_hf(architecture).to(dtype), f"tiny-{architecture}")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_errors_are_within_the_models_own_rounding(architecture: str, dtype: torch.dtype):
    certificate, step = tw.check(half(architecture, dtype), PROMPT), torch.finfo(dtype).eps
    assert certificate.passed and certificate.tolerance == 8 * step
    assert step / 2 < certificate.max_rel_error < 2.5 * step
    worst = certificate.to_dataframe().groupby("quantity").rel_error.max()
    assert worst[["q", "k", "v", "logits"]].max() < step


@pytest.mark.parametrize("dtype", HALVES)
def test_the_canonical_form_is_float32_of_the_stored_numbers(dtype: torch.dtype):
    rounded = as_bridge(tiny_hf("gpt2").to(dtype).float(), "tiny-gpt2")
    ours, theirs = tw.read_weights(half("gpt2", dtype)), tw.read_weights(rounded)
    for name in ("A_Q", "A_K", "A_V", "A_O", "a_Q", "a_O"):
        a, b = getattr(ours.block(1), name), getattr(theirs.block(1), name)
        assert a.dtype == torch.float32 and torch.equal(a, b)
    spectra = [tw.head_spectrum(weights, layer=1, n=2) for weights in (ours, theirs)]
    assert spectra[0].singular_values.dtype == torch.float32
    assert torch.equal(spectra[0].singular_values, spectra[1].singular_values)
    probes = [tw.head_probe(weights, layer=1, words=[5]) for weights in (ours, theirs)]
    assert torch.equal(probes[0].lists.score, probes[1].lists.score)


@pytest.mark.parametrize(("dtype", "architecture", "change"), MISTAKES)
def test_mistakes_are_detected(
    dtype: torch.dtype, architecture: str, change: Callable[[Block], Block]
):
    model = half(architecture, dtype)
    certificate = certify(model, altered(tw.read_weights(model), change), PROMPT)
    assert not certificate.passed
    margin = 1.2 if change is scale_off else 2.0
    assert certificate.max_rel_error > margin * certificate.tolerance


def test_the_coarsest_format_of_a_mixed_model_decides():
    hf_model = tiny_hf("llama").to(torch.bfloat16)
    hf_model.model.embed_tokens.float()
    model = as_bridge(hf_model, "tiny-llama")
    assert next(model.parameters()).dtype == torch.float32
    weights = tw.read_weights(model)
    assert tw.reading.precision.default_tolerance(model) == 8 * torch.finfo(torch.bfloat16).eps
    assert weights.block(0).A_Q.dtype == torch.float32
