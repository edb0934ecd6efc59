"""Whatever a session has set: the same results, and everything is left as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch

import tw_lens as tw
from tests.analyses.test_results import COLUMNS, results
from tests.models import GOLDEN, golden_bridge, shared_bridge
from tw_lens.torch_settings import default_settings


@contextmanager
def changed(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def dtype(value: torch.dtype) -> AbstractContextManager[None]:
    return changed(torch.get_default_dtype, torch.set_default_dtype, value)


@contextmanager
def device(value: str) -> Iterator[None]:
    torch.set_default_device(value)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def everything() -> Iterator[None]:
    with ExitStack() as stack:
        for name in set(SURROUNDINGS) - {"float64", "bfloat16", "meta", "everything"}:
            stack.enter_context(SURROUNDINGS[name]())
        yield


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "float16": lambda: dtype(torch.float16),
    "meta": lambda: device("meta"),
    "meta context": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "precision": lambda: changed(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "numpy raises": lambda: np.errstate(all="raise"),
    "everything": everything,
}


def settings() -> dict[str, Any]:
    """Everything global that a call could leave behind."""
    from transformers.utils import logging

    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch seed": torch.get_rng_state().tolist() if torch.empty(0).device.type == "cpu" else 0,
        "numpy seed": repr(np.random.get_state()),
        "numpy": np.geterr(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)],
        "logging": (logging.get_verbosity(), logging.is_progress_bar_enabled()),
    }


def answers() -> dict[str, tuple[str, str, str]]:
    """The table, the figure and the notebook HTML of one result of each class."""
    made = results.__wrapped__()
    return {
        name: (result.to_dataframe().to_json(double_precision=15), *shown(result))
        for name, result in made.items()
    }


def shown(result: Any) -> tuple[str, str]:
    return result.plot().to_json(), result._repr_html_()


@lru_cache(maxsize=1)
def expected() -> dict[str, tuple[str, str, str]]:
    assert torch.get_default_dtype() == torch.float32
    return answers()


@pytest.mark.parametrize(
    "name", ["float64", "bfloat16", "meta", "inference", "autocast", "everything"]
)
def test_every_result_is_the_same_and_everything_is_left(name: str):
    baseline = expected()
    with SURROUNDINGS[name]():
        before = settings()
        found = answers()
        after = settings()
    assert before == after
    assert found.keys() == set(COLUMNS)
    different = [result for result in baseline if found[result] != baseline[result]]
    assert not different


def test_settings_of_the_process_are_restored_when_the_last_call_returns():
    """A call that ends first leaves another thread's call in float32."""
    inside, done = Barrier(2), Barrier(2)

    @default_settings()
    def first() -> None:
        inside.wait(10)

    @default_settings()
    def second() -> torch.dtype:
        inside.wait(10)
        done.wait(10)
        return torch.zeros(1).dtype

    with dtype(torch.float64), ThreadPoolExecutor(1) as pool:
        running = pool.submit(second)
        first()
        assert torch.get_default_dtype() == torch.float32  # the other call still runs
        done.wait(10)
        assert running.result() == torch.float32
        assert torch.get_default_dtype() == torch.float64


def test_an_error_leaves_everything_too():
    weights = tw.read_weights(shared_bridge("gpt2"))
    with everything():
        before = settings()
        with pytest.raises(IndexError):
            tw.head_spectrum(weights, layer=99)
        assert settings() == before


@pytest.mark.parametrize("name", ["float16", "meta", "autocast", "inference", "everything"])
def test_weights_loaded_read_copied_and_saved_there_are_the_same(tmp_path, name: str):
    there = SURROUNDINGS[name]
    with there():
        model = tw.load_model(str(GOLDEN))
        weights = tw.read_weights(model)
        blocks = [weights.block(layer) for layer in range(2)]
        constants = [block.a_Q for block in blocks]
        states = tw.load_states(tw.save_states(tw.read_states(model, [5, 6, 7]), tmp_path / "s"))
        made = tw.layer_vocabulary(model, layers=[1], source="embedding").save(tmp_path / "v")
        vocabulary = tw.load_vocabulary(made)
    expected = tw.read_weights(golden_bridge())
    for layer, constant in enumerate(constants):
        assert torch.equal(constant, expected.block(layer).a_Q)
        assert torch.equal(blocks[layer].A_O, expected.block(layer).A_O)
        assert not constant.is_inference()
    assert torch.equal(states.stream, tw.read_states(golden_bridge(), [5, 6, 7]).stream)
    own = tw.layer_vocabulary(golden_bridge(), layers=[1], source="embedding")
    assert torch.equal(vocabulary.points[0], own.points[0].half())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_does_not_matter(threads: int):
    with changed(torch.get_num_threads, torch.set_num_threads, threads):
        assert tw.check(golden_bridge(), [5, 6, 7]).passed
        norms = tw.token_norms(tw.read_weights(golden_bridge()))
        assert torch.get_num_threads() == threads
    assert torch.allclose(norms.score, tw.token_norms(tw.read_weights(golden_bridge())).score)


FIRST_CALLS = """
import os, random, sys
import numpy as np
import torch
from transformers.utils import logging

import tw_lens as tw

random.seed(1), np.random.seed(1), torch.manual_seed(1)


def settings():
    return {
        "random": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "logging": (logging.get_verbosity(), logging.is_progress_bar_enabled()),
    }


before = settings()
model = tw.load_model(sys.argv[1])
weights, states = tw.read_weights(model), tw.read_states(model, [5, 6, 7])
tw.check(model, [5, 6, 7]).plot()
tw.fit_projection(weights, states, method="umap", n_words=40)
tw.trajectory_statistics(model, [[5, 6, 7], [8, 9]])
tw.attention_widget(tw.attention_pattern(weights, states, layer=0))
after = settings()
print([name for name in before if before[name] != after[name]])
"""


def test_the_first_calls_of_a_process_leave_random_states_threads_and_environment(tmp_path):
    """What packages do when they are first imported is undone; without type checks, which draw."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FIRST_CALLS, str(GOLDEN)],
        env=os.environ | {"TW_LENS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
