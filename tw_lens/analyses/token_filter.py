"""Which words may a list show? One mask on the vocabulary, used by every analysis that lists."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.results.arguments import Convention, require_weights
from tw_lens.results.base import Result
from tw_lens.tokens import TokenStrings

N_EXAMPLES = 6
NEAR = 0.5  # of the median token's distance to what was never trained


class Condition(NamedTuple):
    """One thing asked of a token: in words, and which tokens fail it."""

    description: str
    failing: Bool[Tensor, " d_vocab"]


@dataclass(frozen=True, repr=False, eq=False)
class TokenFilter(Result):
    """Which tokens a list may show (`keep`), and why the others may not (`conditions`)."""

    model_name: str
    keep: Bool[Tensor, " d_vocab"]
    conditions: tuple[Condition, ...]
    tokens: TokenStrings
    caveats: tuple[Caveat, ...] = ()

    def __len__(self) -> int:
        return int(self.keep.sum())

    @property
    def description(self) -> str:
        """How many tokens are kept, out of how many: "1,234 of 50,257 tokens"."""
        return f"{len(self):,} of {len(self.keep):,} tokens"

    @property
    def caveat(self) -> Caveat:
        """What a result says that lists only these tokens."""
        asked = _asked(self.conditions) or "all"
        return Caveat(
            "chosen words",
            f"only {self.description} can be listed ({asked}); scores are those of the whole vocabulary.",
        )

    def headline(self) -> str:
        """How many tokens are left, and what was asked of them."""
        asked = _asked(self.conditions)
        return f"{self.model_name}: {self.description}{f' ({asked})' if asked else ''}"

    def to_dataframe(self) -> pd.DataFrame:
        """Columns: condition ("kept", then what was asked), tokens (kept; failing), examples."""
        rows = [("kept", self.keep), *((c.description, c.failing) for c in self.conditions)]
        return pd.DataFrame(
            [(said, int(which.sum()), self._examples(which)) for said, which in rows],
            columns=["condition", "tokens", "examples"],
        )

    def _examples(self, which: Bool[Tensor, " d_vocab"]) -> str:
        """A few tokens, spread over the vocabulary."""
        found = which.nonzero().flatten()
        spread = found[:: max(1, len(found) // N_EXAMPLES)][:N_EXAMPLES]
        return ", ".join(repr(self.tokens.string(index)) for index in spread.tolist())


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
    """A mask on the vocabulary, for `token_filter=` in the analyses that list words.

    A list then holds the best of the words that are kept; their scores do not change. A token was
    never (or hardly ever) trained where its embedding is what the others' gradients left behind:
    with r the median embedding of the tokens that no text produces (special ones, unnamed ids,
    bytes outside UTF-8), `|e - r| < 0.5 median_w |e_w - r|`. In SmolLM2 these are 46 tokens, with
    a gap to the rest; in MiniLM 2,496, in one continuum with rare words.

    Args:
        weights: from `read_weights`.
        whole_words: only words that start one: letters only, with apostrophes and hyphens inside,
            two letters at least (one in a script without case), and with the leading space where
            the vocabulary writes one. Whether a token also ends its word no vocabulary says.
        leading_space: only tokens with (True) or without (False) one.
        script: only tokens with letters, all of them of this script, named as Unicode's letters
            are: "Latin", "Cyrillic", "CJK".
        norm_band: only tokens whose `|W_E[w]|` is between two percentiles, such as (5, 95).
        id_band: only ids from the first up to the last (not included): in vocabularies merged from
            pairs lower ids are more frequent, so this is a band of frequency.
        unused: also special tokens, unnamed ids, and tokens that were never trained.

    Raises:
        ValueError: a band that is none, or no token is left.

    Example:
        >>> token_filter(weights, whole_words=False, norm_band=(10, 90)).description
        '796 of 997 tokens'

    Source: never-trained tokens by their embedding, arXiv 2405.05417.
    """
    strings = weights.tokens.strings(range(weights.d_vocab))
    asked: list[Condition] = []

    def ask(description: str, passing: Tensor | list[bool]) -> None:
        asked.append(Condition(description, ~torch.as_tensor(passing, dtype=torch.bool)))

    if whole_words:
        spaces = leading_space is None and any(_is_word(s[1:]) for s in strings if s[:1] == " ")
        words = [_is_word(s.removeprefix(" ")) and (s[:1] == " " or not spaces) for s in strings]
        ask("whole words", words)
    if leading_space is not None:
        with_space = [string.startswith(" ") == leading_space for string in strings]
        ask(f"{'with' if leading_space else 'without'} a leading space", with_space)
    if script is not None:
        found = [_scripts(string) for string in strings]
        ask(f"{script} letters", [scripts == {script.upper()} for scripts in found])
        _require_script(script, found)
    if norm_band is not None:
        low, high = _band("norm_band", norm_band, 100, "percentiles")
        norms = torch.cat([chunk.norm(dim=-1) for chunk in weights.vocabulary.rows()])
        ranks = norms.argsort().argsort() * (100 / max(1, len(norms) - 1))
        ask(f"norms between percentiles {low:g} and {high:g}", (ranks >= low) & (ranks <= high))
    if id_band is not None:
        first, last = _band("id_band", id_band, weights.d_vocab, "ids")
        ids = torch.arange(weights.d_vocab)
        ask(f"ids {first} to {last - 1}", (ids >= first) & (ids < last))
    if not unused:
        without_text = torch.tensor(weights.tokens.without_text())
        ask("no special or unnamed tokens", ~without_text)
        ask("no never-trained tokens", ~never_trained(weights, without_text))
    keep = torch.ones(weights.d_vocab, dtype=torch.bool)
    for condition in asked:
        keep &= ~condition.failing
    if not keep.any():
        raise ValueError(
            f"no token of {weights.model_name} is left by the filter ({_asked(asked)}): ask for "
            "less."
        )
    return TokenFilter(weights.model_name, keep, tuple(asked), weights.tokens)


def never_trained(
    weights: Weights, without_text: Bool[Tensor, " d_vocab"]
) -> Bool[Tensor, " d_vocab"]:
    """Tokens whose embedding lies where those of the tokens without text lie (`token_filter`)."""
    if int(without_text.sum()) < 3:
        return torch.zeros(weights.d_vocab, dtype=torch.bool)
    ids = without_text.nonzero().flatten()
    r = weights.vocabulary.embeddings(ids).median(dim=0).values
    far: Float[Tensor, " d_vocab"] = torch.cat(
        [(chunk - r).norm(dim=-1) for chunk in weights.vocabulary.rows()]
    )
    return far < NEAR * far.median()


def allowed_mask(
    weights: Weights, token_filter: TokenFilter | None, convention: Convention = "exact"
) -> Bool[Tensor, " d_vocab"] | None:
    """The mask of a filter, or None without one.

    Raises:
        ValueError: a filter of another vocabulary, or one beside `convention="published"`.
    """
    if token_filter is None:
        return None
    if convention == "published":
        raise ValueError(
            'token_filter= belongs to convention="exact": the published experiments list every token.'
        )
    sizes = {len(token_filter.keep), weights.d_vocab, weights.readout.W_U.shape[1]}
    if len(sizes) > 1:
        raise ValueError(
            f"the filter ({len(token_filter.keep)} tokens of {token_filter.model_name}) does not fit "
            f"{weights.model_name}, which embeds {weights.d_vocab} tokens and reads out "
            f"{weights.readout.W_U.shape[1]}: make it with token_filter(weights)."
        )
    return token_filter.keep


def filter_caveat(token_filter: TokenFilter | None) -> tuple[Caveat, ...]:
    """The caveat of a result that lists only the words of a filter; none without one."""
    return () if token_filter is None else (token_filter.caveat,)


def _asked(conditions: Sequence[Condition]) -> str:
    return "; ".join(condition.description for condition in conditions)


def _is_word(text: str) -> bool:
    """Letters (and their marks), with apostrophes and hyphens between them."""
    parts = text.replace("\u2019", "'").replace("-", "'").split("'")
    if not all(part and all(c.isalpha() or _is_mark(c) for c in part) for part in parts):
        return False
    return len(text) > 1 or text.lower() == text.upper()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _scripts(text: str) -> set[str]:
    return {unicodedata.name(c, "?").split()[0] for c in text if c.isalpha()}


def _require_script(script: str, found: list[set[str]]) -> None:
    """Refuse a script that no token is written in, with those that fit."""
    count = Counter(name for scripts in found for name in scripts)
    if script.upper() not in count:
        fit = ", ".join(name.capitalize() for name, _ in count.most_common(8)) or "none"
        raise ValueError(f"no token has letters of the script {script!r}: {fit} fit.")


def _band(
    name: str, band: tuple[float | int, float | int], end: int, unit: str
) -> tuple[float | int, float | int]:
    low, high = band
    if not 0 <= low < high <= end:
        raise ValueError(f"{name}={band} is no band: two {unit} from 0 to {end}, the lower first.")
    return low, high
