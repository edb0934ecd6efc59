"""Random calls of the whole public interface, with tiny models (see tests/test_arguments.py).

Every argument is right or wrong by chance. A call must answer, or be refused by a `raise` of the
package itself; models and global state stay as they were. Run as a program: the tests' own type
checks would answer in the package's place.
"""

from __future__ import annotations

import ast
import fractions
import itertools
import os
import random
import sys
import tempfile
import traceback
import warnings
from functools import cache
from inspect import Parameter, isfunction, signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

import tw_lens as tw
from tests.models import as_bridge, perturbed
from tests.planted import with_router
from tw_lens.results import Result

PACKAGE = str(Path(tw.__file__).parent)
N_TOKENS, CONTEXT = 60, 16
SMALL: dict[str, tuple[str, dict[str, int]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT}),
    "llama": ("LlamaForCausalLM", {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 16, "max_position_embeddings": CONTEXT,
    }),
}  # fmt: skip


def tiny(kind: str) -> Any:
    """Return a model of two layers and 60 tokens in a TransformerBridge."""
    from transformers import AutoConfig, AutoModelForCausalLM

    class_name, sizes = SMALL[kind]
    config = AutoConfig.for_model(
        kind, **sizes, vocab_size=N_TOKENS, bos_token_id=0, eos_token_id=0, pad_token_id=None
    )
    config.architectures, config._attn_implementation = [class_name], "eager"
    torch.manual_seed(0)
    return as_bridge(perturbed(AutoModelForCausalLM.from_config(config).eval(), 0), f"tiny-{kind}")


MODELS = {kind: tiny(kind) for kind in SMALL}
GPT2, LLAMA = MODELS.values()
PARTS = {
    name: (
        list(model.modules()), list(model.hook_dict.values()),
        list({id(t): t for t in model.state_dict(keep_vars=True).values()}.values()),
    )
    for name, model in MODELS.items()
}  # fmt: skip
WEIGHTS = [tw.read_weights(model) for model in MODELS.values()]
STATES = [tw.read_states(model, [5, 6, 7]) for model in MODELS.values()]
TEXTS = [[5, 6, 7, 8, 9], "w5 w6 w7 w8", torch.tensor([9, 10, 11])]
VOCABULARIES = [tw.layer_vocabulary(model, source="embedding") for model in MODELS.values()]
POINTS = [tw.position_points(WEIGHTS[0]), tw.Points(torch.eye(12)[:3], ("a", "b", "c"))]
FILTERS = [tw.token_filter(weights, whole_words=False) for weights in WEIGHTS]


class Unprintable:
    """An object that cannot be printed."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


WRONG: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 99, 2**31, 2**63, 2**64, -(2**70), 10**5000,
    0.5, 1.0, -1.0, 1e400, float("nan"), 1j, fractions.Fraction(1, 2), fractions.Fraction(10**400),
    "a", "", "5", "\ud800", "a\0b", "x" * 500, b"a", bytearray(b"a"), [], (), {}, set(), [None],
    [1.5], ["a", None], [[1]],
    [1, 99], [-1], [2**64], [True], ["w5", 6], {"a": 1}, {1}, range(3), object(), len,
    itertools.count(), Unprintable(), [Unprintable()], np.int64(1),
    np.float32(1), np.array(1), np.array([1, 2]),
    np.array([[1.5]]), torch.tensor(1), torch.tensor([0, 1]), torch.tensor([1.5, 2.5]),
    torch.tensor([[True]]), torch.empty(0), Path("no folder") / "file", Path("."),
    pd.DataFrame({"a": [1]}), pd.Series([1]), np.array(["a"]), torch.nn.Linear(2, 2),
    *WEIGHTS[:1], *STATES[:1], *VOCABULARIES[:1], *FILTERS[:1], GPT2,
]  # fmt: skip

MANY = 2**31 - 1
RIGHT: dict[str, list[Any]] = {
    "model": [GPT2, GPT2, LLAMA],
    "models": [[GPT2], [GPT2, LLAMA], {"step5": LLAMA}], "n_jobs": [None, 1],
    "measures of sweep": [["spectra"], ["kinds", "travel"], ["faithfulness"]],
    "weights": [WEIGHTS[0], WEIGHTS[0], WEIGHTS[1]],
    "states": [STATES[0], STATES[0], STATES[1], STATES],
    "model of head_kinds": [None, GPT2],
    "prompt": ["w5 w6 w7", [5, 6, 7], torch.tensor([5, 6])],
    "prompts": [TEXTS, TEXTS[:1], iter(())],
    "held_out": [None, [[20, 21, 22, 23, 24, 25]]],
    "tokens": [None],
    "layer": [0, 1], "head": [0, 1], "direction": [0, 3], "position": [0, 2, None],
    "query": [None, 2],    "key": [None, 0], "relative": [True, False],
    "layers": [None, [1], (0, 1), range(2), np.array([1])],
    "k": [1, 2, 5, MANY], "n": [1, 2, MANY], "distance": [0], "distances": [[0], range(2)],
    "words": [[5, 6], ["w5", "w6 w7", 8], "w9", torch.tensor([5])],
    "vocabulary": [None, None, VOCABULARIES[0], VOCABULARIES[1], VOCABULARIES],
    "points": [None, *POINTS], "positions": [None, [0, 1]], "variance": [0.9, 1],
    "names": [None, ["a", "b", "c"]], "tensor": [None, "v"], "kind": ["state", "part"],
    "label": ["points"], "divisor": [1.0, 2], "sae": [SimpleNamespace(W_dec=torch.eye(12)[:3])],
    "token_filter": [None, None, FILTERS[0], FILTERS[1]],
    "n_null": [9], "n_null_within": [3], "n_permutations": [9], "n_perturbations": [1],
    "n_words": [5, MANY], "n_components": [2, 3], "n_random": [1, 2], "n_examples": [1, MANY],
    "controls": [[], ["random steps"], ["permuted weights"]],
    "measures": [("embedding",), ["norm"], ["word class"]], "nulls": [["isotropic"]],
    "directions": [None, [0], [(0, 1), 2], [()], torch.tensor([0])],
    "neurons": [[0], (1, 2), range(3)], "neurons of trajectory_attribution": [None, 2],
    "rotations": [1, 3], "seed": [0, 7], "batch_size": [1, MANY], "first_position": [0, 1, 1, MANY],
    "context": [1, MANY], "min_count": [1, 1, MANY], "prior_count": [None, 0, 0.5],
    "checkpoint": [None], "progress": [False, len],
    "path": ["file.csv", "file.svg", "file.safetensors", Path("out.html")],
    "script": [None, "Latin"], "leading_space": [True, False, None],
    "norm_band": [None, (0, 50)], "id_band": [None, (0, 30)], "unused": [False],
    "format": [None, "csv"], "caption": [None, "caption"], "table": [None],
    "height": [None, 3], "n_columns": [1, 2], "name": ["./no-model", "~nobody/model", "a/b/c"],
    "circuit": ["QK", "OV"], "convention": ["exact", "published"], "score": ["dot", "standardised"],
    "readout": ["update", "residual"], "source": ["embedding", "alone", "text"],
    "unseen": ["predicted", "omitted"], "action": ["ablate", "isolate"], "method": ["pca"],
    "tolerance": [None, 1e-3], "family": ["head", "model"], "side": ["left", "right"],
    "target": ["next state"], "place": ["end", "middle"], "word": [None, "w"],
    "component": ["MLP", 0], "index": [0],
    "folder": ["paper", Path("other")], "methods": [["pca"]], "name of table": ["token_norms"],
    "what": ["a call"], "color": ["token", "layer"],
}  # fmt: skip
RARE = {
    "report": 60, "paper_tables": 60, "trajectory_statistics": 8, "trajectory_alignment": 8,
    "direction_ablation": 4, "sweep": 8, "reference_vocabulary": 4, "Trajectory.plot": 4,
    "permute_weights": 2, "check": 2,
}  # fmt: skip
"""Slow calls: one in so many draws is made."""


def written(model: Any) -> Any:
    """Return the paper's tables of a model."""
    with tempfile.TemporaryDirectory() as folder:
        return tw.paper_tables(
            model, f"{folder}/paper", prompt=[5, 6], layers=[1], words=[5], methods=["pca"]
        )


@cache
def made() -> dict[str, Any]:
    """Return a result of every class, and the objects that other calls take."""
    w, m, s = WEIGHTS[0], GPT2, STATES[0]
    results = [
        tw.check(m, [5, 6, 7]), tw.embedding_distances(w), tw.token_norms(w),
        tw.head_probe(w, layer=1, words=[5, 6]), tw.head_spectrum(w, layer=1, n=2),
        tw.bias_directions(w, layer=1), tw.trajectory(w, s), tw.trajectory_attribution(w, s),
        tw.score_attribution(w, s, layer=1, head=0),
        tw.score_directions(w, s, layer=1, head=0, rotations=2),
        tw.neuron_table(w, layer=1, k=2), tw.neuron_probe(w, layer=1, words=[5], n=2),
        tw.router_table(with_router(w), layer=1),
        tw.neuron_examples(m, TEXTS, layer=1, neurons=[0], n_examples=1),
        tw.neuron_ablation(m, TEXTS, layer=1, neurons=[0]),
        tw.trajectory_attribution(w, s, neurons=2).neurons,
        tw.source_attribution(w, s, layer=1, head=0, query=2),
        tw.attention_pattern(w, s, layer=1), tw.fit_projection(w, s, n_words=9),
        tw.head_ellipsoid(w, layer=1, head=0, words=[5, 6]), tw.head_atlas(w, n=1, k=2),
        tw.direction_coherence(w, n=1, n_null=9, n_null_within=3),
        tw.direction_association(w, n=2, n_permutations=9),
        tw.direction_degeneracy(w, layer=1, n=3), FILTERS[0],
        tw.head_kinds(w), tw.head_position_scores(w, layer=1, n=4),
        tw.span_shares(w, POINTS[0]), POINTS[0],
        tw.head_probe_by_distance(w, layer=1, words=[5], distances=[0]),
        tw.head_score_by_distance(WEIGHTS[1], layer=1, words=[5, 6], distances=[0, 1]),
        tw.trajectory_statistics(m, TEXTS, controls=[]),
        tw.trajectory_alignment(m, TEXTS, controls=[]),
        tw.direction_examples(m, TEXTS, layer=1, head=0, context=1),
        tw.direction_ablation(m, TEXTS, layer=1, head=0, directions=[0]),
        tw.faithfulness(m, TEXTS, vocabulary=VOCABULARIES[0]), w, VOCABULARIES[0],
        tw.sweep([m], measures=["spectra"]), written(m),
    ]  # fmt: skip
    objects = {type(result).__name__: result for result in results}
    RIGHT["projection"] = [objects["Projection"], None]
    RIGHT["paths"] = [objects["Trajectory"], [objects["Trajectory"]] * 2]
    RIGHT["path of points_of"] = [objects["Trajectory"]]
    RIGHT["color"] += [objects["TrajectoryAttribution"]]
    RIGHT["states of save_states"] = RIGHT["states of require_states"] = STATES
    drawn = ("TokenNorms", "Trajectory", "AttentionPattern", "DirectionExamples", "HeadSpectrum")
    RIGHT["result"] = RIGHT["figure"] = [objects[name] for name in drawn]
    RIGHT["projection of plot_trajectories"] = [objects["Projection"]]
    RIGHT["measures of plot_trajectory_measures"] = [["norm"], ("norm", "chord")]
    for name in drawn[:3]:
        objects[name].plot()  # plotly is imported, which adds filters of warnings
    return objects


@cache
def calls() -> list[tuple[str, Any]]:
    """Return every public function, and every public method that takes arguments."""
    functions = [(name, getattr(tw, name)) for name in tw.__all__]
    found = [(name, call) for name, call in functions if isfunction(call)]
    for name, owner in made().items():
        for method in dir(type(owner)):
            call = getattr(type(owner), method)
            if (
                not method.startswith("_")
                and isfunction(call)
                and len(signature(call).parameters) > 1
            ):
                found.append((f"{name}.{method}", getattr(owner, method)))
    return found


@st.composite
def random_calls(draw: st.DrawFn) -> tuple[str, Any, list[Any], dict[str, Any]]:
    """Draw a call: its name, the function, its arguments and its keywords."""
    name, call = draw(st.sampled_from(calls()))
    if draw(st.integers(1, RARE.get(name, 1))) > 1:
        name, call = draw(st.sampled_from(calls()))
    parameters = list(signature(call).parameters.values())
    wrong = set()
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2, 3]))):
        wrong.add(draw(st.sampled_from(parameters)).name)
    args, keywords = [], {}
    for p in parameters:
        pool = RIGHT.get(f"{p.name} of {name.rpartition('.')[2]}", RIGHT.get(p.name))
        if pool is None or p.name in wrong:
            value = draw(st.sampled_from(WRONG))
        elif p.default is Parameter.empty or name == "load_model" or draw(st.booleans()):
            value = draw(st.sampled_from(pool))
        else:
            continue
        if p.name == "progress" and callable(value) and value is not len:
            continue  # a function of the caller may raise what it likes
        if name == "load_model" and value is None:
            value = ""  # without a name the bundled model is loaded
        if p.kind is Parameter.KEYWORD_ONLY or keywords or p.default is not Parameter.empty:
            keywords[p.name] = value
        else:
            args.append(value)
    if draw(st.integers(0, 60)) == 0:
        keywords["unknown"] = 1
    if keywords and name != "load_model" and draw(st.integers(0, 60)) == 0:
        keywords.popitem()
    return name, call, args, keywords


def global_state() -> dict[str, Any]:
    """Return what no call may change, models included."""
    state: dict[str, Any] = {
        "dtype": torch.get_default_dtype(), "device": str(torch.get_default_device()),
        "grad": torch.is_grad_enabled(), "inference": torch.is_inference_mode_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(), "torch": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy": hash(np.random.get_state()[1].tobytes()), "random": hash(random.getstate()),
        "filters": len(warnings.filters), "folder": os.getcwd(), "environment": dict(os.environ),
        "numpy errors": np.geterr(), "pandas": pd.get_option("display.max_rows"),
    }  # fmt: skip
    for name, (modules, points, tensors) in PARTS.items():
        state[f"{name} training"] = [module.training for module in modules]
        state[f"{name} hooks"] = [
            *(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules),
            *(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points),
        ]
        state[f"{name} tensors"] = [
            (hash(t.detach().numpy().tobytes()), t.requires_grad, t.grad is None) for t in tensors
        ]
    return state


@cache
def raises(file: str) -> list[tuple[int, int]]:
    """Return the first and last line of every `raise` of a file."""
    nodes = ast.walk(ast.parse(Path(file).read_text()))
    return [(n.lineno, n.end_lineno or n.lineno) for n in nodes if isinstance(n, ast.Raise)]


def is_ours(error: BaseException) -> bool:
    """Return whether an error comes from a `raise` of the package, with a sentence."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    if not frame.filename.startswith(PACKAGE) or not str(error).strip():
        return False
    if frame.name == "__getattr__":
        return False
    return any(first <= (frame.lineno or 0) <= last for first, last in raises(frame.filename))


def shown(name: str, args: list[Any], keywords: dict[str, Any]) -> str:
    """Return a call as text."""

    def one(value: Any) -> str:
        try:
            return repr(value)[:70].replace("\n", " ")
        except Exception:
            return type(value).__name__

    values = [*map(one, args), *(f"{key}={one(value)}" for key, value in keywords.items())]
    return f"{name}({', '.join(values)})"


def problem(name: str, call: Any, args: list[Any], keywords: dict[str, Any]) -> str:
    """Run a call; return what is wrong with how it ended, or ""."""
    before, outcome = global_state(), ""
    try:
        result = call(*args, **keywords)
        if isinstance(result, Result):
            assert repr(result) and result._repr_html_()
    except Exception as error:
        if not is_ours(error):
            frames = traceback.extract_tb(error.__traceback__)
            inner = [frame for frame in frames if frame.filename.startswith(PACKAGE)] or frames
            where = f"{Path(inner[-1].filename).name}:{inner[-1].lineno} {inner[-1].line}"
            outcome = f"{type(error).__name__}: {str(error)[:200]} at {where}"
    after = global_state()
    if changed := [key for key in before if before[key] != after[key]]:
        outcome += f" changed {changed}"
    return outcome and f"{shown(name, args, keywords)}\n  {outcome}"


def main(n_calls: int) -> None:
    """Make random calls in a folder of their own; raise with the first wrong one."""

    @settings(
        max_examples=n_calls, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    )  # fmt: skip
    @given(random_calls())
    def every_call_answers_or_refuses(drawn: tuple[str, Any, list[Any], dict[str, Any]]) -> None:
        found = problem(*drawn)
        if found:  # what is drawn may have no repr, which hypothesis would print
            print(found, file=sys.stderr)
        assert not found, found
        names.append(drawn[0])

    names: list[str] = []
    made()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        set_hypothesis_home_dir(folder)
        os.environ["TW_LENS_CACHE"], os.environ["PATH"] = folder, ""  # no Chromium is found
        warnings.simplefilter("error")
        every_call_answers_or_refuses()
        os.chdir("/")
    print(f"{len(names)} calls of {len(set(names))} of {len(calls())} functions and methods")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
