"""What to know of a sweep's prompts and completions before it runs, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dft_sweeps.orchestration.prepare import PreparedSweep
    from dft_sweeps.spec.plan import TrialFacts


def prompts_in_words(prepared: PreparedSweep) -> str:
    """Whether policies are evaluated with the prompts they are trained on, in one line for the sweep."""
    facts = [trial.facts for trial in prepared.trials]
    asked = _template(prepared.prompts.template)
    words = [_suffixes_differ(facts), _templates_differ(facts, asked)]
    if not any(words):
        return f"Training and evaluation prompts agree (written by {asked})."
    differ = [known for known in facts if known.prompted_otherwise or known.templated_otherwise]
    some = f" in {len(differ)} of {len(facts)} trials" if len(differ) < len(facts) else ""
    return " ".join([f"Training and evaluation prompts differ{some}.", *filter(None, words)])


def sampling_in_words(prepared: PreparedSweep) -> list[str]:
    """What of the evaluation is not said by the numbers of samples: adaptive sampling, and completions cut off."""
    lines = []
    for name, sampling in prepared.samplings_at(prepared.trials[0], 0).items():
        if sampling.adaptive is not None:
            lines.append(
                f"Adaptive sampling ({name}): {sampling.samples} completions a question at most, and fewer once a "
                f"benchmark's accuracy is known to +-{sampling.adaptive.half_width:g} points."
            )
    return lines + _cut_off(prepared)


def _cut_off(prepared: PreparedSweep) -> list[str]:
    from dft_sweeps.evaluation.evaluate import requests

    lines = []
    for name, sampling in prepared.samplings_at(prepared.trials[0], 0).items():
        for benchmark in prepared.benchmarks.values():
            asked = requests(benchmark, sampling, prepared.prompts)
            fewest = min(request.max_new_tokens for request in asked)
            count = sum(request.max_new_tokens < sampling.max_new_tokens for request in asked)
            if count:
                lines.append(
                    f"{benchmark.name} ({name}): {count} of {len(asked)} questions have room for fewer than "
                    f"{sampling.max_new_tokens:,} new tokens (the fewest: {fewest:,}) in a context of "
                    f"{sampling.context:,}; completions that reach its end count as truncated."
                )
    return lines


def _suffixes_differ(facts: Sequence[TrialFacts]) -> str:
    from dft_sweeps.evaluation.benchmarks import prompt_suffix

    others = [known for known in facts if known.prompted_otherwise]
    if not others:
        return ""
    theirs: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for known in others for name in known.prompted_otherwise):
        theirs.setdefault(prompt_suffix(name), []).append(name)
    asked = "; ".join(f"{', '.join(names)} {_appended(suffix)}" for suffix, names in theirs.items())
    trained = " or ".join(_appended(ours) for ours in sorted({known.instruction for known in others}))
    return f"What follows a question: in training {trained}; in {asked}."


def _templates_differ(facts: Sequence[TrialFacts], asked: str) -> str:
    trained = sorted({_template(known.template) for known in facts if known.templated_otherwise})
    return f"Written by: in training {' or '.join(trained)}; in evaluation {asked}." if trained else ""


def _template(name: str) -> str:
    return "the tokenizer's chat template" if name == "chat" else f"the template {name}"


def _appended(text: str) -> str:
    return repr(text) if text else "nothing"
