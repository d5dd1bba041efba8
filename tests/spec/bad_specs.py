"""Mistakes in a spec or an override, and what is said about them, in rows."""

# ruff: noqa: E501
# fmt: off

from __future__ import annotations

from typing import NamedTuple

from tests.spec.example import SPEC, section


class Bad(NamedTuple):
    """A mistake: what of `SPEC` is replaced by what, and the line, path and words of the message."""

    old: str
    new: str
    line: int | None
    path: str
    words: str


RATE, BATCH, STEPS = "learning_rate: 1e-3\n", "batch_size: 32", "steps: 60"
SOURCE = "{kind: arithmetic, samples: 320, wrong_steps: 0.1, seed: 11}"
OBJECTIVE, SETTINGS, RATES = "objective: {kind: sft}", "{data.source.wrong_steps: 0.0}", "[3e-4, 1e-3]"
OBJECTIVES = "  train.objective.kind: [sft, dft]\n"
BENCHMARKS = "    benchmarks:\n      - arithmetic_1\n      - {name: arithmetic_2, limit: 5}\n"
SAMPLING = "{samples: 4, temperature: 1.0, max_new_tokens: 96}"
SAMPLINGS = f"    samplings:\n      sampled: {SAMPLING}\n"
ALIASES = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
TRAIN_FIELDS = "valid are adapter, batch_size, epochs, learning_rate, normalization, objective, optimizer, schedule,"
WHOLE = "should be a whole number"

YAML = {
    "plain text": Bad(SPEC, "just text\n", None, "", "a spec is a mapping with the fields `name` and `trial`; found the"),
    "list at top": Bad(SPEC, "- a\n", None, "", "found the list ['a']"),
    "empty file": Bad(SPEC, "", None, "", "the file is empty"),
    "only comments": Bad(SPEC, "# nothing\n", None, "", "the file is empty"),
    "two documents": Bad(SPEC, "name: a\n---\nname: b\n", 2, "", "but found another document"),
    "tab": Bad("  train:\n", "\ttrain:\n", 9, "", "found character '\\t'"),
    "open brace": Bad("{kind: sft}", "{kind: sft", 11, "", "a flow mapping begun in line 10, expected ',' or '}'"),
    "open quote": Bad("name: study", "name: 'study", 39, "", "a quoted scalar begun in line 1"),
    "key twice": Bad(BATCH, f"{BATCH}\n    batch_size: 16", 13, "trial.train.batch_size", "is given twice"),
    "section twice": Bad("pool:\n", "name: x\npool:\n", 37, "name", "is given twice"),
    "axis twice": Bad(OBJECTIVES, OBJECTIVES * 2, 27, "axes.train.objective.kind", "is given twice"),
    "key that is a list": Bad(OBJECTIVE, "? [a]\n    : b", 10, "trial.train", "a key must be plain text"),
    "unknown alias": Bad("{kind: sft}", "*nope", 10, "", "found undefined alias 'nope'"),
    "anchor in itself": Bad("  train:\n", "  train: &t\n    seed: *t\n", 9, "trial.train.seed", "does an anchor hold itself?"),
    "alias bomb": Bad("name: study\n", f"a: &a [1]\n{ALIASES}name: study\n", None, "", "do aliases multiply each other?"),
    "deep nesting": Bad("name: study", f"name: {'[' * 60}{']' * 60}", 1, "name[0][0]", "nested more than 50 deep"),
    "deeper nesting": Bad("name: study", f"name: {'[' * 3000}{']' * 3000}", 1, "", "nested too deeply"),
    "merge of a number": Bad(OBJECTIVE, f"<<: 3\n    {OBJECTIVE}", 10, "", "expected a mapping or list of mappings for merging"),
    "merged unknown field": Bad(
        OBJECTIVE, f"<<: {{batchsize: 3}}\n    {OBJECTIVE}", 10, "trial.train.batchsize", "did you mean 'batch_size'?"
    ),
    "tag of a set": Bad(BATCH, "batch_size: !!set {a, b}", 12, "trial.train.batch_size", "the tag !!set has no use here"),
    "tag of a number": Bad(BATCH, "batch_size: !!int abc", 12, "trial.train.batch_size", "the tag !!int has no use here"),
    "tag of an object": Bad(BATCH, "batch_size: !!python/object:os.system x", 12, "trial.train.batch_size", "has no use here"),
    "control character": Bad("a test", "a \x01 test", 2, "", "the character U+0001 is not text"),
    "half a surrogate": Bad("a test", '"\\ud800"', 2, "description", "half of a surrogate pair is not text"),
    "number of 5000 digits": Bad(BATCH, f"batch_size: {'1' * 5000}", 12, "trial.train.batch_size", "(5000 digits) is too large"),
    "number of 65 bits": Bad(STEPS, f"{STEPS}\n    seed: {2**64}", 14, "trial.train.seed", "is too large a number"),
}

TYPES = {
    "text for a number": Bad(BATCH, 'batch_size: "32"', 12, "trial.train.batch_size", f"{WHOLE}, found the text '32'"),
    "true for 1": Bad(BATCH, "batch_size: true", 12, "trial.train.batch_size", f"{WHOLE}, found true"),
    "part of a sample": Bad(BATCH, "batch_size: 32.5", 12, "trial.train.batch_size", f"{WHOLE}, found 32.5"),
    "nothing for a number": Bad(BATCH, "batch_size:", 12, "trial.train.batch_size", f"{WHOLE}, found nothing"),
    "list for a number": Bad(BATCH, "batch_size: [32]", 12, "trial.train.batch_size", f"{WHOLE}, found the list [32]"),
    "date for a number": Bad(BATCH, "batch_size: 2020-01-01", 12, "trial.train.batch_size", "the text '2020-01-01'"),
    "word for a rate that axes set": Bad(RATE, "learning_rate: fast\n", 11, "trial.train.learning_rate", "should be a number"),
    "comma in a number": Bad("temperature: 1.0", "temperature: '1,0'", 23, "trial.evaluation.samplings.sampled.temperature", "the text '1,0'"),
    "text for a mapping": Bad("{path: embedded}", "embedded", 5, "trial.model", "should be a mapping, found the text 'embedded'"),
    "list for a mapping": Bad(section("execution"), "execution: [1]\n", 34, "execution", "should be a mapping, found the list [1]"),
    "nothing for a mapping": Bad(section("execution"), "execution:\n", 34, "execution", "should be a mapping, found nothing"),
    "trial is a list": Bad(section("trial"), "trial: [1]\n", 4, "trial", "should be a mapping, found the list [1]"),
    "number for a path": Bad("{path: embedded}", "{path: 7}", 5, "trial.model.path", "should be text, found 7"),
    "number for a name": Bad("name: study", "name: 12", 1, "name", "should be text, found 12"),
    "number for a benchmark": Bad("- arithmetic_1", "- 3", 18, "trial.evaluation.benchmarks[0]", "given by its name, or by a mapping"),
    "name for benchmarks": Bad(BENCHMARKS, "    benchmarks: gsm8k\n", 17, "trial.evaluation.benchmarks", "should be a list"),
    "list for samplings": Bad("sampled: {", "- {", 22, "trial.evaluation.samplings", "should be a mapping"),
    "sampling without its name": Bad(SAMPLINGS, "    samplings: {samples: 4}\n", 22, "trial.evaluation.samplings.samples", "should be a mapping, found 4"),
    "number for a list": Bad("steps: [5]", "steps: 5", 21, "trial.evaluation.steps", "should be a list, found 5"),
    "true for a level": Bad("wrong_steps: 0.1", "levels: [true]", 7, "trial.data.source.levels[0]", f"{WHOLE}, found true"),
}

VALUES = {
    "too many epochs": Bad(STEPS, "epochs: 1.7e308", 13, "trial.train.epochs", "should be at most 10000000"),
    "cache of more than all": Bad("max_model_len: 256", "kv_cache_gib: 1.7e308", 38, "pool.kv_cache_gib", "at most 65536.0"),
    "no samples": Bad(BATCH, "batch_size: 0", 12, "trial.train.batch_size", "should be at least 1, found 0"),
    "too many steps": Bad(STEPS, "steps: 10000000000", 13, "trial.train.steps", "should be at most 10000000"),
    "negative rate that axes set": Bad(RATE, "learning_rate: -1\n", 11, "trial.train.learning_rate", "should be more than 0.0"),
    "share above one": Bad("wrong_steps: 0.1", "wrong_steps: 10", 7, "trial.data.source.wrong_steps", "should be at most 1.0"),
    "beta of one": Bad("{beta1: 0.9}", "{beta1: 1.0}", 14, "trial.train.optimizer.beta1", "should be less than 1.0"),
    "not a number": Bad("temperature: 1.0", "temperature: .nan", 23, "trial.evaluation.samplings.sampled.temperature", "a finite number, found nan"),
    "infinite": Bad("temperature: 1.0", "temperature: 1e999", 23, "trial.evaluation.samplings.sampled.temperature", "a finite number, found inf"),
    "empty path": Bad("{path: embedded}", "{path: ''}", 5, "trial.model.path", "'' names no file or directory"),
    "no level": Bad("wrong_steps: 0.1", "levels: []", 7, "trial.data.source.levels", "should have at least one item"),
    "level four": Bad("wrong_steps: 0.1", "levels: [1, 4]", 7, "trial.data.source.levels[1]", "should be at most 3, found 4"),
    "dtype": Bad("{path: embedded}", "{dtype: float16}", 5, "trial.model.dtype", "should be 'float32' or 'bfloat16', found the text 'float16'"),
    "blank in the name": Bad("name: study", "name: My Study", 1, "name", "'My Study' cannot be a name: at most 64 of a-z, 0-9"),
    "newline in the name": Bad("name: study", 'name: "study\\n"', 1, "name", "'study\\n' cannot be a name"),
    "long name": Bad("name: study", f"name: {'a' * 65}", 1, "name", "at most 64 of"),
    "name of a sampling": Bad("sampled:", "top-1:", 23, "trial.evaluation.samplings.top-1", "'top-1' cannot name a sampling"),
    "no benchmark": Bad(BENCHMARKS, "    benchmarks: []\n", 17, "trial.evaluation.benchmarks", "should have at least one item"),
    "no sampling": Bad(SAMPLINGS, "    samplings: {}\n", 22, "trial.evaluation.samplings", "should have at least one item"),
    "benchmark twice": Bad("name: arithmetic_2", "name: arithmetic_1", 17, "trial.evaluation.benchmarks", "named twice: arithmetic_1"),
    "greedy four times": Bad("temperature: 1.0", "temperature: 0", 23, "trial.evaluation.samplings.sampled", "set `samples: 1`"),
    "steps and epochs": Bad(STEPS, f"{STEPS}\n    epochs: 2", 9, "trial.train", "give one of `steps` and `epochs`; both are set"),
    "neither steps nor epochs": Bad(f"    {STEPS}\n", "", 9, "trial.train", "give one of `steps` and `epochs`; neither is set"),
    "negative step to evaluate": Bad("steps: [5]", "steps: [-5]", 21, "trial.evaluation.steps[0]", "should be at least 0"),
    "limit of no question": Bad("limit: 5", "limit: 0", 19, "trial.evaluation.benchmarks[1].limit", "should be at least 1"),
    "memory of more than all": Bad("max_model_len: 256", "gpu_memory_utilization: 1.5", 38, "pool.gpu_memory_utilization", "at most 1.0"),
}

FIELDS = {
    "budget of nothing": Bad("pool:\n", "budget: {}\npool:\n", 37, "budget", "at least one of gpu_hours, cpu_hours and money"),
    "budget of no hours": Bad("pool:\n", "budget: {gpu_hours: 0}\npool:\n", 37, "budget.gpu_hours", "should be more than 0"),
    "money without a price": Bad("pool:\n", "budget: {money: 5}\npool:\n", None, "", "budget.money needs cost.price_per_gpu_hour"),
    "speed of nothing": Bad("pool:\n", "cost: {train_tokens_per_second: 0}\npool:\n", 37, "cost.train_tokens_per_second", "should be at least 0.001"),
    "speed of next to nothing": Bad("pool:\n", "cost: {train_tokens_per_second: 1e-320}\npool:\n", 37, "cost.train_tokens_per_second", "at least 0.001, found 1e-320"),
    "start beyond all time": Bad("pool:\n", "cost: {start_s: 1.7e308}\npool:\n", 37, "cost.start_s", "should be at most 1000000000000.0"),
    "unknown section": Bad("pool:\n", "polo:\n", 37, "polo", "unknown field 'polo'; did you mean 'pool'?"),
    "unknown section, none near": Bad("pool:\n", "zzz:\n", 37, "zzz", "valid are axes, budget, cost, description, execution,"),
    "unknown part of a trial": Bad("  train:\n", "  trian:\n", 9, "trial.trian", "did you mean 'train'?"),
    "unknown field": Bad("batch_size", "batchsize", 12, "trial.train.batchsize", "did you mean 'batch_size'?"),
    "unknown field, none near": Bad(STEPS, f"{STEPS}\n    frob: 2", 14, "trial.train.frob", TRAIN_FIELDS),
    "number as a field": Bad(STEPS, f"{STEPS}\n    3: 2", 14, "trial.train.3", TRAIN_FIELDS),
    "unknown field of a source": Bad("wrong_steps", "wrong_step", 7, "trial.data.source.wrong_step", "did you mean 'wrong_steps'?"),
    "field of another source": Bad("wrong_steps: 0.1", "path: x.jsonl", 7, "trial.data.source.path", "valid are kind, levels, samples, seed, wrong"),
    "field of no objective": Bad("{kind: sft}", "{kind: sft, beta: 1}", 10, "trial.train.objective.beta", "unknown field 'beta'"),
    "unknown field of the optimizer": Bad("{beta1: 0.9}", "{betas: 0.9}", 14, "trial.train.optimizer.betas", "did you mean 'beta"),
    "unknown field of the schedule": Bad("{kind: cosine}", "{warmup: 0.1}", 15, "trial.train.schedule.warmup", "'warmup_ratio'?"),
    "unknown field of a benchmark": Bad("limit: 5", "limits: 5", 19, "trial.evaluation.benchmarks[1].limits", "did you mean 'limit'?"),
    "unknown field of a sampling": Bad("max_new_tokens", "max_tokens", 23, "trial.evaluation.samplings.sampled.max_tokens", "'max_new_tokens'?"),
    "unknown field of a variant": Bad("    set:", "    sets:", 32, "variants[1].sets", "did you mean 'set'?"),
    "fewer engines than the fewest": Bad("max_model_len: 256", "max_model_len: 256\n  replicas: 3\n  max_replicas: 2", 37, "pool", "max_replicas is 2, fewer than replicas, which is 3"),
    "parts that have no GPU": Bad("max_model_len: 256", "max_model_len: 256\n  gpus_per_engine: 2\n  tensor_parallel: 4", 37, "pool", "tensor_parallel is 4, but engines have 2 GPUs: one each"),
    "parts that have no CPU": Bad("max_model_len: 256", "max_model_len: 256\n  tensor_parallel: 2", 37, "pool", "1 CPUs cannot be shared by 2 processes evenly"),
    "unknown field of the pool": Bad("max_model_len:", "max_len:", 38, "pool.max_len", "did you mean 'max_model_len'?"),
    "unknown kind of source": Bad("kind: arithmetic", "kind: arithmatic", 7, "trial.data.source.kind", "unknown kind 'arithmatic'; did you mean 'arithmetic'?"),
    "unknown kind, none near": Bad("kind: arithmetic", "kind: zzz", 7, "trial.data.source.kind", "unknown kind 'zzz'; valid are arithmetic, file, hub, numinamath_cot"),
    "unknown kind that axes set": Bad("{kind: sft}", "{kind: dtf}", 10, "trial.train.objective.kind", "did you mean 'dft'?"),
    "unknown kind of schedule": Bad("{kind: cosine}", "{kind: linear}", 15, "trial.train.schedule.kind", "should be 'cosine' or 'constant'"),
    "no kind": Bad("kind: arithmetic, ", "", 7, "trial.data.source", "needs a `kind`: arithmetic, file, hub, numinamath_cot"),
    "no name": Bad("name: study\n", "", 1, "name", "this field is required"),
    "no trial": Bad(section("trial"), "", 1, "trial", "this field is required"),
    "no samplings": Bad(SAMPLINGS, "    samplings: {}\n", 22, "trial.evaluation.samplings", "should have at least one item"),
    "more samples between": Bad("samples: 4,", "samples: 4, samples_between: 8,", 23, "trial.evaluation.samplings.sampled", "samples_between is 8, more than samples, which is 4"),
    "adaptive without a width": Bad("samples: 4,", "samples: 4, adaptive: {half_width: 0},", 23, "trial.evaluation.samplings.sampled.adaptive.half_width", "should be more than 0"),
    "adaptive on one sample": Bad("samples: 4,", "samples: 1, adaptive: {half_width: 1},", 23, "trial.evaluation.samplings.sampled", "set `samples` to the most it may"),
    "everything held out": Bad(SAMPLINGS, f"    selection_share: 1.0\n{SAMPLINGS}", 22, "trial.evaluation.selection_share", "should be less than 1"),
    "unknown template": Bad(SAMPLINGS, f"    template: qwen\n{SAMPLINGS}", 22, "trial.evaluation.template", "qwen_boxed"),
    "benchmark without a name": Bad("name: arithmetic_2, ", "", 19, "trial.evaluation.benchmarks[1].name", "this field is required"),
    "two mistakes": Bad(f"{BATCH}\n    {STEPS}", "batch_size: 0\n    stepz: 0", 13, "trial.train.stepz", "did you mean 'steps'? (and 1 more)"),
}

AXES = {
    "unknown axis": Bad("  train.learning_rate", "  train.learnig_rate", 27, "axes.train.learnig_rate", "did you mean 'learning_rate'?"),
    "axis without its parents": Bad("  train.learning_rate", "  learning_rate", 27, "axes.learning_rate", "did you mean 'train.learning_rate'?"),
    "axis from the top": Bad("  train.learning_rate", "  trial.train.learning_rate", 27, "axes.trial.train.learning_rate", "did you mean 'train.learning_rate'?"),
    "axis below a number": Bad("  train.learning_rate", "  train.learning_rate.peak", 27, "axes.train.learning_rate.peak", "`train.learning_rate` is a plain value, so it has no field 'peak'"),
    "axis below a list": Bad("  train.learning_rate", "  data.source.levels.first", 27, "axes.data.source.levels.first", "is a list, which can only be set as a whole"),
    "axis of the pool": Bad("  train.learning_rate", "  pool.replicas", 27, "axes.pool.replicas", "valid are data, evaluation, model, preset, train"),
    "axis of what is measured": Bad(f"  train.learning_rate: {RATES}", "  evaluation.every: [10, 20]", 27, "axes.evaluation.every", "the trials of a sweep are compared on the same measurements"),
    "axis of a benchmark's limit": Bad("  train.learning_rate", "  evaluation.benchmarks.limit", 27, "axes.evaluation.benchmarks.limit", "only `trial.evaluation` says what is measured"),
    "axis of whole evaluations": Bad(f"  train.learning_rate: {RATES}", "  evaluation: [{}]", 27, "axes.evaluation", "compared on the same measurements"),
    "what is measured in a variant": Bad(SETTINGS, "{evaluation.benchmarks: [arithmetic_3]}", 32, "variants[1].set.evaluation.benchmarks", "compared on the same measurements"),
    "axis with two dots": Bad("  train.learning_rate", "  train..seed", 27, "axes.train..seed", "unknown field ''"),
    "axes as mappings": Bad(f"  train.learning_rate: {RATES}", f"  train: {{learning_rate: {RATES}}}", 27, "axes.train", "should be a list"),
    "empty axis": Bad(RATES, "[]", 27, "axes.train.learning_rate", "an axis needs at least one value"),
    "axis of nothing": Bad(f" {RATES}", "", 27, "axes.train.learning_rate", "should be a list, found nothing"),
    "scalar axis": Bad(RATES, "3e-4", 27, "axes.train.learning_rate", "should be a list, found 0.0003"),
    "axes as a list": Bad(section("axes"), "axes: [a]\n", 25, "axes", "should be a mapping"),
    "value twice": Bad(RATES, "[3e-4, 0.0003]", 27, "axes.train.learning_rate[1]", "the value 0.0003 is given twice"),
    "value twice as 1 and 1.0": Bad(RATES, "[1, 1.0]", 25, "axes", "two trials are the same: 'noisy objective=sft learning_rate=1' and"),
    "bad value of an axis": Bad(RATES, "[3e-4, 1e3]", 27, "axes.train.learning_rate[1]", "should be at most 1.0, found 1000.0"),
    "word in an axis": Bad(RATES, "[3e-4, high]", 27, "axes.train.learning_rate[1]", "should be a number, found the text 'high'"),
    "true beside 1": Bad(RATES, "[1, true]", 27, "axes.train.learning_rate[1]", "should be a number, found true"),
    "unknown kind in an axis": Bad("[sft, dft]", "[sft, dtf]", 26, "axes.train.objective.kind[1]", "did you mean 'dft'?"),
    "bad object in an axis": Bad(OBJECTIVES, "  train.objective: [{kind: sft}, {kind: dft, beta: 1}]\n", 26, "axes.train.objective[1].beta", "unknown field 'beta'"),
    "object without a kind": Bad(OBJECTIVES, "  train.objective: [{}, {kind: dft}]\n", 26, "axes.train.objective[0]", "needs a `kind`: asft, dft, eaft, focal, iw_sft, power,"),
    "axis within an axis": Bad(OBJECTIVES, f"  train.objective: [{{kind: sft}}]\n{OBJECTIVES}", 27, "axes.train.objective.kind", "`train.objective` is set too"),
    "too many trials": Bad(OBJECTIVES, f"{OBJECTIVES}  train.seed: {list(range(2000))}\n", 25, "axes", "make 16,000 trials; at most 10,000"),
    "same name of two variants": Bad("name: clean", "name: noisy", 31, "variants[1].name", "2 variants are called 'noisy'"),
    "variant without a name": Bad("- name: clean\n    set:", "- set:", 31, "variants[1].name", "this field is required"),
    "name of a variant": Bad("name: clean", "name: Clean Data", 31, "variants[1].name", "'Clean Data' cannot be a name"),
    "variants by name": Bad(section("variants"), "variants: [noisy]\n", 29, "variants[0]", "should be a mapping, found the text 'noisy'"),
    "unknown path of a variant": Bad(SETTINGS, "{data.source.wrongsteps: 0}", 32, "variants[1].set.data.source.wrongsteps", "did you mean 'wrong_steps'?"),
    "bad value of a variant": Bad(SETTINGS, "{data.source.wrong_steps: 2.0}", 32, "variants[1].set.data.source.wrong_steps", "at most 1.0, found 2.0"),
    "field of another kind in a variant": Bad(SETTINGS, "{data.source.path: x}", 32, "variants[1].set.data.source.path", "unknown field 'path'"),
    "object in a variant": Bad(SETTINGS, "{data.source: {samples: 3}}", 32, "variants[1].set.data.source", "needs a `kind`"),
    "variant within an axis": Bad(SETTINGS, "{train.objective: {kind: sft}}", 26, "axes.train.objective.kind", "`train.objective` is set too"),
    "variant that changes nothing": Bad(SETTINGS, "{}", 31, "variants[1]", "two trials are the same: 'noisy objective=sft learning_rate=3e-4' and 'clean"),
    "epochs in a variant": Bad(SETTINGS, "{train.epochs: 2}", 9, "trial.train", "both are set (in the trial 'clean objective=sft learning_rate=3e-4')"),
}

BIG, SMALL = "batch_size: 256", "batch_size: 48"


def objective(new: str, field: str, words: str) -> Bad:
    """A mistake in an objective that the one axis of the spec gives as a whole."""
    return Bad(OBJECTIVES, f"  train.objective: [{{{new}}}]\n", 26, f"axes.train.objective[0]{field}", words)


RECIPE = {
    "power without alpha": objective("kind: power", ".alpha", "this field is required"),
    "negative power": objective("kind: power, alpha: -0.5", ".alpha", "should be at least 0.0, found -0.5"),
    "power above ten": objective("kind: power, alpha: 11", ".alpha", "should be at most 10.0, found 11"),
    "infinite power": objective("kind: power, alpha: .inf", ".alpha", "should be a finite number"),
    "thresholds the wrong way": objective("kind: dft, min_probability: 0.5, max_probability: 0.1", "", "min_probability should be at most max_probability, found 0.5 and 0.1"),
    "threshold above one": objective("kind: sft, max_probability: 2", ".max_probability", "should be at most 1.0, found 2"),
    "negative gamma": objective("kind: focal, gamma: -1", ".gamma", "should be at least 0.0"),
    "entropy of one token": objective("kind: eaft, top: 1", ".top", "should be at least 2, found 1"),
    "negative power of the entropy": objective("kind: eaft, alpha: -1", ".alpha", "should be at least 0.0"),
    "psft without room": objective("kind: psft, low: 1, high: 1", "", "low should be less than high, found 1 and 1"),
    "psft above its start": objective("kind: psft, low: 1.1", ".low", "should be at most 1.0, found 1.1"),
    "psft below its start": objective("kind: psft, high: 0.9", ".high", "should be at least 1.0, found 0.9"),
    "psft never refreshed": objective("kind: psft, refresh: 0", ".refresh", "should be at least 1, found 0"),
    "negative divergence": objective("kind: asft, beta: -1", ".beta", "should be at least 0.0"),
    "divergence one way": objective("kind: asft, direction: forward", ".direction", "should be 'reference_to_policy' or 'policy_to_reference'"),
    "iw_sft the wrong way": objective("kind: iw_sft, low: 3, high: 2", "", "low should be less than high, found 3 and 2"),
    "iw_sft above a token's default": objective("kind: iw_sft, level: token, low: 2", "", "low should be less than high, found 2 and 1.8"),
    "iw_sft without temperature": objective("kind: iw_sft, temperature: 0", ".temperature", "should be more than 0.0"),
    "iw_sft of nothing": objective("kind: iw_sft, high: null", ".high", "should be a number, found nothing"),
    "level of a sentence": objective("kind: iw_sft, level: sentence", ".level", "should be 'trajectory' or 'token'"),
    "arithmetic mean": objective("kind: sentence_weighted, mean: arithmetic", ".mean", "should be 'none' or 'geometric'"),
    "bfloat16 parameters in float32": Bad("{path: embedded}", "{dtype: float32, parameter_dtype: bfloat16}", 5, "trial.model", "parameter_dtype bfloat16 needs dtype bfloat16, found dtype float32"),
    "bfloat16 parameters on CPUs": Bad("{path: embedded}", "{parameter_dtype: bfloat16}", 5, "trial.model", "found dtype float32 (the preset 'corrected' sets model.dtype to float32)"),
    "selection": Bad("max_length: 160", "selection: last", 8, "trial.data.selection", "should be 'random' or 'first'"),
    "overflow": Bad("max_length: 160", "overflow: wrap", 8, "trial.data.overflow", "should be 'drop', 'truncate' or 'error'"),
    "instruction": Bad("max_length: 160", "instruction: 3", 8, "trial.data.instruction", "should be text, found 3"),
    "file with a revision": Bad(SOURCE, "{kind: numinamath_cot, path: x.jsonl, revision: main}", 7, "trial.data.source", "a file has no revisions"),
    "id of NuminaMath-CoT": Bad(SOURCE, "{kind: numinamath_cot, id: a/b}", 7, "trial.data.source.id", "unknown field 'id'; did you mean 'kind'?"),
    "part of a micro-batch": Bad(BATCH, f"{SMALL}\n    normalization: {{kind: micro_batch_means}}", 9, "trial.train", "batch_size 48 is no multiple of 32, which is normalization.ranks 8 times normalization.micro_batch_samples 4"),
    "part of a sum": Bad(BATCH, f"{BIG}\n    normalization: {{sum_micro_batches: true, ranks: 3}}", 9, "trial.train", "batch_size 256 is no multiple of 12"),
    "normalization": Bad(BATCH, f"{BATCH}\n    normalization: {{kind: sum}}", 13, "trial.train.normalization.kind", "should be 'token_mean' or 'micro_batch_means'"),
    "no rank": Bad(BATCH, f"{BATCH}\n    normalization: {{ranks: 0}}", 13, "trial.train.normalization.ranks", "should be at least 1"),
    "adapter without a kind": Bad(BATCH, f"{BATCH}\n    adapter: {{rank: 8}}", 13, "trial.train.adapter.kind", "this field is required"),
    "adapter of rank 0": Bad(BATCH, f"{BATCH}\n    adapter: {{kind: lora, rank: 0}}", 13, "trial.train.adapter.rank", "should be at least 1"),
    "unknown adapter": Bad(BATCH, f"{BATCH}\n    adapter: {{kind: dora}}", 13, "trial.train.adapter.kind", "should be 'lora', found the text 'dora'"),
    "adapter on nothing": Bad(BATCH, f"{BATCH}\n    adapter: {{kind: lora, target: []}}", 13, "trial.train.adapter.target", "should be 'all-linear' or a list of names, found the list []"),
    "adapter on a word": Bad(BATCH, f"{BATCH}\n    adapter: {{kind: lora, target: q_proj}}", 13, "trial.train.adapter.target", "should be 'all-linear' or a list of names"),
    "one edge": Bad("steps: [5]", "histogram: {edges: [0]}", 21, "trial.evaluation.histogram.edges", "should have at least two edges, found the list [0.0]"),
    "no edge": Bad("steps: [5]", "histogram: {edges: []}", 21, "trial.evaluation.histogram.edges", "should have at least two edges, found the list []"),
    "number of bins": Bad("steps: [5]", "histogram: {edges: 20}", 21, "trial.evaluation.histogram.edges", "should be a list, found 20"),
    "edges from above zero": Bad("steps: [5]", "histogram: {edges: [0.1, 0.5, 1]}", 21, "trial.evaluation.histogram.edges", "should go from 0 to 1, found 0.1 to 1.0"),
    "edges in percent": Bad("steps: [5]", "histogram: {edges: [0, 50, 100]}", 21, "trial.evaluation.histogram.edges", "should go from 0 to 1, found 0.0 to 100.0"),
    "edge twice": Bad("steps: [5]", "histogram: {edges: [0, 0.5, 0.5, 1]}", 21, "trial.evaluation.histogram.edges", "should rise from edge to edge, found 0.5 after 0.5"),
    "edges up and down": Bad("steps: [5]", "histogram: {edges: [0, 1e-3, 1e-4, 1]}", 21, "trial.evaluation.histogram.edges", "found 0.0001 after 0.001"),
    "edge that is no number": Bad("steps: [5]", "histogram: {edges: [0, .nan, 1]}", 21, "trial.evaluation.histogram.edges[1]", "should be a finite number, found nan"),
    "histogram in an axis": Bad("  train.learning_rate", "  evaluation.histogram.edges", 27, "axes.evaluation.histogram.edges", "compared on the same measurements"),
    "attention": Bad("workers: 1", "attention: eager", 35, "execution.attention", "should be 'auto', 'by_sample', 'sdpa', 'flex_attention' or 'flash_attention_2'"),
    "flash attention on CPUs": Bad("workers: 1", "attention: flash_attention_2", 34, "execution", "flash_attention_2 needs gpus_per_worker of at least 1"),
    "flex attention on CPUs": Bad("workers: 1", "attention: flex_attention", 34, "execution", "flex_attention needs gpus_per_worker of at least 1"),
    "negative time": Bad("workers: 1", "save_every_s: -1", 35, "execution.save_every_s", "should be at least 0.0"),
    "unknown preset": Bad("  train:\n", "  preset: papper\n  train:\n", 9, "trial.preset", "should be 'corrected' or 'paper', found the text 'papper'"),
    "unknown preset in an axis": Bad(OBJECTIVES, f"{OBJECTIVES}  preset: [paper, fixed]\n", 27, "axes.preset[1]", "should be 'corrected' or 'paper'"),
    "list of presets": Bad("  train:\n", "  preset: [paper]\n  train:\n", 9, "trial.preset", "found the list ['paper']"),
    "batch that is no multiple of the preset's": Bad("  train:\n", "  preset: paper\n  train:\n    normalization: {ranks: 5}\n", 10, "trial.train", "(the preset 'paper' sets train.normalization.micro_batch_samples to 4)"),
    "preset of another dtype": Bad("{path: embedded}", "{dtype: float32}\n  preset: paper", 5, "trial.model", "found dtype float32 (the preset 'paper' sets model.parameter_dtype to bfloat16)"),
}

BAD_SPECS = YAML | TYPES | VALUES | FIELDS | AXES | RECIPE

BAD_OVERRIDES = {
    "": "an override has the form path=value",
    "=3": "an override has the form path=value",
    "trial.train.steps": "an override has the form path=value, e.g. trial.train.steps=20",
    "trial.train.steps=[1": "not valid YAML: while parsing a flow sequence",
    "trial.train.steps={a: 1, a: 2}": "a: is given twice",
    "trial.train.steps=!!set {a}": "the tag !!set has no use here",
    "trial.train.steps=x": "trial.train.steps: should be a whole number, found the text 'x'",
    "trial.train.stepz=3": "unknown field 'stepz'; did you mean 'steps'?",
    "trial.train.steps.x=3": "`trial.train.steps` is a plain value, so it has no field 'x'",
    "trial..steps=3": "unknown field ''",
    "train.steps=3": "unknown field 'train'; did you mean 'trial.train.steps'?",
    "steps=3": "unknown field 'steps'",
    "trial=3": "trial: should be a mapping, found 3",
    "trial.train=3": "trial.train: should be a mapping, found 3",
    "trial.train.schedule.kind=linear": "trial.train.schedule.kind: should be 'cosine' or 'constant'",
    "trial.evaluation.benchmarks.0.limit=3": "`trial.evaluation.benchmarks` is a list, which can only be set as a whole",
    "trial.evaluation.samplings.greedy.temprature=0": "did you mean 'temperature'?",
    "trial.evaluation.samplings.greedy=3": "trial.evaluation.samplings.greedy: should be a mapping, found 3",
    "name=B C": "name: 'B C' cannot be a name",
    "name.first=b": "`name` is a plain value, so it has no field 'first'",
    "axes=3": "axes: should be a mapping, found 3",
    "axes.train.learning_rate=1e-4": "axes.train.learning_rate: should be a list, found 0.0001",
    "axes.train.learning_rate=[]": "axes.train.learning_rate: an axis needs at least one value",
    "axes.train.learning_rate=[2]": "axes.train.learning_rate[0]: should be at most 1.0, found 2",
    "axes.evaluation.every=[10, 20]": "axes.evaluation.every: the trials of a sweep are compared on the same measurements",
    "axes.train.learnig_rate=[1e-4]": "axes.train.learnig_rate: unknown field 'learnig_rate'; did you mean 'learning_rate'?",
    "variants.noisy.set={}": "`variants` is a list, which can only be set as a whole",
    "pool.max_model_len=ten": "pool.max_model_len: should be a whole number, found the text 'ten'",
    "trial.train.learning_rate=1e-5": "has no effect, for every trial sets `train.learning_rate` anew; set axes.train.learning_rate=[...] instead",
    "trial.train.objective.kind=sft": "has no effect, for every trial sets `train.objective.kind`",
}
