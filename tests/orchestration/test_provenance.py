"""What is said of a trial whose attempts ran under different conditions, however often it was taken up."""

from __future__ import annotations

from dft_sweeps.orchestration.provenance import continued

ONE = {"dft.threads": "1", "dft.versions": "torch 2.13"}
TWO = {"dft.threads": "2", "dft.versions": "torch 2.13"}
MIXED = "from step 40: threads 1 -> 2"


def test_a_trial_taken_up_under_the_same_conditions_is_not_mixed() -> None:
    first = continued(ONE, ONE, 20)
    assert first == {**ONE, "dft.resumed_at": "20"}
    assert continued(first, ONE, 40) == {**ONE, "dft.resumed_at": "40"}


def test_what_differs_is_named_with_the_step_from_which_it_does() -> None:
    assert continued(ONE, TWO, 40) == {**TWO, "dft.resumed_at": "40", "dft.mixed_provenance": MIXED}


def test_a_mixed_trial_stays_mixed() -> None:
    mixed = continued(ONE, TWO, 40)
    assert continued(mixed, TWO, 60)["dft.mixed_provenance"] == MIXED
    back = continued(mixed, ONE, 60)
    assert back == {**ONE, "dft.resumed_at": "60", "dft.mixed_provenance": f"{MIXED}; from step 60: threads 2 -> 1"}


def test_a_condition_that_was_not_recorded_before_counts_as_another() -> None:
    assert (
        continued({"dft.threads": "1"}, ONE, 3)["dft.mixed_provenance"] == "from step 3: versions unknown -> torch 2.13"
    )
