"""The settings under which everything is computed, whatever a session has set.

A session may have another default type or device, autocast, inference mode, gradients, reduced
precision of products, or errors for NumPy's warnings. Public calls are decorated with
`@default_settings()`: within them these settings are torch's and NumPy's defaults, so that results
do not depend on them, and afterwards they are as they were. Settings of the whole process (type,
precision) are restored when the last call of any thread returns.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

CPU = torch.device("cpu")
PRECISION = "highest"
AUTOCAST = ("cpu", "cuda", "xpu")


@contextmanager
def default_settings(device: torch.device = CPU) -> Iterator[None]:
    """Compute in float32, in full precision, without autocast and gradients.

    New tensors are made on the device. Models stay on their own device, and their parameters in
    their own type.
    """
    with ExitStack() as stack:
        stack.enter_context(_process_settings())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if torch.get_default_device() != device:
            stack.enter_context(device)
        for kind in filter(torch.is_autocast_enabled, AUTOCAST):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


class _Session:
    """The session's own settings while calls run: how many run, and what to restore."""

    lock = threading.Lock()
    calls = 0
    dtype = torch.float32
    precision = PRECISION


@contextmanager
def _process_settings() -> Iterator[None]:
    """Set the default type and the precision of products, which all threads share."""
    with _Session.lock:
        if _Session.calls == 0:
            _Session.dtype = torch.get_default_dtype()
            _Session.precision = torch.get_float32_matmul_precision()
        _Session.calls += 1
        _set(torch.float32, PRECISION)
    try:
        yield
    finally:
        with _Session.lock:
            _Session.calls -= 1
            if _Session.calls == 0:
                _set(_Session.dtype, _Session.precision)


def _set(dtype: torch.dtype, precision: str) -> None:
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
    if torch.get_float32_matmul_precision() != precision:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def unchanged_globals() -> Iterator[None]:
    """Leave random states, number of threads and environment as they are, whatever is called.

    For calls of packages that change them (loading a model, importing and fitting UMAP).
    """
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, environment = torch.get_num_threads(), dict(os.environ)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(generator)
        torch.set_num_threads(threads)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
