"""Token similarity: three measures of how similar the tokens of a list are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.geometry import NO_TOKEN, mean_pairwise_cosine

SimilarityMeasure = Literal["embedding", "unembedding", "word class"]
SIMILARITY_MEASURES: tuple[SimilarityMeasure, ...] = ("embedding", "unembedding", "word class")
TokenSimilarity = Callable[[Int[Tensor, "lists k"]], Float[Tensor, " lists"]]
Vectors = Callable[[Int[Tensor, "lists k"]], Float[Tensor, "lists k d"]]
TOKENS_AT_ONCE = 20_480


def token_similarity(weights: Weights, measure: SimilarityMeasure) -> TokenSimilarity:
    """Return the function from token lists to the mean pairwise similarity of their tokens.

    "embedding" and "unembedding": the cosine of the tokens' rows of `W_E` or columns of `A_U`
    (`W_U` times the final norm's gain), the vocabulary's mean subtracted. "word class": the English
    word classes (noun, verb, adjective, adverb, auxiliary, proper noun) of lemminflect's
    dictionary, which does not depend on the model: the information in bits of the rarest class that
    both tokens share, `-log2` of its share of the vocabulary's dictionary words (0 where they share
    none, or where one is not in the dictionary). Classes are few, so that ties are many and
    p-values are too large rather than too small.

    Raises:
        ValueError: "unembedding" on a model whose `W_U` is its `W_E`.
        ImportError: "word class" without lemminflect.
    """
    if measure == "word class":
        return _nan_without_tokens(_class_similarity(word_classes(weights)))
    vectors = centred_embeddings(weights)
    if measure == "unembedding":
        require_untied(weights)
        vectors = _centred(weights.readout.direction, weights.readout.directions()())

    def similarity(lists: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
        ordered = lists.sort(-1).values  # the same tokens give the same number in any order
        chunks = ordered.split(max(1, TOKENS_AT_ONCE // lists.shape[1]))
        return torch.cat([mean_pairwise_cosine(vectors(chunk)) for chunk in chunks])

    return _nan_without_tokens(similarity)


def _nan_without_tokens(similarity: TokenSimilarity) -> TokenSimilarity:
    """Return the similarity of lists, some of them without tokens: NaN."""

    def of_lists(lists: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
        values = similarity(lists.clamp_min(0))
        return values.masked_fill(lists[:, 0] == NO_TOKEN, torch.nan)

    return of_lists


def centred_embeddings(weights: Weights) -> Vectors:
    """Return the function from token lists to embeddings, the vocabulary's mean subtracted.

    Each embedding's own mean is subtracted too where the model's norms remove it (LayerNorm).
    """
    vocabulary, project = weights.vocabulary, weights.readout.norm.project
    return _centred(
        lambda ids: project(vocabulary.embeddings(ids)), map(project, vocabulary.rows())
    )


def _centred(vectors: Callable[[Tensor], Tensor], chunks: Iterator[Tensor]) -> Vectors:
    total, count = torch.zeros(()), 0
    for chunk in chunks:
        total, count = total + chunk.sum(0), count + len(chunk)
    return lambda lists: vectors(lists.flatten()).unflatten(0, lists.shape) - total / count


def require_untied(weights: Weights) -> None:
    """Reject a model whose unembedding is its embedding.

    Raises:
        ValueError: `W_U` is `W_E` transposed.
    """
    W_E, W_U = weights.vocabulary.W_E, weights.readout.W_U
    if weights.readout.is_embedding or (W_E.shape == W_U.T.shape and torch.equal(W_E, W_U.T)):
        raise ValueError(
            f'measure "unembedding" needs an untied model, and the unembedding of '
            f'{weights.model_name} is its embedding: use "embedding" or "word class".'
        )


def word_classes(weights: Weights) -> Bool[Tensor, "d_vocab classes"]:
    """Return the word classes of every token in lemminflect's English dictionary, as a mask.

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
    class_index: dict[str, int] = {}
    pairs = []
    for token_index, string in enumerate(weights.tokens.texts()):
        word = string.strip()
        for name in getAllLemmas(word.lower()) if word.isalpha() else ():
            pairs.append((token_index, class_index.setdefault(name, len(class_index))))
    mask = torch.zeros(weights.d_vocab, max(1, len(class_index)), dtype=torch.bool)
    for token_index, index in pairs:
        mask[token_index, index] = True
    return mask


def _class_similarity(classes: Bool[Tensor, "d_vocab classes"]) -> TokenSimilarity:
    """Return the mean over pairs of the bits of the rarest class that both tokens share."""
    known = classes.any(-1).sum()
    bits = -(classes.sum(0) / known).clamp_min(1e-9).log2()

    def similarity(lists: Int[Tensor, "lists k"]) -> Float[Tensor, " lists"]:
        members = classes[lists.sort(-1).values]
        first, second = torch.triu_indices(lists.shape[1], lists.shape[1], offset=1)
        return ((members[:, first] & members[:, second]) * bits).amax(-1).mean(-1)

    return similarity
