"""Small encoder-decoders of every architecture, their stacks, and what each stack reads."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import tw_lens as tw
from tests.zoo import zoo_bridge

NAMES = {
    "T5": "T5ForConditionalGeneration",
    "mT5": "MT5ForConditionalGeneration",
    "LongT5": "LongT5ForConditionalGeneration",
    "Switch": "SwitchTransformersForConditionalGeneration",
    "T5Gemma": "T5GemmaForConditionalGeneration",
    "BART": "BartForConditionalGeneration",
    "mBART": "MBartForConditionalGeneration",
    "Marian": "MarianMTModel",
    "Pegasus": "PegasusForConditionalGeneration",
    "Blenderbot": "BlenderbotForConditionalGeneration",
    "M2M100": "M2M100ForConditionalGeneration",
    "LED": "LEDForConditionalGeneration",
    "Florence-2": "Florence2ForConditionalGeneration",
}
SOURCE, TARGET = list(range(3, 15)), [2, *range(40, 51)]


@lru_cache(maxsize=4)
def shared(name: str, processed: bool = False) -> Any:
    """Return a small model for tests that only read."""
    model = zoo_bridge(NAMES[name])
    if processed:
        with warnings.catch_warnings():  # "does not support fold_ln"
            warnings.simplefilter("ignore")
            model.enable_compatibility_mode()
    return model


@lru_cache(maxsize=6)
def shared_stack(name: str, stack: str) -> tuple[Any, tw.Weights, tw.States]:
    """Return a stack, its weights, and the states that its attention reads."""
    model = shared(name)
    one = tw.stack(model, stack, source=None if stack == "encoder" else SOURCE)
    read = tw.stack(model, "decoder", source=SOURCE) if stack == "cross" else one
    prompt = SOURCE if stack == "encoder" else TARGET
    return one, tw.read_weights(one), tw.read_states(read, prompt)
