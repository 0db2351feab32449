"""The command line of the load test: every server at rising rates.

Runs can be taken in pieces (`--only`, `--rates`): each adds to the figures that are there, and
takes the place of those of the same server and rate.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from engines.report import setting

from serving import load, models, report
from serving.servers import LOADED, Running, infinity, running, servers

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_871
EXACT = 1e-4  # largest change of a score that float32 servers may show
HOPELESS_S = 20.0  # a server whose p95 is beyond this is not asked for more


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--infinity", type=Path, help="Python of an environment with infinity-emb")
    parser.add_argument("--rates", default="0.5,1,2,4,8,16", help="requests a second, rising")
    parser.add_argument("--seconds", type=float, default=60, help="at each rate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="servers whose names hold this")
    parser.add_argument("--anew", action="store_true", help="forget the figures that are there")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def check(made: Running, folder: Path, requests: list[dict[str, Any]], threads: int) -> float:
    """Return the largest change of a score against the library, over a few requests."""
    from polyrank import Reranker

    reranker = Reranker(folder, num_threads=threads, compute_dtype="float32")
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
        busy=made.seconds_of_others,
    )


def main() -> None:
    """Measure, and write table and figures."""
    given = options()
    kept = given.output / "serving.json"
    if given.anew:
        kept.unlink(missing_ok=True)
    offered = servers(given.threads)
    if given.infinity is not None:
        offered += [each for each in infinity(given.infinity) if each.name in LOADED]
    with tempfile.TemporaryDirectory() as scratch:
        folders = models.prepare(given.data, Path(scratch), given.seed)
        requests = load.bodies(given.data, 400, given.seed)
        for server in offered:
            if given.only and given.only not in server.name:
                continue
            found: dict[str, Any] = {
                "threads": given.threads, "seconds": given.seconds, "seed": given.seed,
                "mix": {str(size): share for size, share in load.MIX.items()},
                "servers": {}, "failed": {},
            }  # fmt: skip
            say(server.name)
            log = Path(scratch) / "server.log"
            folder = folders.onnx if server.reads_onnx else folders.plain
            try:
                with running(server, folder, PORT, given.threads, log) as made:
                    change = check(made, folders.plain, requests, given.threads)
                    if server.is_float32 and change > EXACT:
                        raise RuntimeError(f"its scores differ from the library's by {change:.2g}")
                    levels = climb(made, requests, given)
                found["servers"][server.name] = {
                    "setting": setting(ROOT),
                    "largest_score_change": change,
                    "levels": [report.row(level) for level in levels],
                }
            except (RuntimeError, httpx.HTTPError, KeyError) as exc:
                say(f"  failed: {exc}")
                found["failed"][server.name] = str(exc).splitlines()[0][:300]
            text = report.write(report.merge(kept, found), given.output)
        print(text)


if __name__ == "__main__":
    main()
