"""Files of states, so that a large model's run can be studied without the model.

One safetensors file: the three tensors and the token ids, and in its header the model's name, the
tokens' strings and the version of this layout.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from tw_lens.arguments import checked
from tw_lens.canonical import States
from tw_lens.files import write_atomically

LAYOUT = "tw_lens states 1"
TENSORS = ("tokens", "stream", "attn_out", "mlp_out")


class StatesFileError(ValueError):
    """A file does not hold states, or not all of them."""


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
    from safetensors.torch import save_file

    strings = json.dumps(states.token_strings)
    header = {"layout": LAYOUT, "model_name": states.model_name, "token_strings": strings}
    tensors = {name: getattr(states, name).detach().cpu().contiguous() for name in TENSORS}
    return write_atomically(Path(path), lambda target: save_file(tensors, target, metadata=header))


@checked
def load_states(path: str | Path) -> States:
    """Read states from a file written by `save_states`.

    Raises:
        FileNotFoundError: the file does not exist.
        StatesFileError: (a ValueError) the file is truncated, of another kind, or its tensors do
            not fit together.

    Example:
        >>> load_states("no such file")
        Traceback (most recent call last):
        FileNotFoundError: there is no file 'no such file'.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            header, names = file.metadata() or {}, set(file.keys())
            if header.get("layout") != LAYOUT or not names >= set(TENSORS):
                raise StatesFileError(
                    f"{path} is a safetensors file without states; write one with save_states."
                )
            tensors = {name: file.get_tensor(name) for name in TENSORS}
    except SafetensorError as error:
        raise StatesFileError(
            f"{path} is truncated or no safetensors file ({error}); copy or save it again."
        ) from error
    token_strings = tuple(json.loads(header["token_strings"]))
    _require_matching_shapes(tensors, token_strings, path)
    return States(model_name=header["model_name"], token_strings=token_strings, **tensors)


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
