"""How alike are the words of a list? Three measures that look at different things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.geometry import mean_pairwise_cosine

SimilarityMeasure = Literal["embedding", "unembedding", "word class"]
SIMILARITY_MEASURES = ("embedding", "unembedding", "word class")
TokenSimilarity = Callable[[Int[Tensor, "lists k"]], Float[Tensor, " lists"]]
Vectors = Callable[[Int[Tensor, "lists k"]], Float[Tensor, "lists k d"]]
WORDS_AT_ONCE = 20_480


def token_similarity(weights: Weights, measure: SimilarityMeasure) -> TokenSimilarity:
    """The function from word lists to how alike their words are.

    "embedding" and "unembedding": the mean pairwise cosine of the words' rows of `W_E` or columns
    of `A_U` (`W_U` behind the final norm's gain), the vocabulary's mean taken off. "word class":
    the English word classes (noun, verb, adjective, adverb, auxiliary, proper noun) of the
    dictionary in lemminflect, which has not seen the model: for each pair of words the rarest class
    in common in bits, `-log2` of its share of the vocabulary's dictionary words (0 for none in
    common, or a word that is not in the dictionary), and the mean over pairs. Classes are few, so
    that ties are many and p-values are too large rather than too small.

    Raises:
        ValueError: "unembedding" on a model whose `W_U` is its `W_E`.
        ImportError: "word class" without lemminflect.
    """
    if measure == "word class":
        return _in_common(word_classes(weights))
    vectors = centred_embeddings(weights)
    if measure == "unembedding":
        require_untied(weights)
        vectors = _centred(weights.readout.direction, weights.readout.directions()())

    def alike(lists: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
        ordered = lists.sort(-1).values  # the same words give the same number
        at_once = max(1, WORDS_AT_ONCE // lists.shape[1])
        return torch.cat([mean_pairwise_cosine(vectors(some)) for some in ordered.split(at_once)])

    return alike


def centred_embeddings(weights: Weights) -> Vectors:
    """The function from word lists to their embeddings, the vocabulary's mean taken off.

    So is each embedding's own mean where the model's norms do not see it (LayerNorm).
    """
    words, seen = weights.vocabulary, weights.readout.norm.project
    return _centred(lambda ids: seen(words.embeddings(ids)), map(seen, words.rows()))


def _centred(vectors: Callable[[Tensor], Tensor], chunks: Iterator[Tensor]) -> Vectors:
    total, count = torch.zeros(()), 0
    for chunk in chunks:
        total, count = total + chunk.sum(0), count + len(chunk)
    return lambda lists: vectors(lists.flatten()).unflatten(0, lists.shape) - total / count


def require_untied(weights: Weights) -> None:
    """Refuse a second look at the same matrix.

    Raises:
        ValueError: `W_U` is `W_E` transposed.
    """
    W_E, W_U = weights.vocabulary.W_E, weights.readout.W_U
    if weights.readout.is_embedding or (W_E.shape == W_U.T.shape and torch.equal(W_E, W_U.T)):
        raise ValueError(
            f'measure "unembedding": {weights.model_name} reads its words out with the matrix it '
            'embeds them with; "embedding" says the same, "word class" looks at something else.'
        )


def word_classes(weights: Weights) -> Bool[Tensor, "d_vocab classes"]:
    """Which word classes each token has in lemminflect's English dictionary, as a mask.

    Raises:
        ImportError: lemminflect is not installed.
    """
    try:
        from lemminflect import getAllLemmas
    except ImportError as error:
        raise ImportError(
            'measure "word class" needs the English dictionary in the package lemminflect: '
            "pip install 'tw-lens[words]'."
        ) from error
    known: dict[str, int] = {}
    found = []
    for token_index, string in enumerate(weights.tokens.strings(range(weights.d_vocab))):
        word = string.strip()
        for name in getAllLemmas(word.lower()) if word.isalpha() else ():
            found.append((token_index, known.setdefault(name, len(known))))
    mask = torch.zeros(weights.d_vocab, max(1, len(known)), dtype=torch.bool)
    for token_index, which in found:
        mask[token_index, which] = True
    return mask


def _in_common(classes: Bool[Tensor, "d_vocab classes"]) -> TokenSimilarity:
    """The information of the rarest class each pair has in common, a mean over pairs, in bits."""
    known = classes.any(-1).sum()
    bits = -(classes.sum(0) / known).clamp_min(1e-9).log2()

    def alike(lists: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
        has = classes[lists.sort(-1).values]
        first, second = torch.triu_indices(lists.shape[1], lists.shape[1], offset=1)
        return ((has[:, first] & has[:, second]) * bits).amax(-1).mean(-1)

    return alike
