"""Files of states, so that a large model's run can be studied without the model.

One file (see `tensor_files`): the three tensors and the token ids, the model's name and the tokens'
strings; for a decoder also what it reads from its encoder.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import Crossing, States
from tw_lens.tensor_files import load_tensors, save_tensors

LAYOUT = "tw_lens states 2"
TENSORS = ("tokens", "stream", "attn_out", "mlp_out")
CROSSING = ("cross_out", "source", "source_tokens")


class StatesFileError(ValueError):
    """A file does not hold states, not all of them, or damaged ones."""


@checked
def save_states(states: States, path: str | Path) -> Path:
    """Write states to one file, atomically.

    Args:
        states: from `read_states`.
        path: the file to write; `.safetensors` by convention.

    Returns:
        The path.

    Raises:
        FileNotFoundError, PermissionError: the file cannot be written.

    Example:
        >>> again = load_states(save_states(states, "states.safetensors"))
        >>> again.token_strings == states.token_strings
        True
    """
    tensors = {name: getattr(states, name) for name in TENSORS}
    header = {
        "model_name": states.model_name,
        "token_strings": states.token_strings,
        "sampled_fingerprint": states.sampled_fingerprint,
    }
    if states.crossing is not None:
        tensors |= {name: getattr(states.crossing, name) for name in CROSSING}
        header["source_token_strings"] = states.crossing.source_token_strings
    return save_tensors(Path(path), LAYOUT, tensors, header)


@checked
def load_states(path: str | Path) -> States:
    """Read states from a file written by `save_states`.

    Raises:
        FileNotFoundError: the file does not exist.
        StatesFileError: (a ValueError) the file is damaged, truncated, of another kind, or its
            tensors do not fit together.

    Example:
        >>> load_states("no such file")
        Traceback (most recent call last):
        FileNotFoundError: there is no file 'no such file'.
    """
    path = Path(path)
    tensors, header = load_tensors(path, LAYOUT, "states", StatesFileError)
    token_strings = tuple(header["token_strings"])
    crossing = None
    if "source_token_strings" in header:
        held = {name: tensors.pop(name) for name in CROSSING}
        crossing = Crossing(**held, source_token_strings=tuple(header["source_token_strings"]))
    _require_matching_shapes(tensors, token_strings, path)
    if crossing is not None:
        _require_matching_crossing(crossing, tensors["attn_out"], path)
    return States(
        crossing=crossing,
        model_name=header["model_name"],
        token_strings=token_strings,
        sampled_fingerprint=header.get("sampled_fingerprint", ""),
        **tensors,
    )


def _require_matching_crossing(crossing: Crossing, attn_out: Tensor, path: Path) -> None:
    n = len(crossing.source_token_strings)
    matching = (
        crossing.cross_out.shape == attn_out.shape
        and crossing.source.shape == (n, attn_out.shape[2])
        and crossing.source_tokens.shape == (n,)
    )
    if not matching:
        raise StatesFileError(f"{path} holds tensors that do not fit together; save it again.")


def _require_matching_shapes(
    tensors: dict[str, Tensor], token_strings: tuple[str, ...], path: Path
) -> None:
    stream = tensors["stream"].shape
    n = len(token_strings)
    matching = (
        len(stream) == 3
        and tensors["tokens"].shape == (n,)
        and stream[1] == n
        and tensors["attn_out"].shape == tensors["mlp_out"].shape == (stream[0] - 1, n, stream[2])
    )
    if not matching:
        raise StatesFileError(f"{path} holds tensors that do not fit together; save it again.")
