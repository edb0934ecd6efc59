"""A prompt's states: the residual stream at every layer, and what each block added to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class States:
    """The residual stream of one prompt, float32 on the CPU.

    Attributes:
        model_name: the model's name.
        tokens: ids of the prompt's positions, as the model itself tokenized it.
        token_strings: the same, printable.
        stream: the input of every block and, last, the final state.
        attn_out, mlp_out: what attention and the MLP added in each block.
        adds_up: largest relative gap of `stream[l] + attn_out[l] + mlp_out[l]` against
            `stream[l + 1]`; above 1e-3 the two parts are not what was added.
        sampled_fingerprint: a digest of some of the model's parameters; empty where unknown.
    """

    model_name: str
    tokens: Int[Tensor, " position"]
    token_strings: tuple[str, ...]
    stream: Float[Tensor, "layers_and_end position d_model"]
    attn_out: Float[Tensor, "n_layers position d_model"]
    mlp_out: Float[Tensor, "n_layers position d_model"]
    sampled_fingerprint: str = field(default="", repr=False)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.stream.shape[0] - 1

    @property
    def labels(self) -> list[str]:
        """A name for every row of `stream`: `0_pre`, `1_pre`, ..., `final_post`."""
        return [f"{layer}_pre" for layer in range(self.n_layers)] + ["final_post"]

    @property
    def adds_up(self) -> float:
        """Relative gap between the residual stream and the sum of its parts (see the class)."""
        total = self.stream[:-1] + self.attn_out + self.mlp_out
        return float((total - self.stream[1:]).abs().max() / self.stream[1:].abs().max())

    def __len__(self) -> int:
        return self.stream.shape[1]

    def __repr__(self) -> str:
        return (
            f"States({self.model_name}: {len(self)} positions, {self.n_layers} layers, "
            f"parts add up to {self.adds_up:.0e})"
        )
