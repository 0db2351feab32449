"""Which of infinity's settings ranks most documents a second: eight clients that never pause.

The load test then runs the best of each engine. Results are added to those of runs before, so
that environments and settings can be tried one at a time.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from engines.report import setting

from serving import load, models
from serving.servers import infinity, running, servers

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PORT = 39_877
CLIENTS = 8
WARM_S = 6.0


def options() -> argparse.Namespace:
    """Return the options given."""
    parser = argparse.ArgumentParser(prog="serving.settings", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--infinity", type=Path, required=True, help="Python with infinity-emb")
    parser.add_argument("--only", default="infinity", help="settings whose names match this")
    parser.add_argument("--label", default="", help="added to their names: what is special here")
    parser.add_argument("--seconds", type=float, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


async def flat_out(url: str, requests: list[dict[str, Any]], seconds: float) -> float:
    """Return documents ranked a second, by clients that send a request after the other."""
    begin = time.perf_counter()
    at, done = 0, 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal at, done
        while time.perf_counter() - begin < WARM_S + seconds:
            body = requests[at % len(requests)]
            at += 1
            (await client.post("/rerank", json=body)).raise_for_status()
            waited = time.perf_counter() - begin
            if WARM_S <= waited < WARM_S + seconds:
                done += len(body["documents"])

    async with (
        httpx.AsyncClient(base_url=url, timeout=4 * load.TIMEOUT_S) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(CLIENTS):
            group.create_task(ask(client))
    return done / seconds


def table(found: dict[str, Any]) -> str:
    """Return the report in Markdown, fastest first."""
    rows = sorted(found["documents_per_s"].items(), key=lambda row: -row[1])
    return (
        "\n".join(
            [
                "# infinity's settings",
                "",
                f"Commit {found['setting']['commit']}, {found['setting']['machine']}, "
                f"{found['threads']} threads. Documents a second with {CLIENTS} clients that never "
                "pause, the requests of the load test.",
                "",
                "| setting | documents/s |",
                "|---|---|",
                *(f"| {name} | {rate:.1f} |" for name, rate in rows),
                "",
                *(f"- {name}: {reason}" for name, reason in found["failed"].items()),
            ]
        ).rstrip()
        + "\n"
    )


def main() -> None:
    """Measure, and add to table and figures."""
    given = options()
    kept = given.output / "serving-settings.json"
    found: dict[str, Any] = {"documents_per_s": {}, "failed": {}}
    if kept.is_file():
        found = json.loads(kept.read_text("utf8"))
    found |= {"setting": setting(ROOT), "threads": given.threads}
    requests = load.bodies(given.data, 400, given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folders = models.prepare(given.data, Path(scratch), given.seed)
        for server in (*servers(given.threads), *infinity(given.infinity)):
            if not re.search(given.only, server.name):
                continue
            name = server.name + given.label
            log = Path(scratch) / "server.log"
            folder = folders.onnx if server.reads_onnx else folders.plain
            try:
                with running(server, folder, PORT, given.threads, log) as made:
                    rate = asyncio.run(flat_out(made.url, requests, given.seconds))
                found["documents_per_s"][name] = rate
                found["failed"].pop(name, None)
                print(f"{name}: {rate:.1f} documents/s", file=sys.stderr, flush=True)
            except* (RuntimeError, httpx.HTTPError) as group:
                reason = str(group.exceptions[0]).strip().splitlines()[-1][:300]
                found["failed"][name] = reason
                print(f"{name} failed: {reason}", file=sys.stderr, flush=True)
            kept.write_text(json.dumps(found, indent=1) + "\n", "utf8")
    text = table(found)
    (given.output / "serving-settings.md").write_text(text, "utf8")
    print(text)


if __name__ == "__main__":
    main()
