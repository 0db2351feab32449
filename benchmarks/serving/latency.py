"""How long one client waits for `polyrank serve` as it comes: the default model, its own options.

Documents are first new to the server, then the same come again with another question.
"""

import argparse
import gzip
import json
import random
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from engines.report import setting

from serving import load
from serving.servers import Server, running

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_879
WARM = 3
STEPS = ("tokenization", "queue", "inference")


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving.latency", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--serve", default="", help="options of polyrank serve, in one string")
    parser.add_argument("--documents", type=int, nargs="+", default=[24, 100])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def bodies(data: Path, count: int, documents: int, seed: int) -> list[dict[str, Any]]:
    """Return requests that share no document as long as there are enough."""
    draw = random.Random(seed)
    folder = data / "eval" / "xquad"
    texts = {}
    for name in ("queries", "corpus"):
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf8") as file:
            texts[name] = [json.loads(line)["text"] for line in file]
        draw.shuffle(texts[name])
    if count * documents > len(texts["corpus"]):
        raise SystemExit(f"there are {len(texts['corpus'])} documents: ask for fewer turns")
    return [
        {
            "query": texts["queries"][i],
            "documents": texts["corpus"][i * documents : (i + 1) * documents],
        }
        for i in range(count)
    ]


def ask(client: httpx.Client, body: dict[str, Any]) -> dict[str, float]:
    """Return the milliseconds of a request, and those of its steps as the server tells them."""
    begin = time.perf_counter()
    reply = client.post("/v2/rerank", json=body).raise_for_status()
    reply.json()
    total = 1000 * (time.perf_counter() - begin)
    return {"total": total, **{s: float(reply.headers[f"x-{s}-time"]) for s in STEPS}}


def summary(times: list[dict[str, float]]) -> dict[str, float]:
    """Return p50 and p95 of the whole, and the median of each step."""
    totals = [each["total"] for each in times]
    return {
        "p50_ms": float(np.quantile(totals, 0.5)),
        "p95_ms": float(np.quantile(totals, 0.95)),
        **{f"{step}_ms": float(np.median([each[step] for each in times])) for step in STEPS},
    }


def main() -> None:
    """Measure, and write the figures."""
    given = options()
    more = shlex.split(given.serve)
    command = ("-m", "polyrank", "serve", "--port", "{port}", "--log-level", "warning", *more)
    server = Server("polyrank", Path(sys.executable), command)
    rows, memory = [], []
    with (
        tempfile.TemporaryDirectory() as scratch,
        running(server, ROOT, PORT, given.threads, Path(scratch) / "server.log") as made,
        httpx.Client(base_url=made.url, timeout=load.TIMEOUT_S) as client,
    ):
        memory.append(made.memory_mb)
        for documents in given.documents:
            requests = bodies(given.data, WARM + given.turns, documents, given.seed)
            for body in requests[:WARM]:
                ask(client, body)
            for body in requests[WARM:]:
                again = {**body, "query": requests[0]["query"]}
                rows.append((documents, "new", ask(client, body)))
                rows.append((documents, "again", ask(client, again)))
                memory.append(made.memory_mb)
    facts = setting(ROOT)
    found = []
    for documents in given.documents:
        for kind in ("new", "again"):
            times = [each for count, which, each in rows if (count, which) == (documents, kind)]
            found.append({"documents": documents, "kind": kind, **summary(times)})
    lines = [
        f"# One client of `{' '.join(['polyrank serve', *more])}`",
        "",
        f"Commit {facts['commit']}, {facts['machine']}, {given.threads} threads; {given.turns} "
        f"requests of each kind with XQuAD passages of 12 languages; resident "
        f"{memory[0]:.0f} MB at first, {max(memory):.0f} MB at most.",
        "",
        "| documents | they are | p50 ms | p95 ms | tokenising | queueing | computing (medians) |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each['documents']} | {each['kind']} | {each['p50_ms']:.0f} | "
            f"{each['p95_ms']:.0f} | {each['tokenization_ms']:.0f} | {each['queue_ms']:.0f} | "
            f"{each['inference_ms']:.0f} |"
            for each in found
        ),
    ]
    page = "\n".join(lines) + "\n"
    kept = {"setting": facts, "serve": given.serve, "memory_mb": memory, "rows": found}
    (given.output / "latency.json").write_text(json.dumps(kept, indent=1) + "\n", "utf8")
    (given.output / "latency.md").write_text(page, "utf8")
    print(page)


if __name__ == "__main__":
    main()
