"""The parts of a trial's spec that say which policy is trained on which demonstrations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dft_sweeps.spec.spec_model import PathName, SpecModel

TemplateName = Literal["auto", "chat", "qwen_boxed", "llama_base_boxed", "deepseek_math"]


class ModelSpec(SpecModel):
    path: PathName = "embedded"
    """`embedded` (the base policy shipped with the package), a local directory, or a Hugging Face model id."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. It only says what to fetch: ids hash the content that is fetched."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of training. Where a spec does not say, the preset does."""
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    """`float32`: master weights, gradients and AdamW moments in float32. `bfloat16`: all of them in bfloat16, as in the
    published run, where an update smaller than half a step of bfloat16 is lost to rounding."""

    @model_validator(mode="after")
    def _computes_as_it_stores(self) -> ModelSpec:
        if self.parameter_dtype == "bfloat16" and self.dtype != "bfloat16":
            raise ValueError(f"parameter_dtype bfloat16 needs dtype bfloat16, found dtype {self.dtype}")
        return self


class ArithmeticSource(SpecModel):
    """Worked additions and subtractions made by the package's own seeded generator."""

    kind: Literal["arithmetic"]
    samples: int = Field(ge=1, le=10_000_000)
    """How many demonstrations to generate."""
    levels: tuple[Annotated[int, Field(ge=1, le=3)], ...] = Field(default=(1, 2, 3), min_length=1)
    """Difficulty levels to draw from, evenly."""
    wrong_steps: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of demonstrations that contain a wrong step. Wrong steps favour DFT over SFT."""
    seed: int = Field(default=0, ge=0)


class FileSource(SpecModel):
    """A JSON-lines (`.jsonl`, `.json`) or Parquet file with one row per demonstration."""

    kind: Literal["file"]
    path: PathName
    """Relative paths start at the directory of the spec file."""
    prompt: str = "prompt"
    """Name of the field with the question."""
    completion: str = "completion"
    """Name of the field with the worked solution."""


class HubSource(SpecModel):
    """A Hugging Face dataset."""

    kind: Literal["hub"]
    id: str = Field(min_length=1)
    name: str | None = None
    """Configuration of the dataset, where it has several."""
    revision: str | None = None
    split: str = "train"
    prompt: str = "prompt"
    completion: str = "completion"


class NuminaMathSource(SpecModel):
    """NuminaMath-CoT, the paper's training data: `problem` and `solution` of AI-MO/NuminaMath-CoT, split `train`."""

    kind: Literal["numinamath_cot"]
    path: PathName | None = None
    """Local JSON-lines or Parquet file with the same fields, instead of the hub's; relative to the spec file."""
    revision: str | None = None
    """Branch, tag or commit of the hub's dataset."""

    @model_validator(mode="after")
    def _from_one_place(self) -> NuminaMathSource:
        if self.path is not None and self.revision is not None:
            raise ValueError("a file has no revisions: give `path` or `revision`")
        return self


Source = Annotated[ArithmeticSource | FileSource | HubSource | NuminaMathSource, Field(discriminator="kind")]


class DataSpec(SpecModel):
    source: Source
    samples: int | None = Field(default=None, ge=1)
    """Use this many rows; all rows by default."""
    selection: Literal["random", "first"] = "random"
    """Which of the rows `samples` takes: drawn at random by `seed`, or the first in the order of the source, as the
    published code does (its text says random)."""
    seed: int = Field(default=0, ge=0)
    instruction: str | None = None
    """Text appended to every prompt. By default the source's own: NuminaMath-CoT is asked to reason step by step and
    to put the answer in \\boxed{}, as the evaluation asks; the others have none. The published run had none either
    (`""`), so it was trained on other prompts than it was evaluated with."""
    template: TemplateName | None = None
    """How training prompts are written, as `evaluation.template` says it for questions; by default the same."""
    max_length: int = Field(default=2048, ge=2)
    """Longest prompt plus completion, in tokens."""
    overflow: Literal["drop", "truncate", "error"] = "drop"
    """What to do with longer samples: leave them out; cut them off on the right, the end of sequence too, as published;
    or refuse the spec. Those left out or cut off are counted and reported. A sample whose prompt alone fills
    `max_length` has no target left and is always left out."""
