"""A prompt's states: the residual stream at every layer, and what each block added to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Crossing:
    """What a decoder reads from its encoder on one prompt.

    Attributes:
        cross_out: what cross-attention added in each block of the decoder.
        source: the encoder's final state, before the norm through which the decoder reads it.
        source_tokens: ids of the source.
        source_token_strings: the same, printable.
    """

    cross_out: Float[Tensor, "n_layers position d_model"]
    source: Float[Tensor, "key d_model"]
    source_tokens: Int[Tensor, " key"]
    source_token_strings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class States:
    """The residual stream of one prompt, float32 on the CPU.

    Attributes:
        model_name: the model's name.
        tokens: ids of the prompt's positions, as the model itself tokenized it.
        token_strings: the same, printable.
        stream: the input of every block and, last, the final state.
        attn_out, mlp_out: what attention and the MLP added in each block.
        crossing: what cross-attention added and read, in the decoder of an encoder-decoder; None
            elsewhere.
        adds_up: largest relative gap of `stream[l] + attn_out[l] + mlp_out[l]`, and of
            cross-attention, against `stream[l + 1]`; above 1e-3 they are not what was added.
        sampled_fingerprint: a digest of some of the model's parameters; empty where unknown.
    """

    model_name: str
    tokens: Int[Tensor, " position"]
    token_strings: tuple[str, ...]
    stream: Float[Tensor, "layers_and_end position d_model"]
    attn_out: Float[Tensor, "n_layers position d_model"]
    mlp_out: Float[Tensor, "n_layers position d_model"]
    sampled_fingerprint: str = field(default="", repr=False)
    crossing: Crossing | None = None

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.stream.shape[0] - 1

    @property
    def labels(self) -> list[str]:
        """A name for every row of `stream`: `0_pre`, `1_pre`, ..., `final_post`."""
        return [f"{layer}_pre" for layer in range(self.n_layers)] + ["final_post"]

    def require_crossing(self) -> Crossing:
        """Return what cross-attention read and added.

        Raises:
            ValueError: these are not the states of a decoder beside its source.
        """
        if self.crossing is None:
            raise ValueError(
                f"the states of {self.model_name} hold no source; read those of the decoder: "
                'read_states(stack(model, "decoder", source="..."), target).'
            )
        return self.crossing

    def cross_out(self, layer: int) -> Float[Tensor, "position d_model"] | None:
        """Return what cross-attention added in a layer; None without it."""
        return None if self.crossing is None else self.crossing.cross_out[layer]

    @property
    def adds_up(self) -> float:
        """Relative gap between the residual stream and the sum of its parts (see the class)."""
        total = self.stream[:-1] + self.attn_out + self.mlp_out
        total = total if self.crossing is None else total + self.crossing.cross_out
        return float((total - self.stream[1:]).abs().max() / self.stream[1:].abs().max())

    def __len__(self) -> int:
        return self.stream.shape[1]

    def __repr__(self) -> str:
        return (
            f"States({self.model_name}: {len(self)} positions, {self.n_layers} layers, "
            f"parts add up to {self.adds_up:.0e})"
        )
