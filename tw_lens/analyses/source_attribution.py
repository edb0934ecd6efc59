"""Source attribution: what each source token brings to a head's output and to a token's step."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.step_parts import step_parts
from tw_lens.argument_kinds import require_index
from tw_lens.arguments import checked
from tw_lens.canonical import Block, States, Weights
from tw_lens.errors import Caveat, UnsupportedModelError
from tw_lens.geometry import tangential_shares
from tw_lens.results.base import Result, component_label, head_columns
from tw_lens.results.caveats import without_distance


@dataclass(frozen=True, repr=False, eq=False)
class SourceAttribution(Result):
    """What every source position adds to a head's output at one query.

    `attention` is the pattern's row; `share_of_output` sums to 1 over the sources;
    `share_of_step` sums to the head's share of the step in `trajectory_attribution`; `length` is
    the norm of what a source adds to the stream. Sources that the query does not see have 0.
    """

    model_name: str
    layer: int
    head: int
    query: int
    token_index: tuple[int, ...]
    token_strings: tuple[str, ...]
    attention: Float[Tensor, " sources"]
    share_of_output: Float[Tensor, " sources"]
    share_of_step: Float[Tensor, " sources"]
    length: Float[Tensor, " sources"]
    caveats: tuple[Caveat, ...] = ()

    @property
    def component(self) -> str:
        """The label of the head: "L5H1"."""
        return component_label(self.layer, self.head, self.model_name)

    def headline(self) -> str:
        """Return the source with the largest share of the output, and that of the step."""
        top = int(self.share_of_output.nan_to_num(-torch.inf).argmax())
        return (
            f"{self.model_name} {self.component} at {self.token_strings[self.query]!r} (position "
            f"{self.query}): {self.token_strings[top]!r} (position {top}) brings "
            f"{100 * float(self.share_of_output[top]):.0f} % of its output, with "
            f"{100 * float(self.attention[top]):.0f} % of its attention; the head makes "
            f"{100 * float(self.share_of_step.sum()):.0f} % of the step"
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per source.

        Columns: layer, head, component, source, token_index, token_string, attention,
        share_of_output, share_of_step, length.
        """
        rows = [
            head_columns(self.layer, self.head, self.model_name)
            | {
                "source": j,
                "token_index": self.token_index[j],
                "token_string": token,
                "attention": float(self.attention[j]),
                "share_of_output": float(self.share_of_output[j]),
                "share_of_step": float(self.share_of_step[j]),
                "length": float(self.length[j]),
            }
            for j, token in enumerate(self.token_strings)
        ]
        return pd.DataFrame(rows)


@checked
def source_attribution(
    weights: Weights, states: States, *, layer: int, head: int, query: int
) -> SourceAttribution:
    """Attribute a head's output at one position to the source tokens that it attends to.

    Source j adds `c_j = m L(gate_i n_v(v_j) a_ij W_O)` to the stream at position i, with the output
    gate of the query, a norm behind attention as its linear map `L` with the divisor of the whole
    output, and the multiplier m. With `o = sum_j c_j` its share of the output is `<c_j, o> / <o,
    o>`, its share of the step that of `trajectory_attribution`.

    Args:
        weights: from `read_weights`.
        states: from `read_states`, of the same model.
        layer: index of the block.
        head: index of the head.
        query: position of the query.

    Raises:
        IndexError: the layer, the head or the position does not exist.
        UnsupportedModelError: a head's sources cannot be told apart (a norm of the heads' values
            or of the stream itself), or the heads cannot.
        ValueError: states of another model.

    Example:
        >>> result = source_attribution(weights, states, layer=1, head=2, query=2)
        >>> round(float(result.share_of_output.sum()), 4)
        1.0

    Source: arXiv 2309.07315, section 4 (heads as updates), source by source.
    """
    weights.require_states(states)
    block = weights.block(layer)
    (head,) = block.heads(head)
    require_index("query", query, len(states))
    parts, separated = step_parts(weights, states, layer)
    output = block.attention_output
    if not separated or output.z_norm is not None or block.stream_norms is not None:
        raise UnsupportedModelError(
            weights.architecture,
            f"layer {layer} normalises what its heads add together, so that a source of one head "
            "has no part of its own",
            "trajectory_attribution measures whole heads and layers.",
        )
    x = states.stream[layer]
    pattern = block.attention_pattern(x)
    sources = _written(block, x, pattern, head, query) * block.stream_scale
    norm = weights.readout.norm
    others = [part[query] for name, part in parts.items() if name != f"H{head}"]
    stacked = norm.project(torch.cat([sources, torch.stack(others)]))[:, None]
    shares = tangential_shares(norm.project(x[query][None]), stacked)[: len(sources), 0]
    total = sources.sum(0)
    size = total.square().sum()
    return SourceAttribution(
        model_name=states.model_name,
        layer=layer,
        head=head,
        query=query,
        token_index=tuple(states.tokens.tolist()),
        token_strings=states.token_strings,
        attention=pattern[head, query],
        share_of_output=torch.where(size > 0, (sources @ total) / size, torch.nan),
        share_of_step=shares,
        length=sources.norm(dim=-1),
        caveats=without_distance(weights.caveats),
    )


def _written(
    block: Block,
    x: Float[Tensor, "position d_model"],
    pattern: Float[Tensor, "n_heads position position"],
    head: int,
    query: int,
) -> Float[Tensor, "sources d_model"]:
    """Return what each source adds through one head at a query, after norm and multiplier."""
    output, values = block.attention_output, block.values(x)
    v = values if block.v_norm is None else block.v_norm(values)
    z = pattern[head, query][:, None] * v[:, block.kv_head[head]]
    if output.gate is not None:
        z = z * output.gate(block.norm(x))[query, head]
    written = z @ block.W_O[head]
    if output.norm is not None:
        whole = block.head_outputs(pattern, values, x).sum(0)[query] + block.b_O
        written = output.norm.linear_at(whole)(written)
    return output.multiplier * written
