"""Statistics over many prompts, against the trajectory of each; resumed, padded, rejected."""

import math
import sys

import pytest
import torch

import tw_lens as tw
from tests.models import golden_bridge, shared_bridge
from tw_lens.analyses.trajectory_measures import TRAJECTORY_MEASURES
from tw_lens.geometry import random_steps, shuffled_steps
from tw_lens.studies import CheckpointError
from tw_lens.studies.batching import batches

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15, 16, 17], [3, 2, 1, 0], [20, 21]]


@pytest.fixture
def saved_always(monkeypatch):
    monkeypatch.setattr(sys.modules["tw_lens.studies.checkpoint"], "SECONDS_BETWEEN_SAVES", -1.0)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "gemma"])
@pytest.mark.parametrize("first_position", [0, 1])
def test_means_are_those_of_every_prompts_own_trajectory(architecture: str, first_position: int):
    model = shared_bridge(architecture)
    result = tw.trajectory_statistics(
        model, PROMPTS, controls=[], first_position=first_position, batch_size=2
    )
    weights = tw.read_weights(model)
    paths = [tw.trajectory(weights, tw.read_states(model, prompt)) for prompt in PROMPTS]
    for m, measure in enumerate(TRAJECTORY_MEASURES):
        values = [path.values[measure][:, first_position:].double() for path in paths]
        together = torch.cat(values, dim=1)
        assert torch.allclose(
            result.mean.value[0, m], together.nanmean(1), atol=1e-4, rtol=1e-4, equal_nan=True
        ), measure
        count = (~together.isnan()).sum(1)
        assert result.count[0, m].tolist() == count.tolist()
    assert result.n_states == sum(len(p) - first_position for p in PROMPTS)


def test_an_encoder_is_measured_as_each_of_its_prompts():
    """With bidirectional attention, padding would change a prompt."""
    from tests.zoo import zoo_bridge

    model = zoo_bridge("BertForMaskedLM")
    result = tw.trajectory_statistics(model, PROMPTS, controls=[], batch_size=8)
    weights = tw.read_weights(model)
    norms = [tw.read_states(model, p).stream.norm(dim=-1)[:, 1:] for p in PROMPTS]
    assert weights.n_layers + 1 == len(result.labels)
    assert torch.allclose(
        result.mean.value[0, 0].float(), torch.cat(norms, dim=1).mean(1), rtol=1e-5
    )


def test_padding_on_either_side_is_removed():
    model = golden_bridge()
    plain = tw.trajectory_statistics(model, PROMPTS, controls=["random steps"])
    longest = max(map(len, PROMPTS))
    for left in (True, False):
        ids = torch.full((len(PROMPTS), longest), 7)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(PROMPTS):
            at = slice(longest - len(prompt), None) if left else slice(len(prompt))
            ids[row, at], mask[row, at] = torch.tensor(prompt), 1
        padded = [
            {"input_ids": ids[:4], "attention_mask": mask[:4]},
            {"input_ids": ids[4:].tolist(), "attention_mask": mask[4:].tolist()},
        ]
        result = tw.trajectory_statistics(model, padded, controls=["random steps"])
        for one, other in zip(plain.mean, result.mean, strict=True):
            assert torch.equal(one.nan_to_num(), other.nan_to_num())


def test_the_batch_size_and_the_tokenizers_side_change_nothing():
    model = golden_bridge()
    one = tw.trajectory_statistics(model, PROMPTS, controls=[], batch_size=1)
    model.tokenizer.padding_side, before = "left", model.tokenizer.padding_side
    try:
        many = tw.trajectory_statistics(model, PROMPTS, controls=[], batch_size=16)
    finally:
        model.tokenizer.padding_side = before
    for a, b in zip(one.mean, many.mean, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_resumed_study_is_bitwise_an_uninterrupted_one(tmp_path, saved_always, killed_after: int):
    model, path = golden_bridge(), tmp_path / "study.safetensors"
    whole = tw.trajectory_statistics(model, PROMPTS, batch_size=2)
    runner = sys.modules["tw_lens.studies.runner"]
    run, runs = runner.read_residuals, []

    def killed(*arguments):
        runs.append(1)
        if len(runs) > 2 * killed_after:  # the model and its permuted weights
            raise KeyboardInterrupt
        return run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "read_residuals", killed)
        with pytest.raises(KeyboardInterrupt):
            tw.trajectory_statistics(model, iter(PROMPTS), batch_size=2, checkpoint=path)
    assert path.is_file()
    resumed = tw.trajectory_statistics(model, iter(PROMPTS), batch_size=2, checkpoint=path)
    assert_same(whole, resumed)
    with pytest.MonkeyPatch.context() as patch:  # a finished study is read, and nothing runs
        patch.setattr(runner, "read_residuals", None)
        assert_same(whole, tw.trajectory_statistics(model, PROMPTS, batch_size=2, checkpoint=path))


def assert_same(one, other) -> None:
    for name in ("mean", "difference"):
        for a, b in zip(getattr(one, name), getattr(other, name), strict=True):
            assert torch.equal(a.nan_to_num(nan=-1.0), b.nan_to_num(nan=-1.0))
    assert torch.equal(one.std.nan_to_num(), other.std.nan_to_num())
    assert (one.n_prompts, one.n_states) == (other.n_prompts, other.n_states)


def test_a_checkpoint_of_something_else_is_rejected(tmp_path):
    model, path = golden_bridge(), tmp_path / "study.safetensors"

    def study(prompts=PROMPTS, model=model, **options):
        return tw.trajectory_statistics(model, prompts, controls=[], checkpoint=path, **options)

    study()
    with pytest.raises(CheckpointError, match="other prompts"):
        study([*PROMPTS[:-1], [20, 22]])
    with pytest.raises(CheckpointError, match="other prompts"):
        study(PROMPTS[:3])
    with pytest.raises(CheckpointError, match=r"other settings \(seed\)"):
        study(seed=1)
    with pytest.raises(CheckpointError, match=r"other settings \(model\)"):
        study(model=shared_bridge("gpt2"))
    with pytest.raises(CheckpointError, match=r"other settings \(columns\)"):
        tw.trajectory_alignment(model, PROMPTS, controls=[], checkpoint=path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="complete study"):
        study()
    states = tmp_path / "states.safetensors"
    tw.save_states(tw.read_states(model, "w5 w6"), states)
    with pytest.raises(CheckpointError, match="holds no study"):
        tw.trajectory_statistics(model, PROMPTS, checkpoint=states)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tw.trajectory_statistics(model, PROMPTS, checkpoint=tmp_path / "no" / "study")


def test_truncated_and_empty_prompts_are_counted_and_named():
    result = tw.trajectory_statistics(
        golden_bridge(), [[5, 6], "", "  ", [7], list(range(100)), []], controls=[]
    )
    assert (result.n_prompts, result.n_cut, result.n_skipped) == (2, 1, 4)
    assert result.n_states == 1 + 63
    names = {caveat.name for caveat in result.caveats}
    assert names == {"positions", "cut", "left out", "few prompts", "intervals"}


@pytest.mark.parametrize(
    ("prompts", "options", "error", "words"),
    [
        ("one text", {}, TypeError, "one text"),
        ({"input_ids": [[5, 6]], "attention_mask": [[1, 1]]}, {}, TypeError, "one batch"),
        (["w5 w6"], {"controls": ["nonsense"]}, ValueError, "unknown control 'nonsense'"),
        (["w5 w6"], {"batch_size": 0}, ValueError, "batch_size( must be at least 1, got 0|=0)"),
        (["w5 w6"], {"first_position": -1}, ValueError, "first_position must be at least 0"),
        (["", [5]], {}, ValueError, "no prompt has a position"),
        ([], {}, ValueError, "no prompt has a position"),
        ([[5, 1000]], {}, IndexError, "outside 0 to 996"),
        ([{"input_ids": [[5, 6]]}], {}, ValueError, "attention_mask are needed"),
        (
            [{"input_ids": [[5, 6]], "attention_mask": [[1]]}], {}, ValueError,
            "one number per token",
        ),
        ([torch.tensor([[5, 6], [7, 8]])], {}, ValueError, "one prompt at a time"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", [tw.trajectory_statistics, tw.trajectory_alignment])
def test_bad_input_gets_one_sentence(call, prompts, options, error, words):
    with pytest.raises(error, match=words):
        call(golden_bridge(), prompts, **{"controls": [], **options})


def test_path_nulls_preserve_their_invariants():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, 16, generator=generator, dtype=torch.float64).cumsum(0)
    steps = x.diff(dim=0)
    shuffled, wandering = shuffled_steps(x, generator), random_steps(x, generator)
    assert torch.equal(shuffled[0], x[0]) and torch.allclose(shuffled[-1], x[-1])
    result = shuffled.diff(dim=0)
    gaps = (result[:, None] - steps[None]).abs().amax((2, 3))
    order = gaps.argmin(1)
    assert sorted(order.tolist()) == list(range(6)) and float(gaps.amin(1).max()) < 1e-12
    assert order.tolist() != list(range(6))
    assert torch.equal(wandering[0], x[0])
    lengths = wandering.diff(dim=0).norm(dim=-1)
    assert torch.allclose(lengths, steps.norm(dim=-1))
    assert float((wandering.diff(dim=0) - steps).norm()) > 1


def test_difference_is_the_model_minus_its_control():
    result = tw.trajectory_statistics(golden_bridge(), PROMPTS)
    expected = result.mean.value[:1] - result.mean.value[1:]
    assert torch.allclose(result.difference.value, expected, equal_nan=True, atol=1e-5)
    table = result.to_dataframe()
    row = table.query(
        "measure == 'step_angle' and layer == 1 and source == 'permuted weights'"
    ).iloc[0]
    m = TRAJECTORY_MEASURES.index("step_angle")
    assert row.difference == pytest.approx(float(result.difference.value[2, m, 1]))
    assert row.vs_control == ("above" if row.difference_low > 0 else
                                "below" if row.difference_high < 0 else "level")  # fmt: skip
    # shuffled layers keep the ends: no rounding may pass for a finding
    ends = table.query(
        "measure == 'chord' and label == 'final_post' and source == 'shuffled layers'"
    )
    assert ends.vs_control.tolist() == ["level"]
    assert math.isnan(table.query("source == 'model'").iloc[0].difference)


def test_batches_hold_one_length_and_every_prompt_once():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (700,), generator=generator).tolist()
    rows = [(number, torch.full((n,), number)) for number, n in enumerate(lengths)]
    made = list(batches(iter(rows), 5))
    assert all(len(batch.numbers) <= 5 for batch in made)
    assert all(batch.tokens.shape[0] == len(batch.numbers) for batch in made)
    assert sorted(n for batch in made for n in batch.numbers) == list(range(700))
    assert all(int(batch.tokens[i, 0]) == n for batch in made for i, n in enumerate(batch.numbers))
    long = list(batches([(n, torch.zeros(3000).long()) for n in (0, 1)], 16))
    assert [batch.numbers for batch in long] == [(0,), (1,)]
