"""Prompts and caches in the shapes in which people hold them: taken, or rejected in a sentence."""

from collections import UserDict

import numpy as np
import pytest
import torch

import tw_lens as tw
from tests.models import shared_bridge, tiny_bridge, tokenizer

IDS = [5, 6, 7, 8]
TEXT = "w5 w6 w7 w8"


def run(model, names=None):
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([IDS]), names_filter=names)


def tokenized(**options):
    return tokenizer()(TEXT, add_special_tokens=False, **options)


PROMPTS = {
    "[1, n] list": [IDS],
    "[1, n] array": np.array([IDS], dtype=np.int32),
    "a list of numbers as tensors": [torch.tensor(i) for i in IDS],
    "a range": range(5, 9),
    "a tokenizer's output": tokenized(),
    "its tensors": tokenized(return_tensors="pt"),
    "a padded row": {"input_ids": [[0, 0, *IDS]], "attention_mask": [[0, 0, 1, 1, 1, 1]]},
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_that_are_taken(name: str):
    model = shared_bridge("gpt2")
    states = tw.read_states(model, PROMPTS[name])
    assert states.tokens.tolist() == IDS
    assert torch.equal(states.stream, tw.read_states(model, IDS).stream)
    assert tw.check(model, PROMPTS[name]).passed


def test_a_list_of_one_text_is_the_text():
    model = shared_bridge("llama")
    expected = tw.read_states(model, TEXT)
    for prompt in ([TEXT], (TEXT,)):
        assert torch.equal(tw.read_states(model, prompt).stream, expected.stream)


def padding(name: str):
    """Return a model whose tokenizer pads with token 9, of this name."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(9)} | {name: 9}
    backend = Tokenizer(WordLevel(words, unk_token="w0"))
    model = tiny_bridge("llama")
    model.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=name, unk_token="w0", eos_token="w1"
    )
    return model


PADDED = {"left": [9, 9, *IDS], "right": [*IDS, 9, 9], "whole": [9, 9]}
CALLS = {
    "read_states": tw.read_states,
    "check": tw.check,
    "trajectory_statistics": lambda m, ids: tw.trajectory_statistics(m, [IDS, ids], controls=[]),
    "layer_vocabulary": lambda m, ids: tw.layer_vocabulary(m, prompts=[IDS, ids], min_count=1),
    "tokens of a cache": lambda m, ids: tw.read_states(
        m, m.run_with_cache(torch.as_tensor(ids).reshape(1, -1))[1], tokens=ids
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("side", PADDED)
def test_padded_ids_without_a_mask_are_rejected(side: str, call: str):
    model, ids = padding("<|end|>"), PADDED[side]
    sentence = r"begin or end in padding \(id 9, '<\|end\|>'\).*attention_mask"
    for given in (ids, torch.tensor([ids])):
        with torch.no_grad(), pytest.raises(ValueError, match=sentence):
            CALLS[call](model, given)


@pytest.mark.parametrize("ids", [[9, *IDS], [*IDS, 9], [5, 9, 9, 8]])
def test_a_token_that_also_ends_texts_may_stand_alone(ids: list[int]):
    states = tw.read_states(padding("<|end|>"), ids)
    assert states.tokens.tolist() == ids


@pytest.mark.parametrize("ids", [[9, *IDS], [*IDS, 9]])
def test_one_token_named_pad_is_padding(ids: list[int]):
    model = padding("[PAD]")
    with pytest.raises(ValueError, match="begin or end in padding"):
        tw.read_states(model, ids)
    mask = [int(index != 9) for index in ids]
    masked = tw.read_states(model, {"input_ids": [ids], "attention_mask": [mask]})
    assert masked.tokens.tolist() == IDS
    meant = tw.read_states(model, {"input_ids": [ids], "attention_mask": [[1] * len(ids)]})
    assert meant.tokens.tolist() == ids


@pytest.mark.parametrize("use", ["bos_token", "eos_token", "cls_token"])
def test_a_pad_token_with_another_use_is_a_token(use: str):
    model = padding("<pad>")
    setattr(model.tokenizer, use, "<pad>")
    assert tw.read_states(model, [9, 9, *IDS]).tokens.tolist() == [9, 9, *IDS]


REJECTED = {
    "two texts": ([TEXT, TEXT], ValueError, "one prompt at a time"),
    "pieces": (["w5", "w6"], ValueError, "one prompt at a time"),
    "two rows": (
        {"input_ids": [IDS, IDS], "attention_mask": [[1] * 4] * 2}, ValueError, "a batch of 2",
    ),
    "no mask": (UserDict(input_ids=[IDS]), ValueError, "attention_mask are needed"),
    "hidden states": ((torch.zeros(1, 4, 48),) * 3, TypeError, "a tuple of Tensor"),
    "embeddings": (torch.zeros(4, 48), TypeError, "numbers of type float32"),
    "floats": ([5.5, 6.5], TypeError, "numbers of type float32"),
    "a mask": ([True, False], TypeError, "numbers of type bool"),
    "NaN": (float("nan"), TypeError, "numbers of type float32"),
    "complex": ([1j], TypeError, "numbers of type complex64"),
    "None": (None, TypeError, "got NoneType"),
    "bytes": (b"w5", TypeError, "got bytes"),
    "one id": (5, ValueError, r"shape \[position\], got \(\)"),
    "mixed": ([5, "w6"], TypeError, "a list of int, str"),
    "rows of several lengths": ([[5, 6], [7]], TypeError, "a list of list"),
    "a set": ({5, 6}, TypeError, "got set"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
def test_prompts_that_are_rejected(name: str):
    prompt, kind, message = REJECTED[name]
    model = shared_bridge("gpt2")
    for call in (tw.read_states, tw.check):
        with pytest.raises(kind, match=message) as caught:
            call(model, prompt)
        assert "prompt" in str(caught.value) or "input_ids" in str(caught.value)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_caches_that_are_taken(architecture: str):
    model = shared_bridge(architecture)
    expected = tw.read_states(model, IDS)
    pair = run(model)
    arrays = {name: np.asarray(value) for name, value in pair[1].items()
              if isinstance(value, torch.Tensor)}  # fmt: skip
    bare = run(model, lambda name: "resid" in name or "_out" in name)[1]
    for cache, tokens in (
        (pair, None),
        (arrays, None),
        (UserDict(arrays), None),
        (bare, torch.tensor([IDS])),
        (bare, tokenized(return_tensors="pt")),
        (bare, np.array(IDS)),
    ):
        states = tw.read_states(model, cache, tokens=tokens)
        assert states.tokens.tolist() == IDS
        assert states.token_strings == expected.token_strings
        assert torch.equal(states.stream, expected.stream)


def test_caches_that_are_rejected():
    model = shared_bridge("gpt2")
    cache = dict(run(model)[1].items())
    last = "blocks.2.hook_resid_post"
    bad = {name: value.clone() for name, value in cache.items()
           if isinstance(value, torch.Tensor)}  # fmt: skip
    bad["blocks.1.hook_resid_pre"][0, 2, 3] = torch.nan
    for changed, message in (
        (bad, "contains NaN or infinity"),
        ({**cache, "blocks.3.hook_resid_pre": cache[last]}, "the model has 3 layers"),
        ({**cache, last: cache[last][:, 1:]}, "at every layer"),
        ({name: value[..., :7] for name, value in bad.items()}, r"\[position, 48\]"),
        ({}, "every hook_resid_pre, the last hook_resid_post"),
        ({name: cache[name] for name in cache if "resid" in name and "mid" not in name},
         "every hook_attn_out"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            tw.read_states(model, changed, tokens=IDS)
    with pytest.raises(ValueError, match="the tokens given are not those that produced the cache"):
        tw.read_states(model, cache, tokens=[5, 6, 7, 9])
    with pytest.raises(ValueError, match="tokens= belongs to an ActivationCache"):
        tw.read_states(model, IDS, tokens=IDS)


@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2), slice(0, 996)])
def test_rows_of_zeros_anywhere_in_the_embedding(rows: slice):
    model = tiny_bridge("gemma")  # it scales its embedding, which is measured
    model.embed.W_E.data[rows] = 0
    assert tw.check(model, [996, *IDS]).passed
    assert tw.read_weights(model).vocabulary.scale == pytest.approx(48**0.5, rel=1e-3)


def test_an_embedding_of_zeros_is_rejected():
    model = tiny_bridge("gemma")
    model.embed.W_E.data.zero_()
    with pytest.raises(tw.UnsupportedModelError, match="every row of its embedding W_E is zero"):
        tw.read_weights(model)
