"""The measures of a sweep: a table of layers by columns for one model.

1. `spectra`: effective rank and leading share of W_QK and W_OV, from the weights.
2. `faithfulness`: how well embeddings predict what the heads do in text.
3. `kinds`: heads of each kind, from the weights.
4. `travel`: angle and length of the steps of the residual stream in text.

A value that is not defined is NaN: that of a layer without attention, or without a head that has
it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tw_lens.analyses.head_directions import head_svd
from tw_lens.canonical import Weights
from tw_lens.errors import Caveat
from tw_lens.geometry import measure_path, spectrum_shares
from tw_lens.reading import Prompt
from tw_lens.results.arguments import CIRCUITS
from tw_lens.studies.faithfulness import faithfulness
from tw_lens.studies.head_kinds import head_kinds
from tw_lens.studies.head_kinds_result import HEAD_KINDS
from tw_lens.studies.layer_vocabulary import layer_vocabulary
from tw_lens.studies.runner import Settings, run_study

SweepMeasure = Literal["spectra", "faithfulness", "kinds", "travel"]
SWEEP_MEASURES: tuple[SweepMeasure, ...] = get_args(SweepMeasure)
IN_TEXT = ("faithfulness", "travel")
"""The measures that run the model on prompts."""
FIRST_POSITION, BATCH_SIZE = 1, 16
OF_INTERVALS = ("intervals", "few prompts")  # caveats of intervals, which a sweep does not report

Table = Float[Tensor, "layers columns"]


class Column(NamedTuple):
    """A column of a sweep; `over_layers` says how a model's layers are summed up, "" for not."""

    name: str
    label: str
    over_layers: Literal["mean", "max", "sum", ""] = "mean"
    is_whole: bool = False


class Inputs(NamedTuple):
    """What a measure is given: the model, its weights, prompts and a seed."""

    model: Any
    weights: Weights
    prompts: Sequence[Prompt]
    seed: int


COLUMNS: dict[str, tuple[Column, ...]] = {
    "spectra": tuple(
        column
        for name in CIRCUITS
        for column in (
            Column(f"{name.lower()}_effective_rank", f"effective rank of {name}"),
            Column(f"{name.lower()}_leading_share", f"leading share of {name}"),
            Column(f"{name.lower()}_strongest_head", f"strongest head of {name}", "", True),
        )
    ),
    "faithfulness": (
        Column("qk_correlation", "QK: correlation of scores"),
        Column("qk_floor", "QK: floor"),
        Column("ov_correlation", "OV: cosine of writes"),
        Column("ov_floor", "OV: floor"),
    ),
    "kinds": tuple(
        column
        for kind in HEAD_KINDS
        for column in (
            Column(f"{kind.replace(' ', '_')}_heads", f"{kind}: heads", "sum", True),
            Column(f"{kind.replace(' ', '_')}_score", f"{kind}: best score", "max"),
        )
    ),
    "travel": (
        Column("step_angle", "step angle (rad)"),
        Column("step_length", "step length"),
        Column("state_norm", "norm |x|"),
    ),
}
"""The columns of each measure."""


def spectra(inputs: Inputs) -> tuple[Table, tuple[Caveat, ...]]:
    """Return effective rank, leading share and strongest head of both circuits."""
    weights, columns = inputs.weights, len(COLUMNS["spectra"])
    table = torch.full((weights.n_layers, columns), torch.nan, dtype=torch.float64)
    for layer in weights.attention_layers:
        block, row = weights.block(layer), []
        for circuit in CIRCUITS:
            S = head_svd(block, list(range(block.n_heads)), circuit).S.double()
            shares = spectrum_shares(S[S[:, 0] > 0])
            heads = (S[:, 0] > 0).nonzero().flatten()
            leading = shares[:, 0]
            rank = torch.special.entr(shares).sum(-1).exp()
            strongest = heads[leading.argmax()].double() if len(heads) else rank.sum() * torch.nan
            row += [rank.mean(), leading.mean(), strongest]
        table[layer] = torch.stack(row)
    return table, weights.caveats


def faithfulness_at_embeddings(inputs: Inputs) -> tuple[Table, tuple[Caveat, ...]]:
    """Return the agreement of embeddings with the running model, and its floor."""
    model, weights, prompts, seed = inputs
    result = faithfulness(
        model, prompts, vocabulary=layer_vocabulary(model, source="embedding"),
        first_position=FIRST_POSITION, batch_size=BATCH_SIZE, seed=seed,
    )  # fmt: skip
    parts = (result.of_layers.correlation.value[0], result.of_layers.floor.value[0])
    table = torch.full((weights.n_layers, 4), torch.nan, dtype=torch.float64)
    table[list(result.layers)] = torch.stack(parts, dim=-1).transpose(0, 1).flatten(1).double()
    return table, result.caveats


def kinds(inputs: Inputs) -> tuple[Table, tuple[Caveat, ...]]:
    """Return the number of heads of each kind, and the best score for it."""
    weights = inputs.weights
    result = head_kinds(weights, seed=inputs.seed)
    claimed = result.claimed().double()
    scores = result.from_weights.double()
    layer_of_head = torch.tensor([layer for layer, _ in result.heads])
    table = torch.full((weights.n_layers, 2 * len(HEAD_KINDS)), torch.nan, dtype=torch.float64)
    for layer in weights.attention_layers:
        at = layer_of_head == layer
        best = scores[:, at].nan_to_num(nan=-torch.inf).amax(1)
        best = best.masked_fill(best.isinf(), torch.nan)
        table[layer] = torch.stack([claimed[:, at].sum(1), best], dim=1).flatten()
    return table, result.caveats


def travel(inputs: Inputs) -> tuple[Table, tuple[Caveat, ...]]:
    """Return angle and length of the step of every layer, and the norm of the state before it."""
    model, weights, prompts, seed = inputs
    names = [column.name for column in COLUMNS["travel"]]
    settings = Settings((), FIRST_POSITION, BATCH_SIZE, seed)
    result = run_study(model, prompts, _steps, names, settings)
    return result.means[0, 0, :, : weights.n_layers].T.double(), result.caveats


def _steps(
    weights: Weights,
    stream: Float[Tensor, "layers_and_end position d_model"],
    _tokens: Int[Tensor, " position"],
    _generator: torch.Generator | None,
) -> Float[Tensor, "columns layers_and_end position"]:
    length = stream.diff(dim=0).norm(dim=-1)
    length = torch.cat([length, torch.full_like(length[:1], torch.nan)])
    angle = measure_path(weights.readout.norm.sphere(stream)).step_angle
    return torch.stack([angle, length, stream.norm(dim=-1)])


MEASURES: dict[str, Callable[[Inputs], tuple[Table, tuple[Caveat, ...]]]] = {
    "spectra": spectra,
    "faithfulness": faithfulness_at_embeddings,
    "kinds": kinds,
    "travel": travel,
}
