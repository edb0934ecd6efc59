"""What is typed to select layers, heads and words, as the calls take them.

1. Layers: numbers, ranges with both ends, -1 for the last: "0,3-5,-1"; "all".
2. A head: its index, or a label "L5H1" that sets the layer too.
3. A word without its leading space stands for the token with one, where only that one exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tw_lens.cli.options import MODEL_FORMAT

if TYPE_CHECKING:
    from tw_lens.tokens import TokenStrings

SPAN = re.compile(r"(-?\d+)(?:-(-?\d+))?")
HEAD = re.compile(r"(?:([ED]?)L(\d+)([HX]))?(\d+)", re.IGNORECASE)
LABELS = {"encoder": "EH", "decoder": "DH", "cross": "DX"}  # of heads: EL5H1, DL5H1, DL5X1
ALL = "all"


class LayerSelection(NamedTuple):
    """Layers as typed: spans with both ends, negative ends counting from the last layer."""

    text: str
    spans: tuple[tuple[int, int], ...]

    def among(self, n_layers: int) -> list[int]:
        """Return the layers of a model, in the order given, each once.

        Raises:
            IndexError: a layer does not exist.
            ValueError: a range runs backwards.
        """
        chosen = []
        for span in self.spans:
            first, last = (nth_layer(end, n_layers) for end in span)
            if first > last:
                raise ValueError(
                    f"--layers {self.text}: the range from layer {first} to layer {last} runs "
                    "backwards; give the lower layer first."
                )
            chosen += range(first, last + 1)
        return list(dict.fromkeys(chosen))


def parse_layers(text: str) -> LayerSelection | None:
    """Return the layers in a text such as "0,3-5,-1" or "all"; None for an empty text.

    Raises:
        ValueError: the text names no layers.
    """
    if not text.strip():
        return None
    if text.strip().lower() == ALL:
        return LayerSelection(text, ((0, -1),))
    parts = [SPAN.fullmatch(part.strip()) for part in text.split(",")]
    found = [part for part in parts if part]
    if len(found) < len(parts):
        raise ValueError(
            "--layers must be numbers with commas between them, ranges such as 3-5, or all, e.g. "
            f"0,3-5,-1; got {text!r}."
        )
    return LayerSelection(text, tuple((int(m[1]), int(m[2] or m[1])) for m in found))


def parse_layers_or_all(text: str) -> LayerSelection | None:
    """Return the layers in a text as `parse_layers` does; None for "all" too."""
    return None if text.strip().lower() == ALL else parse_layers(text)


def chosen_layers(selection: LayerSelection | None, n_layers: int) -> list[int] | None:
    """Return the selected layers of a model; None without a selection, so that the call chooses."""
    return None if selection is None else selection.among(n_layers)


def nth_layer(layer: int, n_layers: int) -> int:
    """Return the index of a layer; -1 is the last.

    Raises:
        IndexError: the layer does not exist.
    """
    if not -n_layers <= layer < n_layers:
        raise IndexError(
            f"layer {layer} does not exist: the model has layers 0 to {n_layers - 1} (-1 is the "
            "last)."
        )
    return layer % n_layers


def parse_head(head: str | None, layer: int | None) -> tuple[int | None, int | None]:
    """Return the layer and the head that `--layer` and `--head` select; None for what neither says.

    Raises:
        ValueError: the head is neither an index nor a label, or its label names another layer.
    """
    if head is None:
        return layer, None
    match = HEAD.fullmatch(head.strip())
    if match is None:
        raise ValueError(
            f"--head must be an index such as 1, or a label such as L5H1; got {head!r}."
        )
    side, of_layer, letter, index = match.groups()
    if of_layer is None:
        return layer, int(index)
    stack = (MODEL_FORMAT.get() or {}).get("stack", "")
    label = (side + letter).upper()
    if label not in ("H", LABELS.get(stack, "H")):
        raise ValueError(
            f"--head {head} is a head of another stack than "
            f"{f'--stack {stack}' if stack else 'that of a model with one stack'}."
        )
    if layer not in (None, int(of_layer)):
        raise ValueError(
            f"--head {head} is in layer {of_layer}, but --layer is {layer}; leave out --layer."
        )
    return int(of_layer), int(index)


def parse_one_head(head: str, layer: int | None) -> tuple[int, int]:
    """Return the layer and the head of a head that is studied alone.

    Raises:
        ValueError: see `parse_head`; or nothing says which layer.
    """
    chosen, index = parse_head(head, layer)
    if chosen is None or index is None:
        raise ValueError(f"--head {head} needs a layer: add --layer 5, or give --head L5H{head}.")
    return chosen, index


def with_leading_spaces(
    words: Sequence[str], tokens: TokenStrings, note: Callable[[str], None]
) -> list[str]:
    """Return the words, each with a leading space where only so it is a single token.

    Args:
        words: as typed.
        tokens: of the model.
        note: called with one sentence on the words that got a space.
    """
    spaced = [_spaced(word, tokens) for word in words]
    changed = [new for old, new in zip(words, spaced, strict=True) if new != old]
    if changed:
        several = len(changed) > 1
        note(
            f"{', '.join(repr(word.strip()) for word in changed)} "
            f"{'are no single tokens' if several else 'is no single token'}; taken with a leading "
            f"space: {', '.join(map(repr, changed))}."
        )
    return spaced


def _spaced(word: str, tokens: TokenStrings) -> str:
    if tokens.tokenizer is None or not word or word.startswith(" "):
        return word
    if tokens.printed(word) is not None or tokens.single(word) is not None:
        return word
    return word if tokens.single(f" {word}") is None else f" {word}"


def chosen_stack(model: Any, name: Any, source: str) -> Any:
    """Return the stack of an encoder-decoder that `--stack` names; a model of one stack as it is.

    Raises:
        ValueError: no stack of an encoder-decoder is named, or one of a model that has one stack.
    """
    from tw_lens.reading import is_encoder_decoder, stack

    if not is_encoder_decoder(model):
        if name or source:
            raise ValueError("--stack and --source are for encoder-decoders; this model has none.")
        return model
    if not name:
        raise ValueError(
            "the model has an encoder and a decoder; choose --stack encoder, --stack cross, or "
            '--stack decoder with --source "what the encoder reads" (and check takes --target).'
        )
    return stack(model, name, source=source or None)
