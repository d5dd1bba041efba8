"""Comparisons of sides whose numbers of samples differ, simulated from the tables on."""

from __future__ import annotations

import numpy as np
import pytest

from dft_sweeps.evaluation.paired import INTERVAL, SIGN_FLIP
from dft_sweeps.report.comparison import Difference, compare_all
from dft_sweeps.report.sides import Side
from dft_sweeps.spec.errors import SpecError
from dft_sweeps.spec.models import SamplingSpec
from dft_sweeps.tracking.question_results import QuestionResults

RUNS = 150
Array = np.ndarray
FEW_RIGHT, SPREAD = np.full(30, 0.03), np.tile([0.05, 0.2, 0.5, 0.9], 10)


def side(name: str, right: Array, samples: int, adaptive: bool = True) -> Side:
    """One seed's verdicts on one benchmark per row of `right`."""
    sampling = SamplingSpec(samples=16, adaptive={"half_width": 5.0} if adaptive else None)
    tables = tuple(
        QuestionResults("sampled", f"b{index}", f"d{index}", "strict/1", f"e-{name}-{index}", f"g-{name}-{index}", True,
                        samples, tuple(map(str, range(len(row)))), tuple(map(int, row)),
                        settings=sampling.model_dump(mode="json"))
        for index, row in enumerate(right)
    )  # fmt: skip
    return Side(name, 1, {"sampled": (tables,)}, named=True)


def of_seeds(name: str, right: Array, samples: int) -> Side:
    """One row of `right` per training seed."""
    runs = [side(f"{name}{index}", row[None], samples).samplings["sampled"][0] for index, row in enumerate(right)]
    return Side(name, 1, {"sampled": tuple(runs)}, named=True)


def drawn(
    rng: np.random.Generator, of_a: Array, of_b: Array, samples: tuple[int, int], benchmarks: int = 1
) -> list[Difference]:
    a, b = (rng.binomial(k, p, (benchmarks, len(p))) for k, p in zip(samples, (of_a, of_b), strict=True))
    return compare_all([(side("A", a, samples[0]), side("B", b, samples[1]))]).differences


@pytest.mark.parametrize("samples", [(1, 16), (16, 1), (4, 16), (12, 16), (16, 16)])
def test_equal_policies_are_told_apart_in_5_percent_at_most_whatever_their_samples(samples: tuple[int, int]) -> None:
    """Signs flipped at 1 against 16 samples told them apart in 20% and more. Four standard errors are 7.1 points."""
    rng = np.random.default_rng(3)
    found = [drawn(rng, FEW_RIGHT, FEW_RIGHT, samples)[0] for _ in range(RUNS)]
    assert {each.p_test for each in found} == {SIGN_FLIP if samples[0] == samples[1] else INTERVAL}
    assert np.mean([each.p_value <= 0.05 for each in found]) <= 0.05 + 0.071


@pytest.mark.parametrize("samples", [(1, 16), (4, 16)])
def test_policies_that_differ_are_told_apart_about_as_often_as_by_equal_samples(samples: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    better = np.minimum(SPREAD + 0.25, 1.0)
    unequal, fewest = (
        np.mean([drawn(rng, better, SPREAD, each)[0].p_value <= 0.05 for _ in range(RUNS // 2)])
        for each in (samples, (samples[0], samples[0]))
    )
    assert unequal >= fewest - 0.15
    assert unequal >= 0.6


def test_the_family_is_corrected_by_holm_and_an_average_with_one_such_benchmark_is_such_a_comparison() -> None:
    rng = np.random.default_rng(5)
    right = rng.binomial(4, 0.5, (2, 30))
    a, b = side("A", right, 4), side("B", 4 * right, 16)
    mixed = Side("B", 1, {"sampled": ((b.samplings["sampled"][0][0], a.samplings["sampled"][0][1]),)}, named=True)
    found = compare_all([(a, mixed)]).differences
    assert [each.p_test for each in found] == [INTERVAL, SIGN_FLIP, INTERVAL]
    with pytest.raises(
        SpecError, match=r"--correction: max-t flips the signs of questions, which .* numbers of sample"
    ):
        compare_all([(a, mixed)], correction="max-t")
    false = 0
    for _ in range(RUNS // 2):
        family = drawn(rng, FEW_RIGHT, FEW_RIGHT, (1, 16), benchmarks=3)
        false += min(each.p_corrected for each in family) <= 0.05
        assert len(family) == 4 and all(each.p_corrected >= each.p_value for each in family)
    assert false / (RUNS // 2) <= 0.05 + 0.1


def test_the_interval_and_its_p_value_agree() -> None:
    rng = np.random.default_rng(6)
    seen = set()
    for _ in range(60):
        a, b = (rng.binomial(k, p, (1, 40)) for k, p in ((2, np.minimum(SPREAD + 0.15, 1)), (16, SPREAD)))
        [found] = compare_all([(side("A", a, 2, False), side("B", b, 16, False))]).differences
        leaves_out = found.ci_low > 0 or found.ci_high < 0
        assert leaves_out == (found.p_value <= 0.05)
        seen.add(leaves_out)
    assert seen == {True, False}


def test_these_seeds_of_unequal_samples() -> None:
    """Three seeds of one sample against three of 16: signs flipped tell equal policies apart in 13%."""
    rng, chances, rejected = np.random.default_rng(7), np.full(30, 0.02), []
    for _ in range(RUNS // 2):
        a, b = (of_seeds(name, rng.binomial(k, chances, (3, 30)), k) for name, k in (("A", 1), ("B", 16)))
        [found] = compare_all([(a, b)]).differences
        assert (found.p_these_seeds_test, found.seeds_a) == (INTERVAL, 3)
        rejected.append(found.p_these_seeds <= 0.05)
    assert np.mean(rejected) <= 0.05 + 0.1
    a, b = (of_seeds(name, rng.binomial(4, chances, (3, 30)), 4) for name in "AB")
    assert compare_all([(a, b)]).differences[0].p_these_seeds_test == SIGN_FLIP
