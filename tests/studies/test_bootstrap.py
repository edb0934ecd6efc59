"""Bootstrap sums, against plain float64 and scipy's own bootstrap."""

import numpy as np
import pytest
import torch
from scipy import stats

from tw_lens.studies.bootstrap import BootstrapSums, Estimate, difference, estimate

SEED = 3


def prompts(n: int, generator: np.random.Generator) -> list[torch.Tensor]:
    """Values of 2 cells: prompts differ in length and in level, some values are missing."""
    made = []
    for _ in range(n):
        values = generator.normal(generator.normal(), 1, (2, generator.integers(2, 12)))
        values[0, 0] = np.nan
        made.append(torch.from_numpy(values))
    return made


def sums_of(values: list[torch.Tensor], n_resamples: int = 1000) -> BootstrapSums:
    sums = BootstrapSums.empty(2, n_resamples)
    for number, of_prompt in enumerate(values):
        sums.add(of_prompt, seed=SEED, number=number)
    return sums


def test_mean_and_std_are_those_of_all_values_together():
    values = prompts(40, np.random.default_rng(0))
    sums, together = sums_of(values), torch.cat(values, dim=1)
    assert torch.allclose(sums.means()[0], together.nanmean(1), atol=1e-12)
    expected = np.nanstd(together.numpy(), axis=1)
    assert np.allclose(sums.std().numpy(), expected, atol=1e-12)


def test_the_interval_is_that_of_a_bootstrap_over_prompts():
    """Scipy resamples the prompts themselves; an interval over states would be half as wide."""
    values = prompts(120, np.random.default_rng(1))
    result = estimate(sums_of(values, 4000).means())
    sums = np.array([float(v[1].sum()) for v in values])
    counts = np.array([v.shape[1] for v in values])
    expected = stats.bootstrap(
        (sums, counts), lambda s, c, axis=-1: s.sum(axis) / c.sum(axis), paired=True,
        vectorized=True, method="percentile", n_resamples=4000, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert float(result.low[1]) == pytest.approx(expected.low, abs=0.08 * width)
    assert float(result.high[1]) == pytest.approx(expected.high, abs=0.08 * width)


def test_the_interval_covers_the_truth_nineteen_times_in_twenty():
    generator, covered = np.random.default_rng(4), 0
    for _ in range(200):
        result = estimate(sums_of(prompts(60, generator), 300).means())
        covered += float(result.low[1]) <= 0 <= float(result.high[1])
    assert 0.89 <= covered / 200 <= 0.985


def test_a_difference_from_the_same_prompts_is_sharper_than_two_intervals():
    generator = np.random.default_rng(5)
    values = [torch.cat([v[1:], v[1:] - 0.1]) for v in prompts(60, generator)]
    means = sums_of(values).means()
    result, own = difference(means[:, :1], means[:, 1:]), estimate(means)
    assert result.sign() == ["above"] and float(result.value) == pytest.approx(0.1)
    assert float(own.low[0]) < float(own.high[1])  # side by side the two overlap


def test_rounding_is_level():
    means = torch.tensor([[5.0], [5.0], [5.0]])
    assert difference(means, means - 1e-6).sign() == ["level"]
    assert difference(means, means - 1e-4).sign() == ["above"]


def test_sign_of_an_interval():
    low, high = torch.tensor([1.0, -2.0, -1.0, float("nan")]), torch.tensor([2.0, -1.0, 1.0, 0.0])
    assert Estimate(low, low, high).sign() == ["above", "below", "level", ""]
