"""Blocks and original model of one stack, under the names of a model with one stack."""

from __future__ import annotations

from typing import Any

from tw_lens.reading.model_access import optional


class StackBlock:
    """One block of a stack, with its parts under the names of a model with one stack."""

    def __init__(self, block: Any, parts: dict[str, str], without: tuple[str, ...]) -> None:
        self.whole_block = block
        self.parts = parts
        self.without = without

    def __getattr__(self, name: str) -> Any:
        """Return a part of the block; one that another part stands for is not there."""
        whole = self.__dict__.get("whole_block")
        if whole is None:  # a copy that is being made
            raise AttributeError(name)
        own = {shown: part for part, shown in self.__dict__["parts"].items()}
        if name in own:
            return getattr(whole, own[name])
        if name in self.__dict__["parts"] or name in self.__dict__["without"]:
            raise AttributeError(name)
        return getattr(whole, name)


class StackOriginal:
    """The original model, with the settings of one of its sides."""

    def __init__(self, model: Any, side: str) -> None:
        self.whole, self.side = model, side

    def __getattr__(self, name: str) -> Any:
        """Return the model's own attribute; `config` is the side's where it has one."""
        whole, side = self.__dict__.get("whole"), self.__dict__.get("side")
        if whole is None or side is None:
            raise AttributeError(name)
        if name == "config":
            own = optional(whole.config, side)
            return whole.config if own is None or not hasattr(own, "to_dict") else own
        return getattr(whole, name)
