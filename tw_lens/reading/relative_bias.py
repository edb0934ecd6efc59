"""T5's relative positions: the bias of scores by distance, as a stack's first layer holds it."""

from __future__ import annotations

from tw_lens.canonical import RelativePositions
from tw_lens.reading.layer import HostLayer
from tw_lens.reading.model_access import (
    optional,
    original_module,
    resolved_module,
    to_float32_cpu,
)
from tw_lens.reading.stacks import Stack


def read_relative(layer: HostLayer) -> RelativePositions | None:
    """Read T5's bias of scores by distance; None without one.

    The first layer of a stack holds the table, and all of its layers use it. Cross-attention has
    none.
    """
    model = layer.model
    if not isinstance(model, Stack) or layer.attends_to_source:
        return None
    first = original_module(model.blocks[0].attn)
    if (table := optional(first, "relative_attention_bias")) is None:
        return None
    return RelativePositions(
        table=to_float32_cpu(
            resolved_module(table).weight, "blocks.0.attn.relative_attention_bias"
        ),
        max_distance=int(first.relative_attention_max_distance),
        both_ways=model.is_encoder,
    )
