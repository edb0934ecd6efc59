"""Reference text: English sentences that every machine has, for vocabularies without a corpus.

They are sentences of 8 to 30 words of Python's language reference, which the standard library
holds as `pydoc_data.topics`. A corpus of the kind of text that a question is about is better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, Literal

from tw_lens.arguments import checked
from tw_lens.canonical import LayerVocabulary, VocabularyFileError, Weights, load_vocabulary
from tw_lens.files import cache_folder, write_to_cache
from tw_lens.progress import Progress
from tw_lens.reading import read_weights
from tw_lens.studies.layer_vocabulary import layer_vocabulary

PageVocabulary = Literal["text", "embedding"]
PARAGRAPH = re.compile(r"\n\s*\n")
SENTENCE = re.compile(r"(?<=[.?!])\s+")
WORDS = range(8, 31)
N_PROMPTS, N_HELD_OUT = 400, 40
COMMON_WORDS = ("the", "of", "and", "to", "in", "is", "that", "for", "with", "not")
LARGE = 1.1e8  # parameters of the blocks from which on fewer prompts are used
CACHE_VERSION = 1  # increase it whenever `layer_vocabulary` gives other points for the same text


class ReferenceTextError(ValueError):
    """A tokenizer that knows too little of the reference text."""


@checked
def reference_prompts(n: int = N_PROMPTS + N_HELD_OUT) -> list[str]:
    """Return n English sentences, spread evenly over Python's language reference.

    Args:
        n: number of sentences; about 1,900 exist.

    Raises:
        ValueError: n is below 1 or exceeds the number of sentences.

    Example:
        >>> len(reference_prompts(3))
        3

    Source: `pydoc_data.topics` of the running Python.
    """
    from pydoc_data.topics import topics

    sentences = [
        sentence
        for topic in topics.values()
        for paragraph in PARAGRAPH.split(topic)
        for sentence in SENTENCE.split(" ".join(paragraph.split()))
        if len(sentence.split()) in WORDS and sentence[0].isalpha()
    ]
    sentences = list(dict.fromkeys(sentences))
    if n > len(sentences):
        raise ValueError(f"n must be at most {len(sentences)}, got {n}.")
    return [sentences[i * len(sentences) // n] for i in range(n)]


@checked
def reference_vocabulary(
    model: Any, *, layers: Sequence[int] | None = None, progress: Progress = False
) -> LayerVocabulary:
    """Return a layer vocabulary from the reference text, with its faithfulness, in about a minute.

    400 prompts for the points and 40 held-out ones, fewer for large models. The result is cached on
    disk (`$TW_LENS_CACHE` or `~/.cache/tw_lens`).

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`; it is run and not changed.
        layers: which layers; all attention layers by default.
        progress: True shows a bar; a function is called with a sentence at each step.

    Raises:
        IndexError: a layer does not exist.
        ReferenceTextError: (a ValueError) the model has no tokenizer, or one that knows too few of
            the words.
        UnsupportedModelError: see `read_weights`.

    Example:
        >>> reference_vocabulary(model)
        Traceback (most recent call last):
        ReferenceTextError: ... has tokens for 0 of 10 common English words, too few...

    Source: see `layer_vocabulary` and `reference_prompts`.
    """
    weights = read_weights(model, device="cpu")
    chosen = weights.require_layers(weights.attention_layers if layers is None else layers)
    n_prompts, n_held_out = _numbers(weights)
    prompts = reference_prompts(n_prompts + n_held_out)
    step = n_prompts // n_held_out + 1
    held_out = prompts[::step]
    fitted = [prompt for i, prompt in enumerate(prompts) if i % step]
    _require_known_words(weights)
    key = f"{CACHE_VERSION} {weights.fingerprint} {chosen} {prompts}"
    path = cache_folder() / f"vocabulary-{sha256(key.encode()).hexdigest()[:32]}.safetensors"
    with suppress(OSError, VocabularyFileError):  # a damaged file is replaced
        cached = load_vocabulary(path)
        if (cached.fingerprint, cached.layers) == (weights.fingerprint, chosen):
            return cached
    made = layer_vocabulary(
        model, layers=chosen, prompts=fitted, held_out=held_out, progress=progress
    )
    write_to_cache(path, made.save, "the layer vocabulary")
    return made.in_half_precision()


def choose_vocabulary(
    model: Any,
    vocabulary: LayerVocabulary | PageVocabulary,
    *,
    layers: Sequence[int] | None = None,
    progress: Progress = False,
) -> tuple[LayerVocabulary | None, str]:
    """Return a vocabulary (None: embeddings), and why embeddings take the place of text.

    Args:
        model: a `HookedTransformer` or a `TransformerBridge`.
        vocabulary: one, or "text" (`reference_vocabulary`) or "embedding".
        layers: of the reference vocabulary; all attention layers by default.
        progress: True shows a bar; a function is called with a sentence at each step.
    """
    if isinstance(vocabulary, LayerVocabulary):
        return vocabulary, ""
    if vocabulary == "embedding":
        return None, ""
    if getattr(model, "stack_name", None) == "cross":
        return None, "cross-attention reads tokens at their embeddings, on both sides."
    try:
        return reference_vocabulary(model, layers=layers, progress=progress), ""
    except ReferenceTextError as error:
        return None, str(error)


def lack_of_words(weights: Weights, name: str) -> str:
    """Return what a model lacks to read English text, as the start of a sentence; "" for nothing.

    It needs single tokens for half of ten common words.
    """
    if weights.tokens.tokenizer is None:
        return f"{name} has no tokenizer"
    known = sum(
        any(weights.tokens.single(form) is not None for form in (word, f" {word}"))
        for word in COMMON_WORDS
    )
    if 2 * known >= len(COMMON_WORDS):
        return ""
    return f"{name} has tokens for {known} of {len(COMMON_WORDS)} common English words, too few"


def _require_known_words(weights: Weights) -> None:
    """Reject a tokenizer that has a single token for too few of some common English words."""
    if lack := lack_of_words(weights, weights.model_name):
        remedy = "Give a layer vocabulary made from text of the model's own kind."
        if weights.tokens.tokenizer is None:
            remedy = "Set model.tokenizer, or give a layer vocabulary."
        raise ReferenceTextError(
            f"{lack} for the reference text: tokens are read at their embeddings. {remedy}"
        )


def _numbers(weights: Weights) -> tuple[int, int]:
    """Return the numbers of prompts and held-out prompts, fewer for large models."""
    size = 12 * weights.n_layers * weights.d_model**2
    share = min(1.0, LARGE / size)
    return max(60, int(share * N_PROMPTS)), max(20, int(share * N_HELD_OUT))
