"""The command line of the benchmark."""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engines import checkpoints, figures, isa, limits, plot, report
from engines.adapter import THREADS
from engines.registry import PEERS
from engines.schedule import Plan, Record, Run
from engines.work import MAX_LENGTH, Job, Texts
from engines.workers import Bench

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
REFERENCE = "torch-float32"
# bfloat16 has no place where AMX is taken away: without it these fall back or crawl
NEEDS_AMX = ("torch-bfloat16", "openvino-bfloat16", "openvino-int8-bfloat16")
QUICK_ENGINES = (
    REFERENCE, "sentence-transformers", "onnxruntime-int8", "openvino-int8",
    "openvino-int8-bfloat16", "polyrank-native-float32", "polyrank-native-bfloat16",
    "polyrank-native-int8", "polyrank-native-blocks",
)  # fmt: skip
LARGE = (
    REFERENCE, "onnxruntime-int8", "openvino-int8", "openvino-int8-bfloat16", "ctranslate2-int8",
    "polyrank-onnx", "polyrank-native-float32", "polyrank-native-bfloat16", "polyrank-native-int8",
)  # fmt: skip
LONG = (
    REFERENCE, "onnxruntime-int8", "openvino-int8", "openvino-int8-bfloat16",
    "polyrank-native-float32", "polyrank-native-bfloat16", "polyrank-native-int8",
)  # fmt: skip
FULL = Plan(4, 3, 3, {1: 12, 10: 4, 20: 3, 100: 1}, is_searching=True)
QUICK = Plan(3, 2, 2, {1: 6, 10: 3, 20: 2, 100: 1}, is_searching=False, with_default=False)
# one lane: a second copy of 2 GB of weights would not fit beside the other engines'
FULL_LARGE = Plan(
    3, 2, 2, {1: 6, 10: 2}, is_searching=True, lanes=(1,), budgets=(1, 512, 1024, 16384),
    with_default=False,
)  # fmt: skip
QUICK_LARGE = Plan(1, 1, 1, {1: 3}, is_searching=False, lanes=(1,), with_default=False)
# one lane: scores of 8,192 by 8,192 tokens for every head are gigabytes where they are kept
FULL_LONG = Plan(3, 1, 1, {1: 3}, is_searching=False, lanes=(1,), with_default=False)
QUICK_LONG = Plan(1, 1, 1, {1: 3}, is_searching=False, lanes=(1,), with_default=False)
PLANS = {  # by shape and --quick
    ("small", False): FULL, ("small", True): QUICK,
    ("large", False): FULL_LARGE, ("large", True): QUICK_LARGE,
    ("long", False): FULL_LONG, ("long", True): QUICK_LONG,
}  # fmt: skip
SHAPES = {
    "small": "multilingual-e5-small", "large": "XLM-R large",
    "long": "multilingual-e5-small of 8,192 positions,",
}  # fmt: skip
NATURAL = {"full": 72, "quick": 36, "large": 12}
LOGNORMAL = {"full": 96, "quick": 32, "large": 12}
LONG_JOBS = {  # sequences and tokens of each, by --quick
    False: ((4, 8192), (8, 2048)), True: ((1, 8192), (3, 2048)),
}  # fmt: skip
# not measured unless named: far slower here than in float32, and no default of anyone
UNUSUAL = ("torch-bfloat16", "polyrank-pytorch")


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="engines", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, help="where checkpoints and conversions are kept")
    parser.add_argument("--quick", action="store_true", help="fewer turns and no batching search")
    parser.add_argument("--large", action="store_true", help="XLM-R large instead of e5-small")
    parser.add_argument("--long", action="store_true", help="texts of 8,192 tokens")
    parser.add_argument("--large-folder", type=Path, help="a checkpoint of that shape")
    parser.add_argument("--isa", choices=isa.CHOICES, default="all", help="what engines may use")
    parser.add_argument("--engines", nargs="+", choices=PEERS, help="engines instead of the usual")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def shape(given: argparse.Namespace) -> str:
    """Return the key of `SHAPES` that was asked for."""
    return "long" if given.long else "large" if given.large else "small"


def chosen(given: argparse.Namespace) -> list[str]:
    """Return the engines to measure, the reference first."""
    sets = {"large": LARGE, "long": LONG}
    usual = sets.get(shape(given), QUICK_ENGINES if given.quick else tuple(PEERS))
    left_out = UNUSUAL + (NEEDS_AMX if given.isa != "all" else ())
    keys = given.engines or [key for key in usual if key not in left_out]
    return [REFERENCE, *(key for key in keys if key != REFERENCE)]


def checkpoint(given: argparse.Namespace, cache: Path) -> Path:
    """Return the checkpoint's folder, written if need be."""
    from polyrank.checkpoint.hub import base_model_folder

    base = base_model_folder()
    if given.large:
        name = given.large_folder or cache / f"xlm-roberta-large-{given.seed}"
        return checkpoints.large(base, name, given.seed)
    small = checkpoints.small(base, cache / f"multilingual-e5-small-{given.seed}", given.seed)
    return checkpoints.long(small, cache / f"{small.name}-long") if given.long else small


def convert(keys: list[str], bench: Bench, given: argparse.Namespace) -> dict[str, str]:
    """Make what the engines need, a process each; return why an engine cannot be measured."""
    failed: dict[str, str] = {}
    for key in keys:
        needs = PEERS[key].needs.split("/")[0]
        if not needs or (bench.converted / needs).is_dir():
            continue
        say(f"converting to {needs}")
        command = [sys.executable, "-m", "engines.convert", needs, str(bench.folder)]
        command += [str(bench.converted), str(given.data), str(given.seed)]
        with bench.log(key).open("w") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=RESULTS.parent)
        if done.returncode:
            failed[key] = f"conversion failed: {bench.reason(key)}"
    return failed


def jobs(given: argparse.Namespace, folder: Path, plan: Plan) -> dict[str, Job]:
    """Return every job by name."""
    max_length = checkpoints.LONG if given.long else MAX_LENGTH
    texts = Texts(given.data, folder / "tokenizer.json", given.seed, max_length)
    size = "large" if given.large else "quick" if given.quick else "full"
    made = {"natural": texts.natural(NATURAL[size]), "lognormal": texts.lognormal(LOGNORMAL[size])}
    if given.long:
        made = {
            name: texts.long(*job) for name, job in zip(made, LONG_JOBS[given.quick], strict=True)
        }
    part = made["natural"].pairs[: max(8, NATURAL[size] // 3)]
    made["try"] = texts.job(part)
    made["wake"] = texts.job(part[:1])
    queries_of = {20: 1} | plan.num_queries  # the batching for queries is sought on one with 20
    for documents, queries in queries_of.items():
        for at in range(queries):
            made[f"search-{documents}-{at}"] = texts.search(documents)
    return made


def measure(run: Run, keys: list[str], program: Path | None) -> list[dict[str, float]]:
    """Measure everything; return the machine's limits before, between and after."""
    found = [limits.measure(program, THREADS)]
    try:
        run.start(keys)
        run.throughput()
        found.append(limits.measure(program, THREADS))
        run.latency()
    finally:
        run.finish()
    run.starts()
    return [*found, limits.measure(program, THREADS)]


def judge(records: dict[str, Record], is_random_body: bool) -> dict[str, figures.Agreement]:
    """Compare every engine with the reference; note those that are wrong."""
    found: dict[str, figures.Agreement] = {}
    for key, record in records.items():
        if record.note:
            continue
        found[key] = figures.agreement(record, records[REFERENCE])
        if not found[key].is_within(record.kind.precision, is_random_body):
            record.note = (
                f"wrong results, so no times: largest difference {found[key].largest:.2f}, "
                f"rank correlation {found[key].rank_correlation:.4f}"
            )
    return found


def linear_operations(folder: Path) -> float:
    """Return operations a token in a body's linear layers, a multiply-add as two."""
    config = json.loads((folder / "config.json").read_text("utf8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    return 2.0 * config["num_hidden_layers"] * (4 * hidden * hidden + 2 * hidden * inner)


def labels(given: argparse.Namespace) -> tuple[str, str]:
    """Return what the two throughput jobs are called."""
    if not given.long:
        return "XQuAD", "log-normal"
    first, second = (f"{length:,}-token" for _, length in LONG_JOBS[given.quick])
    return first, second


def name_of(given: argparse.Namespace) -> str:
    """Return the name of the result files."""
    from polyrank.encoder.paths import running_path

    isa_name = given.isa
    if isa_name == "all":  # of the machine at hand: the plain name is that of AMX
        isa_name = running_path() if running_path() != "amx" else ""
    parts = ["engines", "" if shape(given) == "small" else shape(given), isa_name]
    return "-".join(part for part in (*parts, "quick" if given.quick else "") if part)


def main() -> None:
    """Run the benchmark and write its results."""
    from polyrank.checkpoint.hub import cache_folder

    given = options()
    cache = given.cache or cache_folder() / "benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    plan = PLANS[shape(given), given.quick]
    folder = checkpoint(given, cache).resolve()
    with tempfile.TemporaryDirectory() as temporary:
        converted = cache / "converted" / folder.name
        bench = Bench(folder, converted, Path(temporary) / "jobs", given.isa, Path(temporary))
        made = jobs(given, folder, plan)
        bench.jobs.write_bytes(pickle.dumps(made))
        keys = chosen(given)
        failed = convert(keys, bench, given)
        run = Run(bench, plan, say)
        found = measure(run, [key for key in keys if key not in failed], limits.build(bench.logs))
    run.records |= {key: Record(key, note=note) for key, note in failed.items()}
    large_jobs = ("natural", "lognormal")
    outcome = report.Outcome(
        title=f"Engines on a CPU: {SHAPES[shape(given)]} shape, cross-encoder, {THREADS} threads",
        setting=report.setting(
            ROOT, isa=given.isa, seed=given.seed,
            turns=f"{plan.rounds} turns, {plan.search_rounds} at queries, {plan.starts} starts",
        ),
        records=run.records,
        agreements=judge(run.records, given.large),
        tokens={job: made[job].num_tokens for job in large_jobs},
        sequences={job: len(made[job].sequences) for job in large_jobs},
        documents=sorted(plan.num_queries),
        linear_operations=linear_operations(folder),
        limits=found,
        labels=labels(given),
    )  # fmt: skip
    print(report.write(outcome, RESULTS, name_of(given)))
    plot.draw(outcome, RESULTS / f"{name_of(given)}.png")


if __name__ == "__main__":
    main()
