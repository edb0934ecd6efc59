"""Encoder-decoders on TransformerLens 3.9: bridges are read, HookedEncoderDecoder is refused."""

import pytest

import tw_lens as tw
from tests.encoder_decoders import SOURCE, TARGET, shared

EXACT = 2e-5


@pytest.mark.parametrize("name", ["BART", "Marian", "LongT5", "T5Gemma"])
def test_a_bridge_is_exact(name: str):
    assert tw.check(shared(name), SOURCE, TARGET).max_rel_error < EXACT


def test_what_does_not_run_names_the_versions():
    """T5's blocks return other values in the installed transformers than this release takes."""
    with pytest.raises(tw.UnsupportedModelError, match=r"does not run with transformer-lens 3\.9"):
        tw.check(shared("T5"), SOURCE, TARGET)


@pytest.mark.parametrize("call", ["check", "read_weights", "stack"])
def test_the_older_form_is_refused_by_name(call: str):
    from transformer_lens import HookedEncoderDecoder, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_mlp=64, d_vocab=50, act_fn="relu",
        normalization_type="RMSPre", positional_embedding_type="relative_positional_bias",
        relative_attention_max_distance=32, relative_attention_num_buckets=8,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = HookedEncoderDecoder(config)
    calls = {
        "check": lambda: tw.check(model, SOURCE, TARGET),
        "read_weights": lambda: tw.read_weights(model),
        "stack": lambda: tw.stack(model, "encoder"),
    }
    with pytest.raises(tw.UnsupportedModelError, match=r"TransformerBridge|encoder and decoder"):
        calls[call]()
