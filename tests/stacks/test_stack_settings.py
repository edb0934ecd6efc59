"""Settings of published encoder-decoders that the small models' defaults would hide."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.encoder_decoders import NAMES, SOURCE, TARGET
from tests.zoo import zoo_bridge

EXACT = 2e-5


def error(model: Any, source: Any = SOURCE, target: Any = TARGET) -> float:
    return tw.check(model, source, target).max_rel_error


@pytest.mark.parametrize("name", ["Marian", "Pegasus", "BART", "mBART", "M2M100", "Blenderbot"])
def test_embeddings_are_scaled_where_the_model_scales_them(name: str):
    model = zoo_bridge(NAMES[name], scale_embedding=True)
    for stack in ("encoder", "decoder"):
        weights = tw.read_weights(tw.stack(model, stack))
        assert weights.vocabulary.scale == pytest.approx(weights.d_model**0.5, rel=1e-4)
    assert error(model) < EXACT


def test_a_bias_of_logits_behind_the_unembedding_is_read():
    model = zoo_bridge("MarianMTModel")
    model.original_model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    weights = tw.read_weights(tw.stack(model, "decoder"))
    assert float(weights.readout.b_U.abs().max()) > 1
    assert error(model) < EXACT


def test_an_encoders_window_reaches_as_far_on_either_side():
    sides = {side: {"sliding_window": 3} for side in ("encoder", "decoder")}
    assert error(zoo_bridge(NAMES["T5Gemma"], **sides)) < EXACT


def test_attention_to_summaries_is_refused_by_name():
    model = zoo_bridge(
        NAMES["LongT5"], encoder_attention_type="transient-global", global_block_size=4
    )
    with pytest.raises(tw.UnsupportedModelError, match="transient-global"):
        tw.read_weights(tw.stack(model, "encoder"))
    assert tw.check(tw.stack(model, "decoder", source=SOURCE), TARGET).max_rel_error < EXACT


@pytest.mark.parametrize(("name", "pad"), [("T5Gemma", 1), ("M2M100", 1)])
def test_padding_that_a_model_finds_by_its_id_is_refused(name: str, pad: int):
    encoder = tw.stack(zoo_bridge(NAMES[name]), "encoder")
    with pytest.raises(ValueError, match=f"holds token {pad}, which"):
        tw.read_states(encoder, [5, 6, pad, 7])


def test_a_target_may_begin_with_a_start_token_that_pads_too():
    model = zoo_bridge(NAMES["T5"], vocab_size=1000, pad_token_id=997, decoder_start_token_id=997)
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert error(model, [5, 6], [997, 7, 8]) < EXACT
    for target in ([7, 8, 997], [997, 997, 7]):
        with pytest.raises(ValueError, match="begin or end in padding"):
            tw.check(model, [5, 6], target)


def test_a_model_without_a_start_token_says_so():
    decoder = tw.stack(zoo_bridge(NAMES["mBART"], decoder_start_token_id=None), "decoder")
    with pytest.raises(ValueError, match="names no token that its decoder starts with"):
        decoder.to_tokens("w5")


@pytest.mark.parametrize("d_vocab", [800, 1500])
def test_stacks_with_vocabularies_of_their_own(d_vocab: int):
    model = zoo_bridge(
        "MarianMTModel", share_encoder_decoder_embeddings=False, decoder_vocab_size=d_vocab
    )
    assert error(model, target=[2, d_vocab - 5]) < EXACT
    assert tw.read_weights(tw.stack(model, "decoder")).d_vocab == d_vocab
    with pytest.raises(IndexError, match="outside 0 to"):
        tw.check(model, SOURCE, [2, d_vocab])
    with pytest.raises(tw.UnsupportedModelError, match=f"997 tokens and its decoder {d_vocab}"):
        tw.read_weights(tw.stack(model, "cross"))


def test_the_source_is_read_with_the_encoders_own_embeddings():
    model = zoo_bridge("MarianMTModel", share_encoder_decoder_embeddings=False)
    weights = tw.read_weights(tw.stack(model, "cross"))
    block, source = weights.cross_block(1), weights.source_vocabulary
    assert source is not None
    keys = block.keys(source.embed(torch.arange(weights.d_vocab)))
    query = block.queries(weights.vocabulary.embed(torch.tensor([7])))[0]
    expected = torch.einsum("he,whe->hw", query, keys).topk(3).indices
    probe = tw.head_probe(weights, layer=1, words=[7], k=3)
    assert probe.lists.token_index.tolist() == expected.tolist()


def test_stacks_of_different_widths():
    wider = {"encoder": {"hidden_size": 64}, "decoder": {"cross_attention_hidden_size": 64}}
    model = zoo_bridge(NAMES["T5Gemma"], **wider)
    assert error(model) < EXACT
    with pytest.raises(tw.UnsupportedModelError, match="64 dimensions and its decoder 48"):
        tw.read_weights(tw.stack(model, "cross"))


def test_prompts_longer_than_a_stacks_own_context_are_refused():
    model = zoo_bridge(NAMES["LED"], max_decoder_position_embeddings=16)
    with pytest.raises(ValueError, match="24 tokens and the model's context 16"):
        tw.check(model, SOURCE, TARGET * 2)
    with pytest.raises(ValueError, match="72 tokens and the model's context 64"):
        tw.check(model, SOURCE * 6, TARGET)


@pytest.mark.parametrize("name", ["T5", "LongT5"])
def test_distances_beyond_the_last_bucket(name: str):
    model = zoo_bridge(NAMES[name], relative_attention_max_distance=24)
    long = [3 + i % 900 for i in range(48)]
    assert error(model, long, long[::-1]) < EXACT


def test_a_source_is_not_changed_with_the_callers_tensor():
    ids = torch.tensor(SOURCE)
    decoder = tw.stack(zoo_bridge(NAMES["BART"]), "decoder", source=ids)
    ids[:] = 5
    assert decoder.source.tolist() == SOURCE


def test_an_encoder_decoder_is_no_model_of_one_stack():
    with pytest.raises(tw.UnsupportedModelError, match=r"Give one of them: stack\(model"):
        tw.read_states(zoo_bridge(NAMES["BART"]), SOURCE)
