"""A second device for tests: memory of the CPU in disguise, where mixing devices is an error.

Tensors of the device are wrappers. Every operation runs on the wrapped tensors, and is refused
where tensors of both devices meet, as on a GPU: numbers of no dimension and indices may mix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fake"
_setup_privateuseone_for_python_backend(NAME)
FAKE = torch.device(f"{NAME}:0")
COPIES = ("aten::_to_copy", "aten::copy_")
NUMBERS = ("aten::_local_scalar_dense", "aten::equal")


class FakeTensor(torch.Tensor):
    """A tensor of the fake device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> FakeTensor:
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inside.shape,
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=FAKE,
        )

    def __init__(self, inside: torch.Tensor) -> None:
        self.inside = inside

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeTensor({self.inside})"

    def numpy(self, **options: Any) -> Any:
        """Refuse what no device but the CPU can do."""
        raise TypeError("can't convert a tensor of the fake device to numpy")

    def item(self) -> Any:
        """Return a number."""
        return self.inside.item()

    def tolist(self) -> Any:
        """Return nested lists."""
        return self.inside.tolist()

    def __float__(self) -> float:
        return float(self.inside)

    def __int__(self) -> int:
        return int(self.inside)

    def __bool__(self) -> bool:
        return bool(self.inside)

    def __index__(self) -> int:
        return self.inside.__index__()

    def __deepcopy__(self, memo: Any) -> FakeTensor:
        return FakeTensor(self.inside.clone())

    def __getitem__(self, index: Any) -> Any:  # an index may be on the CPU
        return super().__getitem__(_index(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_index(index), value)


class FakeDevice(TorchDispatchMode):
    """Within this context tensors can be made on the fake device and moved to it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _inside(value: Any) -> Any:
    return value.inside if isinstance(value, FakeTensor) else value


def _wrapped(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
    return FakeTensor(value) if plain else value


def _index(index: Any) -> Any:
    """Return an index with its tensors and lists on the fake device."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    is_list = isinstance(index, (list, range))
    return _wrapped(torch.tensor(list(index), device="cpu") if is_list else index)


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **others: Any) -> FakeTensor:
    return FakeTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    _inside(target).copy_(_inside(source))
    return target


LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation of tensors that are all on one device.

    Raises:
        RuntimeError: they are on two.
    """
    flat, _ = tree_flatten((args, kwargs))
    fakes = [value for value in flat if isinstance(value, FakeTensor)]
    plain = [value for value in flat if type(value) is torch.Tensor or _is_parameter(value)]
    name, on_fake = func._schema.name, bool(fakes)
    if kwargs.get("device") is not None:
        on_fake = torch.device(kwargs["device"]).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}
        if on_fake and kwargs.get("generator") is not None:
            raise RuntimeError(f"{name}: a generator of the CPU draws no numbers on the device")
    elif fakes and name not in COPIES and any(value.ndim for value in plain):
        raise RuntimeError(f"{name}: tensors are on two devices")
    out = func(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    if func._schema.is_mutable:  # the tensor that was changed is the result
        owner = next((f for f in fakes if f.inside is out), None)
        if owner is not None:
            return owner
    return tree_map(_wrapped, out) if on_fake and name not in NUMBERS else out


def _is_parameter(value: Any) -> bool:
    return isinstance(value, torch.nn.Parameter) and not isinstance(value, FakeTensor)
