"""Mutations of the parts that only encoder-decoders have: each makes the certificate fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.encoder_decoders import SOURCE, TARGET, shared_stack
from tw_lens.canonical import Block, Norm, Weights
from tw_lens.reading.certificate import certify

EXACT, FAILS = 2e-5, 1e-3
Mutate = Callable[[Block], Block]


def scores(block: Block, **parts: object) -> Block:
    return replace(block, attention_scores=replace(block.attention_scores, **parts))


def relative(block: Block, **parts: object) -> Block:
    return scores(block, relative=replace(block.attention_scores.relative, **parts))


def without_source_norm(block: Block) -> Block:
    return replace(block, source_norm=Norm.none(block.W_K.shape[1]))


def source_gain_of_one(block: Block) -> Block:
    norm = block.source_norm
    assert norm is not None
    return replace(block, source_norm=replace(norm, gain=torch.ones_like(norm.gain)))


def norms_in_another_order(block: Block) -> Block:
    assert block.stream_norms is not None
    return replace(block, stream_norms=block.stream_norms[::-1])


OF_BLOCKS: dict[str, tuple[str, str, Mutate, str]] = {
    "no relative bias": ("T5", "encoder", partial(scores, relative=None), "attn_scores"),
    "bias of one direction only": (
        "T5", "encoder", partial(relative, both_ways=False), "attn_scores"),
    "bias of both directions": ("T5", "decoder", partial(relative, both_ways=True), "attn_scores"),
    "last bucket elsewhere": ("T5", "encoder", partial(relative, max_distance=10), "attn_out"),
    "a scale on scores": ("T5", "decoder", partial(scores, scale=12**-0.5), "attn_scores"),
    "no local radius": ("LongT5", "encoder", partial(scores, window=None), "attn_out"),
    "no window": ("LED", "encoder", partial(scores, window=None), "attn_out"),
    "a causal encoder": ("BART", "encoder", partial(scores, causal=True), "attn_out"),
    "a decoder that looks ahead": ("BART", "decoder", partial(scores, causal=False), "attn_out"),
    "norms in another order": ("BART", "decoder", norms_in_another_order, "resid"),
}  # fmt: skip
OF_CROSSINGS: dict[str, tuple[str, Mutate, str]] = {
    "the source without its norm": ("T5", without_source_norm, "cross_k"),
    "the source's norm without its gain": ("mBART", source_gain_of_one, "cross_k"),
    "a causal crossing": ("BART", partial(scores, causal=True), "cross_out"),
    "a rotated crossing": ("T5Gemma", lambda block: block, "cross_attn_scores"),
    "heads in another order": ("T5", lambda b: replace(b, W_V=b.W_V.flip(0)), "cross_v"),
    "no output bias": ("Marian", lambda b: replace(b, b_O=0 * b.b_O), "cross_out"),
}


def fails_at(name: str, stack: str, weights: Weights, quantity: str) -> bool:
    model, exact, _ = shared_stack(name, stack)
    prompt = SOURCE if stack == "encoder" else TARGET
    assert certify(model, exact, prompt).max_rel_error < EXACT
    table = certify(model, weights, prompt).to_dataframe()
    return float(table[table.quantity == quantity].rel_error.max()) > FAILS


@pytest.mark.parametrize("mutation", OF_BLOCKS)
def test_a_missing_part_of_a_stack_is_found(mutation: str):
    name, stack, mutate, quantity = OF_BLOCKS[mutation]
    _, weights, _ = shared_stack(name, stack)
    changed = replace(weights, read_block=lambda layer: mutate(weights.block(layer)))
    assert fails_at(name, stack, changed, quantity)


@pytest.mark.parametrize("mutation", OF_CROSSINGS)
def test_a_missing_part_of_the_crossing_is_found(mutation: str):
    name, mutate, quantity = OF_CROSSINGS[mutation]
    _, weights, _ = shared_stack(name, "decoder")
    if mutation == "a rotated crossing":
        rotary = weights.block(0).attention_scores.rotary
        assert rotary is not None
        mutate = partial(scores, rotary=rotary)
    changed = replace(weights, read_cross=lambda layer: mutate(weights.cross_block(layer)))
    assert fails_at(name, "decoder", changed, quantity)


def test_the_factors_of_embedding_and_readout_are_found():
    _, weights, _ = shared_stack("T5", "decoder")
    assert weights.readout.scale == pytest.approx(weights.d_model**-0.5)
    changed = replace(weights, readout=replace(weights.readout, scale=1.0))
    assert fails_at("T5", "decoder", changed, "logits")
    _, weights, _ = shared_stack("T5Gemma", "encoder")
    assert weights.vocabulary.scale == pytest.approx(weights.d_model**0.5, rel=1e-4)
    changed = replace(weights, vocabulary=replace(weights.vocabulary, scale=1.0))
    assert fails_at("T5Gemma", "encoder", changed, "resid")
