"""Router table: which tokens each expert of a mixture is chosen for."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.neuron_points import neuron_caveats
from tw_lens.analyses.null_directions import compare_with_null
from tw_lens.analyses.token_filter import (
    TokenFilter,
    allowed_mask,
    filter_caveat,
    filter_summary,
)
from tw_lens.arguments import checked
from tw_lens.canonical import (
    LayerVocabulary,
    Points,
    Weights,
    combined_mask,
    token_points,
    weights_of_points,
)
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.geometry import top_tokens
from tw_lens.results.base import Result, layer_label
from tw_lens.results.token_lists import TokenLists, make_token_lists, significance_summary
from tw_lens.results.token_source import TokenSource, token_source
from tw_lens.tokens import visible


@dataclass(frozen=True, repr=False, eq=False)
class RouterTable(Result):
    """The tokens whose points raise each expert's routing logit most, above the mean expert's.

    `norm` is the length of each routing direction without their mean, which no choice depends on.
    """

    model_name: str
    layer: int
    experts: tuple[int, ...]
    norm: Float[Tensor, " experts"]
    lists: TokenLists
    token_filter: TokenFilter | None = None
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """The label of each expert: "L5E3"."""
        return tuple(
            f"{layer_label(self.layer, self.model_name)}E{expert}" for expert in self.experts
        )

    def headline(self) -> str:
        """Return the number of experts, the longest direction, and the lists above their null."""
        best = int(self.norm.argmax())
        tokens = " ".join(map(visible, self.lists.token_string[best]))
        return (
            f"{self.model_name} layer {self.layer}: {len(self.experts)} experts; the longest "
            f"routing direction is that of {self.components[best]}, for {tokens}"
            f"{filter_summary(self.token_filter)}{significance_summary(self.lists)}"
            f"{self.token_source.summary([self.layer], [])}"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per expert and token.

        Columns: layer, expert, component, norm, rank, token_index, token_string, score (the
        token's routing logit minus the mean expert's), coherence, exceeds_null.
        """
        rows = []
        for i, expert in enumerate(self.experts):
            own = {
                "layer": self.layer,
                "expert": expert,
                "component": self.components[i],
                "norm": float(self.norm[i]),
            }
            null = self.lists.null_columns(i)
            for rank, (index, string, score) in enumerate(
                zip(
                    self.lists.token_index[i].tolist(),
                    self.lists.token_string[i],
                    self.lists.score[i].tolist(),
                    strict=True,
                )
            ):
                token = {"rank": rank, "token_index": index, "token_string": string}
                rows.append(own | token | {"score": score} | null)
        return pd.DataFrame(rows)


@checked
def router_table(
    weights: Weights,
    *,
    layer: int,
    k: int = 5,
    token_filter: TokenFilter | None = None,
    vocabulary: LayerVocabulary | None = None,
    points: Points | None = None,
) -> RouterTable:
    """Read the router of a mixture of experts: which tokens each expert is chosen for.

    Expert e has the routing logit `y_w A_router[e] + a_router[e]`, with `y_w` the token's point. A
    vector added to all directions changes no choice, so scores and directions are relative to the
    mean expert.
    Biases that only balance the load of experts are left out.

    Args:
        weights: from `read_weights`.
        layer: index of the block.
        k: tokens per list.
        token_filter: the tokens that may be listed, from `token_filter`; all by default.
        vocabulary: points of the tokens at this layer, from `layer_vocabulary`; their embeddings
            by default.
        points: named vectors to read in the place of tokens, from `Points` or `position_points`.

    Raises:
        IndexError: the layer does not exist.
        UnsupportedModelError: the layer has no mixture of experts with a linear router.
        ValueError: a vocabulary of another model.

    Example:
        >>> router_table(weights, layer=0)
        Traceback (most recent call last):
        tw_lens.errors.UnsupportedModelError: ...

    Source: Zoph et al. 2022 (arXiv 2202.08906) for tokens that experts are chosen for; here read
    from weights, with norms folded and nulls.
    """
    weights = weights_of_points(weights, points, vocabulary)
    mlp = weights.mlp(layer)
    if mlp.A_router is None or mlp.a_router is None:
        raise UnsupportedModelError(
            weights.architecture,
            f"layer {layer} has no mixture of experts with a linear router",
            "neuron_table reads its neurons.",
        )
    keep = allowed_mask(weights, token_filter, "exact")
    met = token_points(weights, layer, mlp.norm, vocabulary)
    directions = mlp.A_router - mlp.A_router.mean(0)
    top = top_tokens(directions, met.rows, k, keep=combined_mask(keep, met))
    if weights.vocabulary.is_whole_state:  # parts are read without constants
        above = mlp.a_router - mlp.a_router.mean()
        top = top._replace(score=top.score + above[:, None])
    null = compare_with_null(weights, top, "points", met, keep)
    source = token_source(vocabulary, points)
    return RouterTable(
        model_name=weights.model_name,
        layer=layer,
        experts=tuple(range(len(directions))),
        norm=directions.norm(dim=-1),
        lists=make_token_lists(top, weights.tokens, null, source.count),
        token_filter=token_filter,
        token_source=source,
        caveats=weights.caveats + filter_caveat(token_filter) + neuron_caveats(mlp, source),
    )
