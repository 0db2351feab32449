"""Load a full-size seeded XLM-R-large reranker (the shape of BAAI/bge-reranker-v2-m3).

Writes the folder once (2.2 GB, published layout, by transformers' own save), then loads it and
scores the same pairs in a fresh process per engine: time to import and load, time to score, peak
memory, and the largest difference between the logits. Run by `make bench-load`.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ENGINES = ("transformers", "polyrank-onnx", "polyrank-pytorch")


def write_checkpoint(folder: Path) -> None:
    """Write XLM-R large with one logit, 24 layers, 8,194 positions."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    from polyrank.checkpoint.hub import base_model_folder

    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=250002,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        max_position_embeddings=8194,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        num_labels=1,
        # the usual 0.02 gives logits so close together that agreement would mean little
        initializer_range=0.05,
    )
    model = XLMRobertaForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    source = base_model_folder()
    shutil.copy(source / "tokenizer.json", folder)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 8192,
        **dict.fromkeys(("bos_token", "cls_token"), "<s>"),
        **dict.fromkeys(("eos_token", "sep_token"), "</s>"),
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def pairs(count: int) -> list[tuple[str, str]]:
    """Return pairs of a query and example documents."""
    lines = (ROOT / "examples" / "cats.jsonl").read_text("utf8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    return [("How long do cats live?", texts[i % len(texts)]) for i in range(count)]


def memory_mib() -> dict[str, int]:
    """Return peak and anonymous memory of this process.

    Not from getrusage: its peak is inherited from the process that started this one.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon")}


def measure(engine: str, folder: Path, count: int) -> dict[str, object]:
    """Load and score in this process."""
    start = time.perf_counter()
    if engine == "transformers":
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

        def score(batch: list[tuple[str, str]]) -> list[float]:
            inputs = tokenizer(
                [query for query, _ in batch],
                [text for _, text in batch],
                padding=True,
                truncation="longest_first",
                return_tensors="pt",
            )
            with torch.inference_mode():
                return model(**inputs).logits[:, 0].tolist()
    else:
        from polyrank import Reranker

        reranker = Reranker(folder, encoder=engine.removeprefix("polyrank-"))

        def score(batch: list[tuple[str, str]]) -> list[float]:
            return reranker.score(batch, logits=True).tolist()

    loaded = time.perf_counter()
    after_load = memory_mib()
    score(pairs(1))
    first = time.perf_counter()
    logits = score(pairs(count))
    end = time.perf_counter()
    return {
        "engine": engine,
        "load_s": round(loaded - start, 2),
        "first_score_s": round(first - start, 2),
        "score_s": round(end - first, 2),
        "loaded_peak_mib": after_load["VmHWM"],
        "loaded_own_mib": after_load["RssAnon"],
        "peak_mib": memory_mib()["VmHWM"],
        "own_mib": memory_mib()["RssAnon"],
        "logits": logits,
    }


def compare(folder: Path, count: int, runs: int) -> list[dict[str, object]]:
    """Measure every engine in turn, `runs` times; keep each engine's run of median load time."""
    results: dict[str, list[dict[str, object]]] = {engine: [] for engine in ENGINES}
    for _ in range(runs):
        for engine in ENGINES:
            command = [sys.executable, __file__, "--folder", str(folder), "--engine", engine]
            done = subprocess.run(
                [*command, "--pairs", str(count)], check=True, stdout=subprocess.PIPE, text=True
            )
            results[engine].append(json.loads(done.stdout.splitlines()[-1]))
    medians = []
    for rows in results.values():
        rows.sort(key=lambda row: float(str(row["load_s"])))
        medians.append(rows[len(rows) // 2])
    return medians


def report(rows: list[dict[str, object]], count: int, runs: int) -> None:
    """Print a table and keep it in benchmarks/results."""
    reference = rows[0]["logits"]
    lines = [
        f"{count} pairs, {runs} runs of each in turn, the run of median load time shown; "
        f"{platform.machine()}, Python {platform.python_version()}",
        "",
        "| engine | load s | first score s | score s | peak MiB, loaded | own MiB, loaded "
        "| peak MiB, scored | own MiB, scored | max diff |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        differences = [abs(a - b) for a, b in zip(row["logits"], reference, strict=True)]
        lines.append(
            f"| {row['engine']} | {row['load_s']} | {row['first_score_s']} | {row['score_s']} "
            f"| {row['loaded_peak_mib']} | {row['loaded_own_mib']} | {row['peak_mib']} "
            f"| {row['own_mib']} | {max(differences):.1e} |"
        )
    lines += [
        "",
        "Peak counts pages of the mapped weight file (2,166 MiB), which the system can drop and "
        "share; own is anonymous memory, which it cannot.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "load-large.md").write_text("# XLM-R large, seeded: load and score\n\n" + text)


def main() -> None:
    """Run the benchmark, or one engine of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the checkpoint is, or is to be written")
    parser.add_argument("--engine", choices=ENGINES, help="measure one engine in this process")
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.engine:
        print(json.dumps(measure(arguments.engine, arguments.folder, arguments.pairs)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "xlm-roberta-large"
        if not (folder / "config.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_checkpoint(folder)
        report(compare(folder, arguments.pairs, arguments.runs), arguments.pairs, arguments.runs)


if __name__ == "__main__":
    main()
