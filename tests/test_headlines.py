"""Headlines of results over degenerate models: what cannot be computed is said in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

import tw_lens as tw
from tests.models import as_bridge, perturbed
from tw_lens.geometry.dimension_reduction import umap

NOT_A_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


def gpt2(width: int, vocabulary: int, change: str = "") -> Any:
    """Return a GPT-2 of two layers and one head; `change` is a part whose weights are zero."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gpt2", n_embd=width, n_layer=2, n_head=1, n_positions=16, vocab_size=vocabulary,
        bos_token_id=0, eos_token_id=0, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures, config._attn_implementation = ["GPT2LMHeadModel"], "eager"
    torch.manual_seed(0)
    model = perturbed(AutoModelForCausalLM.from_config(config).eval(), 0)
    for name, parameter in model.named_parameters():
        if change and change in name:
            parameter.data.zero_()
    return as_bridge(model, "tiny")


MODELS: dict[str, Callable[[], Any]] = {
    "width 1": lambda: gpt2(1, 5),
    "one token": lambda: gpt2(2, 1),
    "two tokens": lambda: gpt2(4, 2),
    "one token of width 1": lambda: gpt2(1, 1),
    "blocks of zeros": lambda: gpt2(4, 7, ".h."),
    "attention of zeros": lambda: gpt2(4, 7, ".attn."),
    "unembedding of zeros": lambda: gpt2(4, 7, "lm_head"),
}
model_of = lru_cache(maxsize=None)(lambda name: MODELS[name]())


def prompts_of(model: Any) -> list[list[int]]:
    last = int(model.cfg.d_vocab) - 1
    return [[last, 0], [0, last, 0], [0, 0, last, last]]


def states_of(model: Any) -> Any:
    return tw.read_states(model, prompts_of(model)[1])


def vocabulary_of(model: Any) -> Any:
    held_out = [[0, 0], [0, int(model.cfg.d_vocab) - 1, 0, 0]]
    return tw.layer_vocabulary(
        model, prompts=prompts_of(model), held_out=held_out, min_count=1, unseen="omitted"
    )


def paper_tables(model: Any) -> Any:
    with TemporaryDirectory() as folder:
        return tw.paper_tables(
            model, f"{folder}/paper", prompt=prompts_of(model)[1], words=[0], methods=["pca"]
        )


def faithfulness(model: Any) -> Any:
    held_out = [[0, 0], [0, int(model.cfg.d_vocab) - 1, 0, 0]]
    return tw.faithfulness(model, held_out, layers=[1], vocabulary=vocabulary_of(model))


CALLS: dict[str, Callable[[Any], Any]] = {
    "check": lambda m: tw.check(m, prompts_of(m)[1]),
    "embedding_distances": lambda m: tw.embedding_distances(tw.read_weights(m)),
    "token_norms": lambda m: tw.token_norms(tw.read_weights(m)),
    "head_spectrum": lambda m: tw.head_spectrum(tw.read_weights(m), layer=1, circuit="QK"),
    "direction_degeneracy": lambda m: tw.direction_degeneracy(tw.read_weights(m), layer=1),
    "trajectory": lambda m: tw.trajectory(tw.read_weights(m), states_of(m)),
    "trajectory_attribution": lambda m: tw.trajectory_attribution(tw.read_weights(m), states_of(m)),
    "attention_pattern": lambda m: tw.attention_pattern(tw.read_weights(m), states_of(m), layer=0),
    "fit_projection": lambda m: tw.fit_projection(tw.read_weights(m), states_of(m)),
    "trajectory_statistics": lambda m: tw.trajectory_statistics(m, prompts_of(m), controls=[]),
    "trajectory_alignment": lambda m: tw.trajectory_alignment(m, prompts_of(m)),
    "short prompts": lambda m: tw.trajectory_alignment(m, prompts_of(m)[:2]),
    "faithfulness": faithfulness,
    "paper_tables": paper_tables,
    "head_atlas": lambda m: tw.head_atlas(tw.read_weights(m), n=1, vocabulary=vocabulary_of(m)),
    "head_probe": lambda m: tw.head_probe(
        tw.read_weights(m), layer=1, words=[0], circuit="QK", vocabulary=vocabulary_of(m)
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("model", MODELS)
def test_no_headline_has_a_number_that_is_none(model: str, call: str):
    """Refusals of the package are answers too; errors of torch or scikit-learn are not."""
    try:
        text = repr(CALLS[call](model_of(model)))
    except (tw.UnsupportedModelError, ValueError) as refusal:
        text = str(refusal)
    assert not NOT_A_NUMBER.search(text), text


def test_what_cannot_be_computed_is_said():
    flat = model_of("width 1")
    attribution = tw.trajectory_attribution(tw.read_weights(flat), states_of(flat))
    assert "; shares are not defined, because no step turns its state; parts sum" in repr(
        attribution
    )
    alignment = repr(tw.trajectory_alignment(flat, [[0, 3, 2]]))
    assert "middle: the angle to the next state is not measured (no prompt is long" in alignment
    tied = model_of("attention of zeros")
    assert "QK r not defined (too few or equal states), text OV r not" in repr(faithfulness(tied))
    assert "QK r not defined (too few or equal states) on held-out text" in repr(
        CALLS["head_probe"](tied)
    )


def test_an_atlas_has_lists_of_one_length():
    """Queries and keys are read against the tokens that were seen, outputs against all."""
    model = model_of("unembedding of zeros")
    vocabulary = vocabulary_of(model)
    atlas = tw.head_atlas(tw.read_weights(model), n=1, vocabulary=vocabulary)
    assert len(vocabulary) == 2 < model.cfg.d_vocab
    assert atlas.left.token_index.shape == atlas.right.token_index.shape
    assert atlas.left.token_index.shape[1] == 2


@pytest.mark.parametrize(("n", "width"), [(2, 8), (8, 2), (5, 1)])
def test_umap_of_too_few_points_or_dimensions_is_refused(n: int, width: int):
    points = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=rf"got {n} of {width}; use method='pca'"):
        umap(points, 3, seed=0)
