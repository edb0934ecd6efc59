"""Every architecture TransformerLens knows, shrunken until it boots in a fraction of a second.

1. Take the architecture's own configuration class from transformers.
2. Shrink what every architecture has ("small" in data/zoo.json), then what only this one has
   ("own"): settings that make its special parts do something (a cap that caps, a window that is
   shorter than the prompt, multipliers that are not 1).
3. Build it with seeded random weights, move gains and biases away from 1 and 0, enlarge matrices so
   that attention is far from uniform.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tests.models import as_bridge, perturbed
from tw_lens.reading.model_exceptions import NATIVE

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else every processor is looked for, six times over


def architectures() -> list[str]:
    """The names TransformerLens has an adapter for, in its own order."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return list(SUPPORTED_ARCHITECTURES)


def at_hand(architecture: str) -> bool:
    """Whether the architecture's code is in transformers or TransformerLens itself."""
    import transformers

    return architecture == NATIVE or getattr(transformers, architecture, None) is not None


def tiny(architecture: str, seed: int = 0, **own: Any) -> Any:
    """A Hugging Face model of an architecture with random weights, a few layers deep.

    `own` replaces this architecture's own settings.
    """
    import transformers

    cls = getattr(transformers, architecture)
    settings = _settings()["own"].get(architecture, {}) | own
    config = cls.config_class(**_shrunken(cls.config_class, settings))
    config.architectures = [architecture]
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    return perturbed(cls._from_config(config).eval().float(), seed)


def native(seed: int = 0, **own: Any) -> Any:
    """A TransformerBridge around TransformerLens' own small model (`boot_native`)."""
    from transformer_lens.model_bridge import TransformerBridge

    settings = _settings()["native"] | {"seed": seed, "model_name": f"tiny-{NATIVE}"} | own
    return perturbed(TransformerBridge.boot_native(settings), seed)


def zoo_bridge(architecture: str, seed: int = 0, **own: Any) -> Any:
    """`tiny` behind a TransformerBridge; nothing is installed or fetched on the way.

    Packages for pictures (torchvision) are not asked for: text does not go through them.
    """
    if architecture == NATIVE:
        return native(seed, **own)
    with _no_installation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return as_bridge(tiny(architecture, seed, **own), f"tiny-{architecture}")


@contextlib.contextmanager
def _no_installation() -> Iterator[None]:
    """Keep TransformerLens 4 from running pip for torchvision, and from asking for it."""
    try:
        from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
        from transformer_lens.model_bridge.sources.transformers import helpers
    except ImportError:  # 3.9 does not
        yield
        return
    ensure, ask = helpers._ensure_torchvision, ArchitectureAdapter._check_required_libraries
    helpers._ensure_torchvision = lambda: False
    ArchitectureAdapter._check_required_libraries = lambda _adapter: None
    try:
        yield
    finally:
        helpers._ensure_torchvision = ensure
        ArchitectureAdapter._check_required_libraries = ask


@lru_cache(maxsize=1)
def _settings() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "data" / "zoo.json").read_text())


def _shrunken(config_class: Any, own: dict[str, Any]) -> dict[str, Any]:
    from transformers import PretrainedConfig

    default, everywhere = config_class(), _settings()["small"]
    small: dict[str, Any] = {}
    for name in set(default.to_dict()) | set(vars(default)):
        value = None
        with contextlib.suppress(Exception):  # settings that differ by layer cannot be read whole
            value = getattr(default, name, None)
        if isinstance(value, PretrainedConfig):
            small[name] = type(value)(**_shrunken(type(value), own.get(name, {}))).to_dict()
        elif name in everywhere:
            small[name] = everywhere[name]
    parts = {name for name, value in small.items() if isinstance(value, dict)}
    return small | {name: value for name, value in own.items() if name not in parts}
