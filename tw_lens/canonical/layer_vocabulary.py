"""Layer vocabulary: a point for every token, on the sphere that one layer's attention reads.

On disk it is one file (see `tensor_files`): points and maps in half precision, ids, counts, hashes
of the prompts, measured faithfulness, and what they were computed with.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical.head_faithfulness import HeadFaithfulness
from tw_lens.canonical.weights import Weights
from tw_lens.devices import CPU
from tw_lens.tensor_files import load_tensors, save_tensors

Source = Literal["embedding", "alone", "text"]
SOURCES: tuple[Source, ...] = get_args(Source)
LAYOUT = "tw_lens layer vocabulary 2"
TOKENS = ("token_index", "count", "prompt_hashes")
MEASURED = ("heads", "value", "low", "high", "floor")
HEADER = ("model_name", "fingerprint", "source", "layers", "d_vocab")


def apply_affine_map(
    x: Float[Tensor, "points d_model"], matrix: Float[Tensor, "d_and_1 d_model"]
) -> Float[Tensor, "points d_model"]:
    """Return `[x, 1] M`."""
    return torch.addmm(matrix[-1], x, matrix[:-1])


@dataclass(frozen=True, eq=False)
class LayerVocabulary:
    """Points `p_l(w)` of tokens w at layers l, in the place of `N(W_E)`.

    Attributes:
        model_name: the model the points were computed with.
        fingerprint: a digest of that model's parameters (see `fingerprint`).
        source: "embedding": `N(W_E[w])`, exact in layer 0; "alone": `N(x_l)` of w behind the
            model's own prefix; "text": the mean of `N(x_l)` over the positions of a corpus at which
            w stands. A mean lies inside the sphere and is not renormalised: its length over
            `sqrt(d_model)` says how little the state of w depends on its context.
        layers: the layers that have points.
        token_index: ids of the tokens that have points, ascending.
        points: one tensor per layer; float32 as computed, half precision as saved.
        maps: per layer the affine map `[N(W_E), 1] M` that predicts the points of all other tokens;
            None: they have no point.
        count: how many states each point is the mean of.
        d_vocab: number of tokens of the model.
        prompt_hashes: a hash of every prompt of the corpus, ascending; empty without one.
        faithfulness: agreement of the points with the heads on held-out text; None where it was not
            measured (see `tw_lens.faithfulness`).
    """

    model_name: str
    fingerprint: str
    source: Source
    layers: tuple[int, ...]
    token_index: Int[Tensor, " tokens"]
    points: tuple[Float[Tensor, "tokens d_model"], ...]
    count: Int[Tensor, " tokens"]
    d_vocab: int
    prompt_hashes: Int[Tensor, " prompts"] = field(
        default_factory=lambda: torch.empty(0, dtype=torch.long)
    )
    maps: tuple[Float[Tensor, "d_and_1 d_model"], ...] | None = None
    faithfulness: HeadFaithfulness | None = None

    def __len__(self) -> int:
        return len(self.token_index)

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        others = "" if self.maps is None else ", the others predicted from their embeddings"
        return (
            f"LayerVocabulary({self.model_name}, source {self.source!r}: {len(self):,} of "
            f"{self.d_vocab:,} tokens{others}; layers {layers})"
        )

    @property
    def counts_by_token(self) -> Int[Tensor, " d_vocab"]:
        """Return the count of every token of the model; 0 without a point."""
        counts = torch.zeros(self.d_vocab, dtype=torch.long, device=CPU)
        return counts.index_put((self.token_index,), self.count)

    @property
    def mask(self) -> Bool[Tensor, " d_vocab"]:
        """Return whether each token of the model has a point."""
        if self.maps is not None:
            return torch.ones(self.d_vocab, dtype=torch.bool, device=CPU)
        mask = torch.zeros(self.d_vocab, dtype=torch.bool, device=CPU)
        return mask.index_fill_(0, self.token_index, True)

    @checked
    def of_layer(self, layer: int) -> Float[Tensor, "tokens d_model"]:
        """Return the points of one layer, float32, in the order of `token_index`.

        Raises:
            ValueError: the layer has no points.
        """
        if layer not in self.layers:
            raise ValueError(
                f"the vocabulary has points for layers {', '.join(map(str, self.layers))}, not for "
                f"layer {layer}: make it with layer_vocabulary(model, layers=[{layer}], ...)."
            )
        return self.points[self.layers.index(layer)].float()

    @checked
    def map_of_layer(self, layer: int) -> Float[Tensor, "d_and_1 d_model"] | None:
        """Return the map that predicts the other tokens' points of one layer, float32."""
        return None if self.maps is None else self.maps[self.layers.index(layer)].float()

    def in_half_precision(self) -> LayerVocabulary:
        """Return the vocabulary as a file holds it: points and maps in half precision."""
        maps = None if self.maps is None else tuple(matrix.half() for matrix in self.maps)
        return replace(self, points=tuple(part.half() for part in self.points), maps=maps)

    @checked
    def save(self, path: str | Path) -> Path:
        """Write the vocabulary to one safetensors file, points in half precision.

        Raises:
            FileNotFoundError, PermissionError: the file cannot be written there.
        """
        header, saved = {name: getattr(self, name) for name in HEADER}, self.in_half_precision()
        tensors = {f"points.{i}": part for i, part in enumerate(saved.points)}
        tensors |= {f"maps.{i}": matrix for i, matrix in enumerate(saved.maps or ())}
        tensors |= {name: getattr(self, name) for name in TOKENS}
        if self.faithfulness is not None:
            header["n_held_out"] = self.faithfulness.n_prompts
            for name in MEASURED:
                tensors[f"faithfulness.{name}"] = getattr(self.faithfulness, name)
        return save_tensors(Path(path), LAYOUT, tensors, header)

    @checked
    def require_model(self, weights: Weights) -> None:
        """Reject weights of another model.

        Raises:
            ValueError: another model, or the same one with other parameters.
        """
        if self.fingerprint != weights.fingerprint:
            raise ValueError(
                f"the vocabulary was computed with {self.model_name}, whose parameters are not "
                f"those of {weights.model_name}: compute it with this model."
            )


class VocabularyFileError(ValueError):
    """A file that holds no layer vocabulary, not all of it, or a damaged one."""


@checked
def load_vocabulary(path: str | Path) -> LayerVocabulary:
    """Read a layer vocabulary that `LayerVocabulary.save` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        VocabularyFileError: (a ValueError) the file is damaged, truncated or of another kind.

    Example:
        >>> load_vocabulary("no such file")
        Traceback (most recent call last):
        FileNotFoundError: there is no file 'no such file'.
    """
    tensors, header = load_tensors(Path(path), LAYOUT, "layer vocabulary", VocabularyFileError)
    numbers, found = range(len(header["layers"])), None
    if "n_held_out" in header:
        measured = {name: tensors[f"faithfulness.{name}"] for name in MEASURED}
        found = HeadFaithfulness(**measured, n_prompts=header["n_held_out"])
    held: dict[str, Any] = {name: header[name] for name in HEADER}
    held |= {name: tensors[name] for name in TOKENS} | {"layers": tuple(header["layers"])}
    return LayerVocabulary(
        **held,
        points=tuple(tensors[f"points.{i}"] for i in numbers),
        maps=tuple(tensors[f"maps.{i}"] for i in numbers) if "maps.0" in tensors else None,
        faithfulness=found,
    )
