"""Token filter: a mask on the vocabulary for the analyses that list tokens."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.canonical import TokenPoints, Weights
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Convention, require_weights
from tw_lens.results.base import Result
from tw_lens.tokens import TokenStrings
from tw_lens.torch_settings import default_settings

N_EXAMPLES = 6
NEAR = 0.5  # of the median distance to the reference embedding of never-trained tokens


class Condition(NamedTuple):
    """One condition on a token: its description, and the mask of the tokens that fail it."""

    description: str
    failing: Bool[Tensor, " d_vocab"]


@dataclass(frozen=True, repr=False, eq=False)
class TokenFilter(Result):
    """The mask of the tokens that a list may show (`keep`), and its conditions."""

    model_name: str
    keep: Bool[Tensor, " d_vocab"]
    conditions: tuple[Condition, ...]
    tokens: TokenStrings
    caveats: tuple[Caveat, ...] = ()

    def __len__(self) -> int:
        return int(self.keep.sum())

    @property
    def description(self) -> str:
        """The number of tokens that pass: "1,234 of 50,257 tokens"."""
        return f"{len(self):,} of {len(self.keep):,} tokens"

    @property
    def caveat(self) -> Caveat:
        """The caveat of a result that lists only these tokens."""
        conditions = _joined(self.conditions) or "all"
        return Caveat(
            "token filter",
            f"only {self.description} can be listed ({conditions}); scores are those of the whole "
            "vocabulary.",
        )

    def headline(self) -> str:
        """Return the number of tokens that pass, and the conditions."""
        conditions = _joined(self.conditions)
        return f"{self.model_name}: {self.description}{f' ({conditions})' if conditions else ''}"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per condition.

        Columns: condition ("kept", then each condition), tokens (number of tokens kept; number
        that fail the condition), examples.
        """
        masks = [("kept", self.keep), *((c.description, c.failing) for c in self.conditions)]
        return pd.DataFrame(
            [(name, int(mask.sum()), self._examples(mask)) for name, mask in masks],
            columns=["condition", "tokens", "examples"],
        )

    def _examples(self, mask: Bool[Tensor, " d_vocab"]) -> str:
        """Return a few tokens of a mask, spread over the vocabulary."""
        index = mask.nonzero().flatten()
        spread = index[:: max(1, len(index) // N_EXAMPLES)][:N_EXAMPLES]
        return ", ".join(repr(self.tokens.string(index)) for index in spread.tolist())


@default_settings()
@require_weights
def token_filter(
    weights: Weights,
    *,
    whole_words: bool = True,
    leading_space: bool | None = None,
    script: str | None = None,
    norm_band: tuple[float | int, float | int] | None = None,
    id_band: tuple[int, int] | None = None,
    unused: bool = False,
) -> TokenFilter:
    """Choose the tokens that may be listed: a mask for `token_filter=` in the analyses.

    A list then holds the best of the tokens that pass; their scores do not change. A token counts
    as never (or hardly ever) trained where its embedding is close to the median embedding r of the
    tokens that no text produces (special tokens, unnamed ids, bytes outside UTF-8):
    `|e - r| < 0.5 median_w |e_w - r|`. In SmolLM2 these are 46 tokens, with a gap to the rest; in
    MiniLM 2,496, in one continuum with rare tokens.

    Args:
        weights: from `read_weights`.
        whole_words: only tokens that start a word: letters only, with apostrophes and hyphens
            inside, two letters at least (one in a script without case), and with the leading space
            where the vocabulary has one. The vocabulary does not tell whether a token also ends its
            word.
        leading_space: only tokens with (True) or without (False) a leading space.
        script: only tokens with letters, all of them of this script, named as in Unicode's
            letter names: "Latin", "Cyrillic", "CJK".
        norm_band: only tokens whose `|W_E[w]|` lies between two percentiles, such as (5, 95).
        id_band: only ids from the first up to the last (not included): in vocabularies merged from
            pairs lower ids are more frequent, so this is a band of frequency.
        unused: also special tokens, unnamed ids, and tokens that were never trained.

    Raises:
        TypeError: script is no string, or a band is not two numbers.
        ValueError: an empty band or one out of range, an unknown script, or no token passes.

    Example:
        >>> token_filter(weights, whole_words=False, norm_band=(10, 90)).description
        '796 of 997 tokens'

    Source: never-trained tokens by their embedding, arXiv 2405.05417.
    """
    strings = weights.tokens.strings(range(weights.d_vocab))
    conditions: list[Condition] = []

    def require(description: str, passing: Tensor | list[bool]) -> None:
        conditions.append(Condition(description, ~torch.as_tensor(passing, dtype=torch.bool)))

    if whole_words:
        spaces = leading_space is None and any(_is_word(s[1:]) for s in strings if s[:1] == " ")
        words = [_is_word(s.removeprefix(" ")) and (s[:1] == " " or not spaces) for s in strings]
        require("whole words", words)
    if leading_space is not None:
        with_space = [string.startswith(" ") == leading_space for string in strings]
        require(f"{'with' if leading_space else 'without'} a leading space", with_space)
    if script is not None:
        scripts = [_scripts(string) for string in strings]
        _require_script(script, scripts)
        require(f"{script} letters", [names == {script.upper()} for names in scripts])
    if norm_band is not None:
        low, high = _band("norm_band", norm_band, 100, "percentiles")
        norms = torch.cat([chunk.norm(dim=-1) for chunk in weights.vocabulary.rows()])
        ranks = norms.argsort().argsort() * (100 / max(1, len(norms) - 1))
        require(f"norms between percentiles {low:g} and {high:g}", (ranks >= low) & (ranks <= high))
    if id_band is not None:
        first, last = _band("id_band", id_band, weights.d_vocab, "ids")
        ids = torch.arange(weights.d_vocab)
        require(f"ids {first} to {last - 1}", (ids >= first) & (ids < last))
    if not unused:
        without_text = torch.tensor(weights.tokens.without_text())
        require("no special or unnamed tokens", ~without_text)
        require("no never-trained tokens", ~never_trained(weights, without_text))
    keep = torch.ones(weights.d_vocab, dtype=torch.bool)
    for condition in conditions:
        keep &= ~condition.failing
    if not keep.any():
        raise ValueError(
            f"no token of {weights.model_name} passes the filter ({_joined(conditions)}): drop a "
            "condition."
        )
    return TokenFilter(weights.model_name, keep, tuple(conditions), weights.tokens)


def never_trained(
    weights: Weights, without_text: Bool[Tensor, " d_vocab"]
) -> Bool[Tensor, " d_vocab"]:
    """Return the mask of the tokens whose embedding is that of tokens without text.

    The rule is that of `token_filter`; fewer than three tokens without text define no reference.
    """
    if int(without_text.sum()) < 3:
        return torch.zeros(weights.d_vocab, dtype=torch.bool)
    ids = without_text.nonzero().flatten()
    r = weights.vocabulary.embeddings(ids).median(dim=0).values
    distance: Float[Tensor, " d_vocab"] = torch.cat(
        [(chunk - r).norm(dim=-1) for chunk in weights.vocabulary.rows()]
    )
    return distance < NEAR * distance.median()


def allowed_mask(
    weights: Weights, token_filter: TokenFilter | None, convention: Convention = "exact"
) -> Bool[Tensor, " d_vocab"] | None:
    """Return the mask of a filter, or None without a filter.

    Raises:
        TypeError: the filter is not a `TokenFilter`.
        ValueError: a filter of another vocabulary, or a filter with `convention="published"`.
    """
    if token_filter is None:
        return None
    if not isinstance(token_filter, TokenFilter):
        raise TypeError(
            "token_filter must be a TokenFilter; call token_filter(weights) first (got "
            f"{type(token_filter).__name__})."
        )
    if convention == "published":
        raise ValueError(
            'token_filter= needs convention="exact": the published experiments list every token.'
        )
    sizes = {len(token_filter.keep), weights.d_vocab, weights.readout.W_U.shape[1]}
    if len(sizes) > 1:
        raise ValueError(
            f"the filter ({len(token_filter.keep)} tokens of {token_filter.model_name}) does not "
            f"fit {weights.model_name}, which embeds {weights.d_vocab} tokens and reads out "
            f"{weights.readout.W_U.shape[1]}: make it with token_filter(weights)."
        )
    return token_filter.keep


def filter_caveat(token_filter: TokenFilter | None) -> tuple[Caveat, ...]:
    """Return the caveat of a result that lists only the tokens of a filter, or nothing."""
    return () if token_filter is None else (token_filter.caveat,)


def filter_summary(token_filter: TokenFilter | None) -> str:
    """Return how many tokens can be listed, as a clause for a headline; "" without a filter."""
    return "" if token_filter is None else f", tokens among {token_filter.description}"


def _joined(conditions: Sequence[Condition]) -> str:
    return "; ".join(condition.description for condition in conditions)


def _is_word(text: str) -> bool:
    """Return whether a text is letters (and their marks), with apostrophes and hyphens inside."""
    parts = text.replace("\u2019", "'").replace("-", "'").split("'")
    if not all(part and all(c.isalpha() or _is_mark(c) for c in part) for part in parts):
        return False
    return len(text) > 1 or text.lower() == text.upper()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _scripts(text: str) -> set[str]:
    return {unicodedata.name(c, "?").split()[0] for c in text if c.isalpha()}


def _require_script(script: Any, scripts: list[set[str]]) -> None:
    """Reject a script that no token is written in."""
    if not isinstance(script, str):
        raise TypeError(f"script must be a name such as 'Latin', got {script!r}.")
    count = Counter(name for names in scripts for name in names)
    if script.upper() not in count:
        present = ", ".join(repr(name.capitalize()) for name, _ in count.most_common(8)) or "none"
        raise ValueError(f"no token has letters of script {script!r}; expected one of {present}.")


def _band(name: str, band: Any, end: int, unit: str) -> tuple[float | int, float | int]:
    """Return the two ends of a band; reject what is no band."""
    sentence = f"{name} must be two {unit} from 0 to {end}, the lower first; got {band!r}."
    try:
        low, high = band
        valid = 0 <= low < high <= end
    except TypeError:
        raise TypeError(sentence) from None
    except ValueError:
        raise ValueError(sentence) from None
    if not valid:
        raise ValueError(sentence)
    return low, high


def look_up_words(
    weights: Weights, words: Iterable[str | int], points: TokenPoints
) -> tuple[list[int], list[str]]:
    """Return the ids of the words that are single tokens with a point, and the other words.

    Raises:
        IndexError: a token id does not exist.
        ValueError: no word is left.
    """
    index, dropped = weights.tokens.look_up(words)
    if points.mask is not None:
        without = [i for i in index if not points.mask[i]]
        index = [i for i in index if points.mask[i]]
        if not index:
            points.at(torch.tensor(without))
        dropped = [*dropped, *weights.tokens.strings(without)]
    return index, dropped
