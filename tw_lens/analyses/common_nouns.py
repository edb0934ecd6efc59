"""Common nouns: a hundred frequent English nouns, those that are single tokens of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from tw_lens.arguments import checked
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.base import Result

NOUNS = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government number
night point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea kid body information back parent face others
level office door health person art war history party result change morning reason research girl
guy moment air teacher force education
""".split()  # noqa: SIM905 - a hundred quoted words are harder to read


@dataclass(frozen=True, repr=False)
class CommonNouns(Result):
    """The nouns that are a single token, with or without a leading space.

    Iterating gives their token ids; `dropped` are the other nouns.
    """

    model_name: str
    leading_space: bool
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    dropped: tuple[str, ...]
    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """Return the number of nouns that are single tokens, and the spelling."""
        spelling = "with" if self.leading_space else "without"
        return (
            f"{self.model_name}: {len(self.token_index)} of {len(NOUNS)} nouns are single tokens "
            f"{spelling} a leading space"
        )

    def __iter__(self) -> Iterator[int]:
        return iter(self.token_index)

    def __len__(self) -> int:
        return len(self.token_index)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per noun: token_index, token_string."""
        return pd.DataFrame({"token_index": self.token_index, "token_string": self.token_strings})


@checked
def common_nouns(weights: Weights, *, leading_space: bool = True) -> CommonNouns:
    """Return the token ids of a hundred frequent English nouns, those that are single tokens.

    Args:
        weights: from `read_weights`.
        leading_space: with a leading space (" dog"), or without ("dog", the spelling of the
            published experiments).

    Raises:
        TypeError: leading_space is no bool.
        ValueError: none of the nouns is a single token of this model.

    Example:
        >>> common_nouns(weights)  # the tokens of this toy model are w0 to w996
        Traceback (most recent call last):
        ValueError: none of the words is a single token of this model: ...

    Source: nouns by frequency in English; arXiv 2309.07315 probes a list of the same length.
    """
    words = [f" {noun}" if leading_space else noun for noun in NOUNS]
    printed = [weights.tokens.printed(word) for word in words]
    index, dropped = weights.tokens.look_up(
        [word if token is None else token for word, token in zip(words, printed, strict=True)]
    )
    strings = weights.tokens.strings(index)
    return CommonNouns(
        weights.model_name, leading_space, tuple(index), tuple(strings), tuple(dropped)
    )


def common_nouns_in_either_spelling(weights: Weights, *, leading_space: bool) -> CommonNouns | None:
    """Return the nouns in a spelling, else in the other one; None where none is a single token."""
    for spelling in (leading_space, not leading_space):
        try:
            return common_nouns(weights, leading_space=spelling)
        except ValueError:
            continue
    return None
