"""ONNX files of one embedder side by side: bytes, speed and nDCG@10 under ONNX Runtime.

The base model is exported by `polyrank compress onnx` in each type of weights; beside them stands
ONNX Runtime's own dynamic quantisation of the float32 file, by output, which is what optimum's and
sentence-transformers' helpers call. All run in one process on the same padded batches, sorted by
length, in turns. nDCG@10 is of XQuAD, by exact search.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic

from polyrank.checkpoint.hub import base_model_folder
from polyrank.checkpoint.reader import Checkpoint, read_checkpoint
from polyrank.compress.onnx.check import padded
from polyrank.compress.onnx.layouts import export_onnx
from polyrank.config import TruncationConfig
from polyrank.evaluation import load_dataset
from polyrank.evaluation.measures import measure
from polyrank.text.pairs import SequenceBuilder
from polyrank.text.prompts import prompt_for_input_type
from polyrank.text.tokenizer import Tokenizer

RESULTS = Path(__file__).parents[1] / "results"
PEER = "quantize_dynamic of the float32 file"
OUTPUT = "sentence_embedding"
BATCH = 16
NUM_QUERIES = 200
TIMED = 96


def builder_of(checkpoint: Checkpoint) -> SequenceBuilder:
    """Return what makes sequences for a checkpoint."""
    spec = checkpoint.spec
    return SequenceBuilder(
        Tokenizer(checkpoint.tokenizer_file, is_lowercased=spec.is_lowercased),
        TruncationConfig(),
        model_limit=spec.max_length,
        has_segments=spec.body.type_vocab_size > 1,
    )


class File:
    """One ONNX file in a session."""

    def __init__(self, path: Path, checkpoint: Checkpoint, num_threads: int) -> None:
        """Load it."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads
        self.size_bytes = path.stat().st_size
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._named = {each.name for each in self._session.get_inputs()}
        self._builder, self._pad = builder_of(checkpoint), checkpoint.spec.body.pad_token_id

    def encode(self, texts: list[str]) -> tuple[np.ndarray[Any, Any], float]:
        """Return vectors in the order of the texts, and the seconds of the session."""
        batch = self._builder.texts(texts).batch
        order = np.argsort(batch.lengths, kind="stable")
        found, seconds = np.empty((len(texts), 0)), 0.0
        for start in range(0, len(order), BATCH):
            own = order[start : start + BATCH]
            feed = padded(batch.select(own), self._pad)
            begun = time.perf_counter()
            (rows,) = self._session.run(
                [OUTPUT], {n: v for n, v in feed.items() if n in self._named}
            )
            seconds += time.perf_counter() - begun
            if not found.size:
                found = np.empty((len(texts), rows.shape[1]), np.float32)
            found[own] = rows
        return found, seconds


def ndcg(file: File, part: Any, prompts: tuple[str, str]) -> float:
    """Return nDCG@10 of exact search by a file's vectors."""
    documents, _ = file.encode([prompts[1] + doc.text for doc in part.documents])
    queries, _ = file.encode([prompts[0] + query.text for query in part.queries])
    order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :10]
    ids = [doc.doc_id for doc in part.documents]
    rankings = {
        query.query_id: [ids[column] for column in row]
        for query, row in zip(part.queries, order, strict=True)
    }
    qrels = {query.query_id: part.qrels[query.query_id] for query in part.queries}
    return float(measure(["nDCG@10"], qrels, rankings)["nDCG@10"].mean())


def sampled(dataset: Any, language: str) -> Any:
    """Return a language of a set, with some of its queries."""
    from dataclasses import replace

    part = dataset.subset(language, language)
    queries = part.queries[:: max(1, len(part.queries) // NUM_QUERIES)][:NUM_QUERIES]
    return replace(part, queries=queries)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--languages", default="en,ar,hi,zh")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    checkpoint = read_checkpoint(base_model_folder())
    prompts = checkpoint.spec.prompts
    words = prompt_for_input_type(prompts, "query"), prompt_for_input_type(prompts, "document")
    dataset = load_dataset(given.data / "eval/xquad")
    parts = {each: sampled(dataset, each) for each in given.languages.split(",")}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "out"
        written = export_onnx(checkpoint, folder, "plain", weights=["float32", "float16", "int8"])
        paths = {each.weights: folder / each.path for each in written}
        paths[PEER] = folder / "peer.onnx"
        quantize_dynamic(
            paths["float32"], paths[PEER], per_channel=True, weight_type=QuantType.QInt8
        )
        files = {name: File(path, checkpoint, given.threads) for name, path in paths.items()}
        first = next(iter(parts.values()))
        timed = [words[1] + doc.text for doc in first.documents[:TIMED]]
        num_tokens = int(builder_of(checkpoint).texts(timed).batch.total_tokens)
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for file in files.values():
            file.encode(timed[:BATCH])
        for _ in range(given.turns):
            for name, file in files.items():
                seconds[name].append(file.encode(timed)[1])
        found = {
            name: {language: ndcg(file, part, words) for language, part in parts.items()}
            for name, file in files.items()
        }
        rows = {
            name: {
                "bytes": file.size_bytes,
                "tokens_per_second": num_tokens / statistics.median(seconds[name]),
                "ratio": statistics.median(
                    a / b for a, b in zip(seconds["float32"], seconds[name], strict=True)
                ),
                "ndcg": found[name],
            }
            for name, file in files.items()
        }
    content = {"onnxruntime": ort.__version__, "cpu": cpu(), "files": rows}
    (RESULTS / "compress-onnx.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "compress-onnx.md").write_text(table(content, given.threads))


def cpu() -> str:
    """Return the processor and the instruction sets that matter here."""
    text = Path("/proc/cpuinfo").read_text()
    model = next(line for line in text.splitlines() if line.startswith("model name"))
    flags = set(next(line for line in text.splitlines() if line.startswith("flags")).split())
    wanted = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8")
    return f"{model.partition(':')[2].strip()} ({', '.join(f for f in wanted if f in flags)})"


def table(content: dict[str, Any], threads: int) -> str:
    """Return the page of results."""
    rows = content["files"]
    exact, languages = rows["float32"], list(rows["float32"]["ndcg"])
    mean = {name: float(np.mean(list(row["ndcg"].values()))) for name, row in rows.items()}
    lines = [
        "# ONNX files of multilingual-e5-small under ONNX Runtime",
        "",
        (__doc__ or "").split("\n\n")[1].replace("\n", " ").strip(),
        "`make bench-compress` writes this page.",
        "",
        f"ONNX Runtime {content['onnxruntime']}, {content['cpu']}, {threads} threads; batches of "
        f"{BATCH}; {NUM_QUERIES} questions a language against 240 passages.",
        "",
        "| file | MB | × smaller | tokens/s | × quicker | nDCG@10 | change | "
        + f"{' | '.join(languages)} |",
        "|---" + "|---:" * (6 + len(languages)) + "|",
    ]
    for name, row in rows.items():
        each = " | ".join(f"{row['ndcg'][language]:.4f}" for language in languages)
        lines.append(
            f"| {name} | {row['bytes'] / 1e6:.1f} | {exact['bytes'] / row['bytes']:.2f} | "
            f"{row['tokens_per_second']:,.0f} | {row['ratio']:.2f} | {mean[name]:.4f} | "
            f"{mean[name] - mean['float32']:+.4f} | {each} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
