"""The result of `neuron_examples`: positions of text in context, and the test of the reading."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from tw_lens.analyses.neuron_points import neuron_label
from tw_lens.errors import Caveat
from tw_lens.results.base import Result
from tw_lens.results.token_source import TokenSource
from tw_lens.tokens import visible


class NeuronExample(NamedTuple):
    """A position of text where a neuron's activation is large, with the tokens around it."""

    neuron: int
    prompt: int
    position: int
    token_index: int
    token_string: str
    activation: float
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, repr=False, eq=False)
class NeuronExamples(Result):
    """The positions with the largest activations of every neuron, highest first.

    `r` is the correlation of the real activation with that at the token's point, over `n_tested`
    positions; `r_embedding` the same at the token's embedding. `mean` is the mean activation and
    `positive` the share of positions where it is above 0.
    """

    model_name: str
    layer: int
    neurons: tuple[int, ...]
    examples: tuple[tuple[NeuronExample, ...], ...]
    r: Float[Tensor, " neurons"]
    r_embedding: Float[Tensor, " neurons"]
    mean: Float[Tensor, " neurons"]
    positive: Float[Tensor, " neurons"]
    n_prompts: int
    n_positions: int
    n_tested: int
    token_source: TokenSource = field(default_factory=TokenSource)
    caveats: tuple[Caveat, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """The label of each neuron: "L5N123"."""
        return tuple(neuron_label(self.layer, neuron, self.model_name) for neuron in self.neurons)

    def headline(self) -> str:
        """Return the number of prompts, and how well tokens predict the activations."""
        known = self.r[~self.r.isnan()]
        text = "r not defined (too few or equal activations)"
        if len(known):
            text = f"r = {float(known.mean()):.2f} (mean over {len(known)} neurons"
            if self.token_source.name != "embedding":
                text += f"; at embeddings {float(self.r_embedding[~self.r.isnan()].nanmean()):.2f}"
            text += ")"
        first = self.examples[0][0] if self.examples and self.examples[0] else None
        shown = "" if first is None else f"; {self.components[0]} fires most on {self._text(first)}"
        return (
            f"{self.model_name} layer {self.layer}: {len(self.neurons)} neurons in "
            f"{self.n_prompts} prompts ({self.n_positions} positions); activations and those at "
            f"the tokens' points: {text}{shown}"
        )

    @staticmethod
    def _text(example: NeuronExample) -> str:
        before = "".join(example.before[-3:])
        return repr(f"{before}[{visible(example.token_string)}]")

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row per neuron and example.

        Columns: layer, neuron, component, rank, prompt, position, token_index, token_string,
        activation, context_before, context_after, r, r_embedding (of the neuron).
        """
        rows = []
        values = zip(self.components, self.examples, self.r, self.r_embedding, strict=True)
        for component, examples, r, r_embedding in values:
            for rank, example in enumerate(examples):
                rows.append(
                    {
                        "layer": self.layer,
                        "neuron": example.neuron,
                        "component": component,
                        "rank": rank,
                        "prompt": example.prompt,
                        "position": example.position,
                        "token_index": example.token_index,
                        "token_string": example.token_string,
                        "activation": example.activation,
                        "context_before": "".join(example.before),
                        "context_after": "".join(example.after),
                        "r": float(r),
                        "r_embedding": float(r_embedding),
                    }
                )
        names = [
            "layer", "neuron", "component", "rank", "prompt", "position", "token_index",
            "token_string", "activation", "context_before", "context_after", "r", "r_embedding",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=names)
