"""Checkpoints of the studies of directions: resumed, other settings, other prompts, cut files."""

import sys

import pytest

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens.studies import CheckpointError, DirectionAblation

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17, 5], [6, 7], [5, 6, 9, 8, 7, 6, 5]]
STUDIES = ("ablation", "examples")


@pytest.fixture(autouse=True)
def saved_always(monkeypatch):
    monkeypatch.setattr(sys.modules["tw_lens.studies.checkpoint"], "SECONDS_BETWEEN_SAVES", -1.0)


def run(study: str, prompts=PROMPTS, *, model=None, **options):
    model = golden_bridge() if model is None else model
    options = {"layer": 1, "head": 2} | options
    if study == "ablation":
        options = {"directions": [0, 3, (1, 2)], "n_random": 2} | options
        return tw.direction_ablation(model, prompts, **options)
    return tw.direction_examples(model, prompts, **{"n_examples": 3, "context": 1} | options)


def patch_work(patch, study: str, work) -> None:
    """Replace the function that runs the model (once per prompt: all lengths differ)."""
    patch.setattr(sys.modules[f"tw_lens.studies.direction_{study}"], "read_resid_pre", work)


def work_of(study: str):
    return sys.modules[f"tw_lens.studies.direction_{study}"].read_resid_pre


def bits(result) -> dict:
    """Return every number of a result for a bitwise comparison (NaN equals NaN)."""
    if isinstance(result, DirectionAblation):
        parts = [*result.effect, *result.difference]
        rest = (result.residual_error, result.n_prompts, result.n_positions, result.left_tokens)
    else:
        parts = list(result.random_ranks)
        rest = (repr(result.examples), result.n_prompts, result.n_positions)
    tensors = [part.nan_to_num(nan=-1.0).tolist() for part in parts]
    return {"tensors": tensors, "rest": rest, "caveats": result.caveats, "text": repr(result)}


@pytest.mark.parametrize("circuit", ["QK", "OV"])
@pytest.mark.parametrize("killed_after", [0, 1, 3])
@pytest.mark.parametrize("study", STUDIES)
def test_a_resumed_study_is_bitwise_an_uninterrupted_one(tmp_path, study, killed_after, circuit):
    path, work, calls = tmp_path / "study.safetensors", work_of(study), []
    whole = bits(run(study, circuit=circuit))

    def killed(*arguments):
        calls.append(1)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return work(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch_work(patch, study, killed)
        with pytest.raises(KeyboardInterrupt):
            run(study, iter(PROMPTS), circuit=circuit, checkpoint=path)
    assert path.is_file() == (killed_after > 0)
    remaining: list[int] = []

    def counted(*arguments):
        remaining.append(1)
        return work(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch_work(patch, study, counted)
        assert bits(run(study, iter(PROMPTS), circuit=circuit, checkpoint=path)) == whole
    assert len(remaining) == len(PROMPTS) - killed_after
    with pytest.MonkeyPatch.context() as patch:  # a finished study is read, and nothing runs
        patch_work(patch, study, None)
        assert bits(run(study, circuit=circuit, checkpoint=path)) == whole


@pytest.mark.parametrize(
    ("study", "options", "names"),
    [
        ("ablation", {"layer": 0}, "layer"),
        ("ablation", {"head": 1}, "head"),
        ("ablation", {"circuit": "OV"}, "circuit"),
        ("ablation", {"directions": [0, 3]}, "directions"),
        ("ablation", {"action": "isolate"}, "action"),
        ("ablation", {"n_random": 1}, "n_random"),
        ("ablation", {"seed": 1}, "seed"),
        ("ablation", {"first_position": 0}, "first_position"),
        ("examples", {"layer": 0}, "layer"),
        ("examples", {"head": 1, "circuit": "OV"}, "head, circuit"),
        ("examples", {"direction": 1}, "direction"),
        ("examples", {"n_examples": 2}, "n_examples"),
        ("examples", {"context": 2}, "context"),
        ("examples", {"seed": 1}, "seed"),
        ("examples", {"first_position": 0}, "first_position"),
    ],
)
def test_other_settings_are_rejected(tmp_path, study: str, options: dict, names: str):
    path = tmp_path / "study.safetensors"
    run(study, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"other settings \({names}\)"):
        run(study, checkpoint=path, **options)
    assert path.read_bytes() == before


@pytest.mark.parametrize("study", STUDIES)
def test_other_models_prompts_and_files_are_rejected(tmp_path, study: str):
    path = tmp_path / "study.safetensors"
    run(study, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"other settings \(model\)"):
        run(study, model=shared_bridge("gpt2"), checkpoint=path)
    with pytest.raises(CheckpointError, match="other prompts"):
        run(study, [*PROMPTS[:-1], [5, 6, 9, 8, 7, 6, 6]], checkpoint=path)
    with pytest.raises(CheckpointError, match="other prompts"):
        run(study, PROMPTS[:3], checkpoint=path)
    with pytest.raises(CheckpointError, match="other prompts"):
        run(study, PROMPTS[::-1], checkpoint=path)
    with pytest.raises(CheckpointError, match=rf"another study \(direction_{study}\)"):
        run({"ablation": "examples", "examples": "ablation"}[study], checkpoint=path)
    with pytest.raises(CheckpointError, match=rf"another study \(direction_{study}\)"):
        tw.trajectory_statistics(golden_bridge(), PROMPTS, controls=[], checkpoint=path)
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="complete study"):
            run(study, checkpoint=path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run(study, checkpoint=tmp_path / "no" / "study")


@pytest.mark.parametrize("study", STUDIES)
def test_nothing_is_saved_without_a_prompt(tmp_path, study: str):
    with pytest.raises(ValueError, match="no prompt has a position to measure"):
        run(study, [[5], ""], checkpoint=tmp_path / "study")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("study", STUDIES)
def test_the_filter_of_a_resumed_study_may_change(tmp_path, study: str):
    """It restricts the token lists, which are not part of the checkpoint."""
    path, model = tmp_path / "study.safetensors", golden_bridge()
    subset = tw.token_filter(tw.read_weights(model), whole_words=False, norm_band=(10, 90))
    run(study, checkpoint=path)
    resumed, whole = run(study, checkpoint=path, token_filter=subset), run(study)
    filtered = run(study, token_filter=subset)
    assert bits(resumed) == bits(filtered)
    assert bits(resumed)["tensors"] == bits(whole)["tensors"]


@pytest.mark.parametrize("study", STUDIES)
def test_progress_names_every_prompt(study: str):
    sentences: list[str] = []
    run(study, progress=sentences.append)
    assert sentences[-1] == f"Processing prompts: {len(PROMPTS)} of {len(PROMPTS)}"
