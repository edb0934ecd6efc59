"""What every result shares: four ways out, word lists, and the words of the keyword arguments."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch, wraps
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import Neighbours
from tw_lens.tokens import TokenStrings

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

Given, Answer = ParamSpec("Given"), TypeVar("Answer")
Convention = Literal["exact", "published"]
Circuit = Literal["QK", "OV"]
LEVEL = 0.05


@singledispatch
def figure(result: Any, *options: Any) -> Any:
    """The picture of a result; rendering registers one function per result class."""
    raise NotImplementedError(f"no picture is registered for {type(result).__name__}.")


class Result:
    """A frozen result: `repr` (headline), `to_dataframe()` (tidy), `plot()` and `_repr_html_`."""

    caveats: tuple[Caveat, ...] = ()

    def headline(self) -> str:
        """The result in one line."""
        raise NotImplementedError

    def to_dataframe(self) -> pd.DataFrame:
        """The result as a tidy table."""
        raise NotImplementedError

    def plot(self) -> go.Figure:
        """The result as a plotly figure (never shown by itself)."""
        return figure(self)

    def __repr__(self) -> str:
        named = f" [{'; '.join(c.name for c in self.caveats)}]" if self.caveats else ""
        return f"{type(self).__name__}({self.headline()}){named}"

    def _repr_html_(self) -> str:
        notes = "".join(f"<br><small>{html.escape(str(c))}</small>" for c in self.caveats)
        table = self.to_dataframe().head(60).to_html(index=False, escape=True, border=0)
        return f"<p>{html.escape(self.headline())}{notes}</p>{table}"


class Beside(NamedTuple):
    """How alike the words of every list are, and how rare that is among random directions' lists.

    `coherence`: the mean pairwise cosine of the words' embeddings, the vocabulary's mean taken off
    (1: the same word again). `p`: the share of random directions, isotropic and with the
    vocabulary's own covariance, whose words are as much alike (see `coherence`).
    """

    coherence: Float[Tensor, " lists"]
    p: Float[Tensor, "lists 2"]

    def some(self, which: list[int]) -> Beside:
        """Those of some lists, in this order."""
        return Beside(self.coherence[which], self.p[which])

    def above(self, which: int) -> str:
        """The strictest control whose lists are less alike in 95 % of cases, or nothing.

        "isotropic", or "vocabulary", which is then above both.
        """
        isotropic, vocabulary = (self.p[which] <= LEVEL).tolist()
        return ("vocabulary" if vocabulary else "isotropic") if isotropic else ""


@dataclass(frozen=True, eq=False)
class WordLists:
    """Ranked words for many queries: ids, printable strings, scores, and the control beside them.

    `beside` is None where lists have no control: of the published convention, of single words, of
    normalised keys, of a probed word and what is added to it.
    """

    score: Float[Tensor, "lists k"]
    token_index: Int[Tensor, "lists k"]
    token_string: tuple[tuple[str, ...], ...]
    beside: Beside | None = None

    def some(self, which: Sequence[int]) -> WordLists:
        """Some of the lists, in this order."""
        at = list(which)
        strings = tuple(self.token_string[i] for i in at)
        beside = None if self.beside is None else self.beside.some(at)
        return WordLists(self.score[at], self.token_index[at], strings, beside)

    def rows(self, which: int, **then: Any) -> Iterator[dict[str, Any]]:
        """One list as table rows: rank (from 0), token_index, token_string, score, what follows.

        Last, where there is a control: coherence, above (see `Beside`), of the list as a whole.
        """
        more = then if self.beside is None else then | self.control(which)
        for rank, string in enumerate(self.token_string[which]):
            yield {
                "rank": rank,
                "token_index": int(self.token_index[which, rank]),
                "token_string": string,
                "score": float(self.score[which, rank]),
            } | more

    def control(self, which: int) -> dict[str, Any]:
        """What stands beside one list: coherence and above."""
        if self.beside is None:
            return {"coherence": math.nan, "above": ""}
        coherence = float(self.beside.coherence[which])
        return {"coherence": coherence, "above": self.beside.above(which)}


def said_above(*lists: WordLists) -> str:
    """How many lists stand above isotropic random directions', in words; nothing without any."""
    held = [found.beside.p[:, 0] for found in lists if found.beside is not None]
    if not held:
        return ""
    p = torch.cat(held)
    return (
        f"; words of {int((p <= LEVEL).sum())} of {len(p)} lists more alike than 95 % of random "
        "directions'"
    )


def word_lists(found: Neighbours, tokens: TokenStrings, beside: Beside | None = None) -> WordLists:
    """Neighbours with their strings, and the control beside them."""
    strings = {int(i): tokens.string(int(i)) for i in found.token_index.unique()}
    named = tuple(tuple(strings[i] for i in row) for row in found.token_index.tolist())
    return WordLists(found.score, found.token_index, named, beside)


def of_weights(question: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """A question about weights that says so when it is given something else, such as a model.

    Raises:
        TypeError: the first argument is not `Weights`.
    """

    @wraps(question)
    def asked(*given: Given.args, **options: Given.kwargs) -> Answer:
        first = given[0] if given else options.get("weights")
        if (given or "weights" in options) and not isinstance(first, Weights):
            raise TypeError(
                f"{question.__name__} asks weights first, as tw_lens.read_weights(model) gives "
                f"them, and was given {type(first).__name__}."
            )
        return question(*given, **options)

    return asked


def require_choice(name: str, given: str, choices: Sequence[str]) -> None:
    """Refuse a keyword argument that is none of the choices.

    Raises:
        ValueError: with what was given and what fits.
    """
    if given not in choices:
        raise ValueError(f"{name}={given!r} is unknown: {' or '.join(map(repr, choices))} fits.")


def require_some(name: str, given: Iterable[str], choices: Sequence[str]) -> tuple[str, ...]:
    """Choices given as a list, each once.

    Raises:
        TypeError: one text, or something else that is no list.
        ValueError: one of them is none of the choices, or there is none.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name}={given!r} is no list: give [{given!r}].")
    some = tuple(dict.fromkeys(given))
    for one in some:
        require_choice(name.removesuffix("s"), one, choices)
    if not some:
        raise ValueError(f"{name} is empty: {', '.join(map(repr, choices))} fit.")
    return some


def require_positive(name: str, given: int) -> None:
    """Refuse a count below one.

    Raises:
        ValueError: with what was given.
    """
    if given < 1:
        raise ValueError(f"{name}={given} is no count: give at least 1.")


def at_distance(caveats: tuple[Caveat, ...], offset: int, circuit: Circuit) -> tuple[Caveat, ...]:
    """A model's caveats for one reading: the distance is no caveat where it is given or unused."""
    return caveats if offset == 0 and circuit == "QK" else without_distance(caveats)


def without_distance(caveats: tuple[Caveat, ...]) -> tuple[Caveat, ...]:
    """A model's caveats for a reading in which queries and keys do not meet at distance 0."""
    return tuple(caveat for caveat in caveats if caveat.name != "rotary offset 0")


def require_offset(offset: int, circuit: str, convention: str) -> None:
    """Refuse a distance where it has no meaning.

    Raises:
        ValueError: W_OV and the published convention know no distance.
    """
    if offset != 0 and (circuit != "QK" or convention != "exact"):
        raise ValueError(
            f"offset={offset} belongs to circuit='QK' and convention='exact': W_OV and the "
            "published experiments know no distance."
        )


CONVENTIONS = ("exact", "published")
CIRCUITS = ("QK", "OV")
