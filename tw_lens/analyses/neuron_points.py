"""What all analyses of neurons share: labels, indices, and the caveat of their points."""

from __future__ import annotations

from collections.abc import Sequence

from tw_lens.canonical import MLP
from tw_lens.errors import Caveat
from tw_lens.results.base import layer_label
from tw_lens.results.token_source import TokenSource

AT_EMBEDDINGS = Caveat(
    "embedding points",
    "Tokens are read at their embeddings, and an MLP reads states that attention has moved away "
    "from them. Give vocabulary= from layer_vocabulary; neuron_examples prints how well points "
    "predict the inputs on text.",
)
NORMED_OUTPUT = Caveat(
    "norm of the MLP's output",
    "What the MLP adds is divided by its own length; norms and logits per unit of activation hold "
    "up to this divisor.",
)
BEFORE_ATTENTION = Caveat(
    "points before attention",
    "Tokens are read at their points before the layer's attention; its MLP reads states that "
    "attention has moved. neuron_examples prints how well points predict the inputs on text.",
)


def neuron_label(layer: int, neuron: int, model_name: str = "") -> str:
    """Return a neuron's label: "L5N123", "EL5N123" in an encoder."""
    return f"{layer_label(layer, model_name)}N{neuron}"


def require_neurons(neurons: Sequence[int] | None, mlp: MLP) -> tuple[int, ...]:
    """Return the neurons, each once; all for None.

    Raises:
        IndexError: a neuron does not exist.
        ValueError: the list is empty.
    """
    if neurons is None:
        return tuple(range(mlp.d_mlp))
    unique = tuple(dict.fromkeys(neurons))
    if not unique:
        raise ValueError("neurons is empty; give at least one neuron, or leave it out.")
    for neuron in unique:
        if not 0 <= neuron < mlp.d_mlp:
            raise IndexError(
                f"neuron {neuron} does not exist: layer {mlp.layer} has neurons 0 to "
                f"{mlp.d_mlp - 1}."
            )
    return unique


def neuron_caveats(mlp: MLP, source: TokenSource) -> tuple[Caveat, ...]:
    """Return the caveats of the points at which neurons are read, and of a norm of the output."""
    normed = () if mlp.post_norm is None else (NORMED_OUTPUT,)
    if source.points is not None:
        return source.caveats([mlp.layer]) + normed
    if source.name == "embedding":
        return ((AT_EMBEDDINGS,) if mlp.layer or not mlp.parallel else ()) + normed
    return (() if mlp.parallel else (BEFORE_ATTENTION,)) + normed
