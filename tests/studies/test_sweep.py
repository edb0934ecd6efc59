"""Sweeps over six checkpoints of a small GPT-2, trained on sentences that every machine has."""

from __future__ import annotations

import gc
import pickle
import sys
import warnings
import weakref
from dataclasses import fields
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens import UnsupportedModelError
from tw_lens.cli import app
from tw_lens.reading import fingerprint
from tw_lens.studies import SWEEP_MEASURES, CheckpointError, ReferenceTextError, Sweep
from tw_lens.studies.sweep_measures import COLUMNS
from tw_lens.studies.sweep_models import run_of, step_of

STEPS = range(6)
WEIGHTS_ONLY = ["spectra", "kinds"]
PROMPTS = [" ".join(line.split()[:8]) for line in tw.reference_prompts(2)]
IDS = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14, 15, 5, 6, 12, 13]]
MODULE = "tw_lens.studies.sweep_run"


def train(folder: Path) -> None:
    """Save a GPT-2 of two layers with its tokenizer after each of six training steps."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    text = tw.reference_prompts(300)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<end>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(text, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<end>", eos_token="<end>", unk_token="<end>"
    )
    torch.manual_seed(0)
    config = GPT2Config(
        n_embd=32, n_layer=2, n_head=2, n_positions=128, vocab_size=len(fast), bos_token_id=0,
        eos_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    ids = torch.tensor([i for line in text for i in fast(line)["input_ids"]])
    rows = ids[: len(ids) // 64 * 64].view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in STEPS:
        model.save_pretrained(folder / f"step{step}")
        fast.save_pretrained(folder / f"step{step}")
        batch = rows[8 * step : 8 * step + 8]
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with torch.enable_grad():
        train(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(run: Path) -> list[str]:
    return [str(run / f"step{step}") for step in STEPS]


@pytest.fixture(scope="module")
def whole(checkpoints: list[str]) -> Sweep:
    return tw.sweep(checkpoints, prompts=PROMPTS)


def same(one: Sweep, other: Sweep) -> None:
    assert one.models == other.models and one.caveats == other.caveats
    assert one.values.numpy().tobytes() == other.values.numpy().tobytes()
    assert one.to_dataframe().equals(other.to_dataframe()) and repr(one) == repr(other)


def test_one_row_per_model_and_layer(whole: Sweep, checkpoints: list[str]):
    table = whole.to_dataframe()
    assert table[["model", "step", "layer"]].values.tolist() == [
        [name, step, layer] for step, name in enumerate(checkpoints) for layer in range(2)
    ]
    assert table.fingerprint.nunique() == 6
    assert table.fingerprint[0] == fingerprint(tw.load_model(checkpoints[0]))
    assert "steps 0 to 5" in whole.headline() and "step0 to step5 (6 models)" in repr(whole)
    assert table.induction_score.isna().tolist() == [True, False] * 6
    rest = table.drop(columns="induction_score")
    assert not rest.isna().any().any()
    assert len(whole.summary()) == 6 and whole.summary().isna().sum().sum() == 0


def test_the_columns_are_those_of_the_analyses(checkpoints: list[str]):
    model = tw.load_model(checkpoints[5])
    weights, prompts = tw.read_weights(model), tw.reference_prompts(32)
    row = tw.sweep([model]).to_dataframe().iloc[-1]
    for circuit in ("QK", "OV"):
        S = tw.head_spectrum(weights, layer=1, circuit=circuit, n=1).singular_values.double()
        p = S / S.sum(1, keepdim=True)
        rank = (-(p * p.log()).sum(1)).exp()
        name = circuit.lower()
        assert np.isclose(row[f"{name}_effective_rank"], rank.mean(), rtol=1e-5)
        assert np.isclose(row[f"{name}_leading_share"], p[:, 0].mean(), rtol=1e-5)
        assert row[f"{name}_strongest_head"] == int(p[:, 0].argmax())
    points = tw.layer_vocabulary(model, source="embedding")
    measured = tw.faithfulness(model, prompts, vocabulary=points).by_layer().iloc[-2:]
    assert row.qk_correlation == measured.correlation.iloc[0]
    assert row.ov_floor == measured.floor.iloc[1]
    kinds = tw.head_kinds(weights).to_dataframe().query("layer == 1 and kind == 'copying'")
    assert row.copying_score == kinds.from_weights.max()
    assert row.copying_heads == kinds.claimed.sum()
    paths = tw.trajectory_statistics(model, prompts, controls=[]).to_dataframe()
    paths = paths.query("layer == 1").set_index("measure")["mean"]
    assert np.isclose(row.step_angle, paths["step_angle"], rtol=1e-5)
    assert np.isclose(row.state_norm, paths["norm"], rtol=1e-5)
    states = tw.read_states(model, prompts[0]).stream
    alone = tw.sweep([model], measures=["travel"], prompts=prompts[:1]).to_dataframe()
    length = (states[2] - states[1])[1:].norm(dim=-1).mean()
    assert np.isclose(alone.step_length[1], length, rtol=1e-5)


def test_a_resumed_sweep_is_bitwise_an_uninterrupted_one(
    tmp_path: Path, whole: Sweep, checkpoints: list[str]
):
    """Killed within the third model: every measure of a model is saved when it is there."""
    killed_after = 10
    module, calls = sys.modules[MODULE], []
    works = dict(module.MEASURES)

    def counted(name: str, last: float) -> Any:
        def work(inputs: Any) -> Any:
            calls.append(name)
            if len(calls) > last:
                raise KeyboardInterrupt
            return works[name](inputs)

        return work

    def patched(patch: pytest.MonkeyPatch, last: float) -> None:
        patch.setattr(module, "MEASURES", {name: counted(name, last) for name in works})
        saving = sys.modules["tw_lens.studies.checkpoint"]
        patch.setattr(saving, "SECONDS_BETWEEN_SAVES", -1.0)

    folder = tmp_path / "kept"
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, killed_after)
        with pytest.raises(KeyboardInterrupt):
            tw.sweep(checkpoints, prompts=PROMPTS, checkpoint=folder)
    assert len(list(folder.iterdir())) == -(-killed_after // 4)
    calls.clear()
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, np.inf)
        same(tw.sweep(checkpoints, prompts=PROMPTS, checkpoint=folder), whole)
        assert len(calls) == 24 - killed_after
        calls.clear()
        read = tw.sweep(checkpoints[:2], prompts=PROMPTS, checkpoint=folder)
        assert not calls and read.models == whole.models[:2]  # finished models are read
        assert read.values.numpy().tobytes() == whole.values[:4].numpy().tobytes()


def test_workers_measure_the_same(tmp_path: Path, whole: Sweep, checkpoints: list[str]):
    sentences: list[str] = []
    folder = tmp_path / "kept"
    parallel = tw.sweep(
        checkpoints, prompts=PROMPTS, n_jobs=2, checkpoint=folder, progress=sentences.append
    )
    same(parallel, whole)
    assert sentences[-1] == f"Measured {checkpoints[5]} (6 of 6)" and len(sentences) == 6
    assert len(list(folder.iterdir())) == 6
    made = {f"step{i}": (lambda p=p: tw.load_model(p)) for i, p in enumerate(checkpoints[:3])}
    with joblib.parallel_config("threading", n_jobs=2):  # as a backend of Ray or Dask is named
        threads = tw.sweep(made, measures=["spectra"])
    assert [model.name for model in threads.models] == list(made)
    assert torch.equal(threads.values, whole.values[:6, : len(COLUMNS["spectra"])])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_equal_weights_are_refused_by_name(run: Path, checkpoints: list[str], n_jobs: int):
    import shutil

    copy = run / "step9"
    shutil.copytree(checkpoints[1], copy, dirs_exist_ok=True)
    given = [*checkpoints[:3], str(copy)]
    with pytest.raises(ValueError, match=r"step1' and '.*step9' have the same weights, byte for"):
        tw.sweep(given, measures=["spectra"], n_jobs=n_jobs)
    model = golden_bridge()
    with pytest.raises(ValueError, match=r"^'a' and 'b' have the same weights"):
        tw.sweep({"a": model, "b": model}, measures=["spectra"])
    with pytest.raises(ValueError, match="twice; give every model once"):
        tw.sweep([checkpoints[0], Path(checkpoints[0])])


def test_one_model_is_in_memory_at_a_time(checkpoints: list[str]):
    alive: list[Any] = []

    def load(path: str) -> Any:
        gc.collect()
        assert not any(reference() is not None for reference in alive)
        model = tw.load_model(path)
        alive.append(weakref.ref(model))
        return model

    loads = [lambda path=path: load(path) for path in checkpoints[:3]]
    result = tw.sweep(loads, measures=["kinds", "travel"])
    assert [model.step for model in result.models] == [0, 1, 2] and len(alive) == 3


@pytest.mark.parametrize("measures", [[name] for name in SWEEP_MEASURES] + [[*SWEEP_MEASURES]])
def test_the_figure_has_a_trace_per_measure(whole: Sweep, measures: list[str]):
    columns = [column for name in measures for column in COLUMNS[name]]
    part = Sweep(
        whole.models, tuple(measures),
        whole.values[:, [whole.columns.index(column) for column in columns]],
    )  # fmt: skip
    traces = list(part.plot().data)
    drawn = [c.name for c in columns if c.over_layers in ("mean", "max")]
    assert sorted(trace.name for trace in traces) == sorted(drawn)
    assert all(list(trace.x) == [*STEPS] and len(trace.y) == 6 for trace in traces)
    expected = part.summary()
    for trace in traces:
        assert np.allclose(trace.y, expected[trace.name], rtol=1e-3)


def test_figures_without_steps_and_of_two_runs(whole: Sweep):
    names = [f"{'a' if i < 3 else 'b'}/step{i % 3}" for i in range(6)]
    two = Sweep(
        tuple(m._replace(name=n) for m, n in zip(whole.models, names, strict=True)),
        whole.measures, whole.values,
    )  # fmt: skip
    angles = [trace for trace in two.plot().data if trace.meta == "step_angle"]
    assert [list(trace.x) for trace in angles] == [[0, 1, 2]] * 2
    assert [trace.name for trace in angles] == ["a", "b"]
    hostile = tuple(m._replace(name=f"<b>{i}") for i, m in enumerate(whole.models))
    fig = Sweep(hostile, whole.measures, whole.values).plot()
    assert list(fig.data[0].x) == [f"&lt;b&gt;{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("name", "step", "rest"),
    [
        ("runs/step1000", 1000, "runs"),
        ("runs/checkpoint-1000", 1000, "runs"),
        ("a/global_step_12/", 12, "a/global_"),
        ("EleutherAI/pythia-70m-step3000", 3000, "EleutherAI/pythia-70m-"),
        ("olmo/step1000-tokens4B", 1000, "olmo/-tokens4B"),
        ("gpt2", None, "gpt2"),
        ("step10/last", None, "step10/last"),
        ("step10k", None, "step10k"),
        ("step1.5", None, "step1.5"),
        ("timestep5", None, "timestep5"),
        ("STEP7", 7, "."),
    ],
)
def test_steps_are_read_from_names(name: str, step: int | None, rest: str):
    assert step_of(name) == step and run_of(name) == rest


def test_the_command_writes_the_table(tmp_path: Path, checkpoints: list[str]):
    table, kept = tmp_path / "table.csv", tmp_path / "kept"
    command = ["sweep", *checkpoints[:2], "--measures", "spectra, kinds"]
    done = CliRunner().invoke(app, [*command, "--output", str(table), "--checkpoint", str(kept)])
    assert done.exit_code == 0, done.output
    expected = tw.sweep(checkpoints[:2], measures=WEIGHTS_ONLY).to_dataframe()
    written = pd.read_csv(table)
    assert len(written) == 4 and list(written.columns) == [*expected.columns, "cite"]
    assert np.allclose(written.qk_effective_rank, expected.qk_effective_rank)
    assert len(list(kept.iterdir())) == 2
    done = CliRunner().invoke(app, [*command[:3], "--measures", "spectra"])
    assert done.exit_code == 0 and "step0 to step1 (2 models)" in done.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--measures", "spectrum"], "unknown measure 'spectrum'"),
        (["--output", "table.xls"], "unknown format '.xls'"),
        (["--output", "no/such/table.csv"], "does not exist"),
        (["--n-jobs", "0"], "n_jobs must be a number of workers"),
        (["--measures", "spectra", "--checkpoint", "no/such/folder"], "does not exist"),
    ],
)
def test_the_command_refuses_before_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", "./nowhere", *arguments])
    assert done.exit_code == 2 and sentence in done.output.replace("\n", " ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"models": []}, "models is empty"),
        ({"models": {}}, "models is empty"),
        ({"measures": []}, "measures is empty"),
        ({"measures": ["spectra"], "prompts": IDS}, "prompts= needs a measure"),
        ({"n_jobs": 2}, "needs models that a worker can load.*got a loaded TransformerBridge"),
        ({"n_jobs": 0}, "n_jobs must be a number of workers"),
        ({"n_jobs": -2}, "n_jobs must be at least -1"),
        ({"prompts": [[5]]}, "no prompt has a position"),
        ({}, "'tiny-gpt2' has tokens for 0 of 10 common English words"),
    ],
)
def test_wrong_input_is_one_sentence(options: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        tw.sweep(**{"models": [shared_bridge("gpt2")], **options})
    assert issubclass(ReferenceTextError, ValueError)


@pytest.mark.parametrize("models", ["gpt2", [3], [None], [torch.nn.Linear(2, 2)]])
def test_other_kinds_are_refused(models: Any):
    with pytest.raises(TypeError, match=r"models? must be"):
        tw.sweep(models, measures=["spectra"])


def test_a_folder_of_other_settings_is_refused(tmp_path: Path):
    model, folder = shared_bridge("gpt2"), tmp_path / "kept"
    options = {"measures": ["spectra", "travel"], "prompts": IDS, "checkpoint": folder}
    first = tw.sweep([model], **options)
    same(tw.sweep([model], **options), first)
    for other, name in (
        ({"seed": 1}, "seed"), ({"measures": ["travel"]}, "measures"),
        ({"prompts": IDS[:1]}, "prompts"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"other settings \({name}\)"):
            tw.sweep([model], **{**options, **other})
    more = tw.sweep([golden_bridge(), model], **options)  # models may be added and reordered
    assert more.models[1] == first.models[0] and len(list(folder.iterdir())) == 2
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(NotADirectoryError, match="is a file; a sweep keeps one file per model"):
        tw.sweep([model], **{**options, "checkpoint": file})


def test_layers_without_attention_are_empty():
    from tests.zoo import zoo_bridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo_bridge("JambaForCausalLM")
    table = tw.sweep([model], measures=["spectra"]).to_dataframe()
    weights = tw.read_weights(model)
    known = [layer in weights.attention_layers for layer in range(weights.n_layers)]
    assert table.qk_effective_rank.notna().tolist() == known and not all(known)
    assert table.qk_strongest_head.notna().tolist() == known


def test_refusals_travel_between_processes():
    error = UnsupportedModelError("A", "part", "remedy")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) and again.part == "part"


def test_fields_are_frozen_values(whole: Sweep):
    assert [field.name for field in fields(whole)] == ["models", "measures", "values", "caveats"]
