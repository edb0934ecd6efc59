"""The real model that ships in a package: certified raw and processed, and it knows its proverb."""

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge
from tw_lens.reading import load_model
from tw_lens.reading.loading import bundled_file

PROMPT = "To kill two birds with one stone"


@pytest.fixture(scope="module")
def smollm2():
    return load_model()


def test_certified_raw_and_processed_with_the_same_spectra(smollm2):
    certificate = tw.check(smollm2, PROMPT)
    assert certificate.passed and certificate.max_rel_error < 1e-5
    raw = tw.head_spectrum(tw.read_weights(smollm2), layer=15, circuit="QK", n=5)
    smollm2.enable_compatibility_mode()
    assert tw.check(smollm2, PROMPT).max_rel_error < 1e-5
    processed = tw.head_spectrum(tw.read_weights(smollm2), layer=15, circuit="QK", n=5)
    gap = (raw.singular_values - processed.singular_values).abs() / raw.singular_values.amax()
    assert float(gap.max()) < 1e-5


def test_the_last_bird_is_killed_with_a_stone(smollm2):
    weights = tw.read_weights(smollm2)
    states = tw.read_states(smollm2, "To kill two birds with one")
    assert tw.trajectory(weights, states).reading(weights.n_layers, len(states) - 1)[0] == " stone"


def test_certified_in_bfloat16():
    from transformers import AutoModelForCausalLM

    file = bundled_file()
    held = AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.bfloat16
    )
    model = as_bridge(held, "smollm2")
    certificate = tw.check(model, range(1000, 1012))
    assert next(model.parameters()).dtype == torch.bfloat16
    assert certificate.passed and certificate.max_rel_error > 1e-3
