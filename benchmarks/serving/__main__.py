"""The command line of the load test: every server at rising rates, then polyrank's overhead."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from engines.checkpoints import small
from engines.report import setting

from serving import load, overhead
from serving.servers import Running, running, servers

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_871
EXACT = 1e-4  # largest change of a score that float32 servers may show
HOPELESS_S = 20.0  # a server whose p95 is beyond this is not asked for more


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", type=Path, help="a reranker instead of e5-small's shape")
    parser.add_argument("--infinity", type=Path, help="Python of an environment with infinity-emb")
    parser.add_argument("--rates", default="0.5,1,2,4,8", help="requests a second, rising")
    parser.add_argument("--seconds", type=float, default=60, help="at each rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=20, help="of the overhead")
    parser.add_argument("--only", help="servers whose names hold this")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def check(made: Running, folder: Path, requests: list[dict[str, Any]], threads: int) -> float:
    """Return the largest change of a score against the library, over a few requests."""
    from polyrank import Reranker

    reranker = Reranker(folder, num_threads=threads, precision="float32")
    worst = 0.0
    for body in requests[:10]:
        wanted = reranker.score([(body["query"], text) for text in body["documents"]])
        reply = httpx.post(f"{made.url}/rerank", json=body, timeout=load.TIMEOUT_S).json()
        for row in reply["results"]:
            worst = max(worst, abs(row["relevance_score"] - float(wanted[row["index"]])))
    return worst


def climb(made: Running, requests: list[dict[str, Any]], given: argparse.Namespace) -> list[Any]:
    """Return what the server did at each rate, up to the first that is hopeless."""
    levels = []
    asyncio.run(_offer(made, requests, 1.0, 5.0, given))  # warm
    for rate in map(float, given.rates.split(",")):
        level = asyncio.run(_offer(made, requests, rate, given.seconds, given))
        levels.append(level)
        p95 = level.percentile_s(0.95)
        answers = f"{len(level.answered)} of {len(level.sent)}"
        say(f"  {rate:g} a second: {level.throughput:.1f} documents/s, p95 {p95:.2f} s, {answers}")
        if not p95 < HOPELESS_S:
            break
    return levels


async def _offer(
    made: Running, requests: list[Any], rate: float, seconds: float, given: argparse.Namespace
) -> load.Level:
    return await load.offer(
        made.url,
        requests,
        rate=rate,
        seconds=seconds,
        seed=given.seed,
        memory=lambda: made.memory_mb,
    )


def compare(made: Running, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return what the server takes beside the library for 100 documents."""
    largest = load.bodies(given.data, 50, given.seed, {100: 1.0})
    with (
        overhead.library(folder, given.threads, "float32") as own,
        httpx.Client(base_url=made.url, timeout=load.TIMEOUT_S) as client,
    ):
        turns = overhead.measure(client, own, largest, given.turns)
    return overhead.summary(turns, given.seed)


def table(found: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    lines = [
        "# `polyrank serve` under load",
        "",
        f"Commit {found['setting']['commit']}, {found['setting']['machine']}, "
        f"{found['threads']} threads. Open-loop arrivals of requests with "
        f"{', '.join(map(str, load.MIX))} documents (XQuAD passages, 12 languages).",
        "",
        "| server | requests/s offered | documents/s | p50 s | p95 s | p99 s | answered | MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, rows in found["levels"].items():
        lines += [
            f"| {name} | {row['rate']:g} | {row['throughput']:.1f} | {row['p50_s']:.2f} | "
            f"{row['p95_s']:.2f} | {row['p99_s']:.2f} | {row['answered']} of {row['sent']} | "
            f"{row['memory_mb']:.0f} |"
            for row in rows
        ]
    if found["overhead"]:
        lines += ["", overhead.told(found["overhead"], 100, found["turns"])]
    failed = [f"- {name}: {reason}" for name, reason in found["failed"].items()]
    return "\n".join([*lines, "", *failed]).rstrip() + "\n"


def main() -> None:
    """Measure, and write table and figures."""
    given = options()
    with tempfile.TemporaryDirectory() as scratch:
        from polyrank.checkpoint.hub import base_model_folder

        made_here = Path(scratch) / "e5-small-reranker"
        folder = given.model or small(base_model_folder(), made_here, given.seed)
        requests = load.bodies(given.data, 400, given.seed)
        found: dict[str, Any] = {
            "setting": setting(ROOT), "threads": given.threads, "turns": given.turns,
            "mix": load.MIX, "levels": {}, "largest_score_change": {}, "overhead": {},
            "failed": {},
        }  # fmt: skip
        for server in servers(given.threads, given.infinity):
            if given.only and given.only not in server.name:
                continue
            say(server.name)
            log = Path(scratch) / "server.log"
            try:
                with running(server, folder, PORT, given.threads, log) as made:
                    change = check(made, folder, requests, given.threads)
                    found["largest_score_change"][server.name] = change
                    if "int8" not in server.name and change > EXACT:
                        raise RuntimeError(f"its scores differ from the library's by {change:.2g}")
                    levels = climb(made, requests, given)
                    found["levels"][server.name] = [_row(level) for level in levels]
                    if server.name == "polyrank float32":
                        found["overhead"] = compare(made, folder, given)
            except (RuntimeError, httpx.HTTPError, KeyError) as exc:
                say(f"  failed: {exc}")
                found["failed"][server.name] = str(exc).splitlines()[0][:300]
        (given.output / "serving.json").write_text(json.dumps(found, indent=1) + "\n", "utf8")
        text = table(found)
        (given.output / "serving.md").write_text(text, "utf8")
        print(text)


def _row(level: load.Level) -> dict[str, Any]:
    return {
        "rate": level.rate,
        "throughput": level.throughput,
        **{f"p{share}_s": level.percentile_s(share / 100) for share in (50, 95, 99)},
        "sent": len(level.sent),
        "answered": len(level.answered),
        "refused": sum(each.status == 429 for each in level.sent),
        "memory_mb": max(level.memory_mb, default=0.0),
    }


if __name__ == "__main__":
    main()
