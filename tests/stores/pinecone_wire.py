"""A server with the shapes of Pinecone's data plane, in memory: enough for its own client."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

COMPARED = {"$eq": lambda a, b: a == b, "$lt": lambda a, b: a is not None and a < b}


class Index:
    """Vectors by namespace and id, with what each path of the wire does to them."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.spaces: dict[str, dict[str, dict[str, Any]]] = {}

    def answer(self, path: str, given: dict[str, Any]) -> dict[str, Any]:
        space = self.spaces.get(given.get("namespace", ""), {})
        if path == "/vectors/upsert":
            space = self.spaces.setdefault(given["namespace"], {})
            assert all(len(entry["values"]) == self.dimension for entry in given["vectors"])
            assert all(entry["id"].isascii() for entry in given["vectors"])
            space.update({entry["id"]: entry for entry in given["vectors"]})
            return {"upsertedCount": len(given["vectors"])}
        if path == "/vectors/delete":
            for key in given["ids"]:
                space.pop(key, None)
            return {}
        if path == "/vectors/list":
            keys = [key for key in sorted(space) if key > given.get("paginationToken", "")]
            page = keys[: int(given["limit"])]
            more = {"pagination": {"next": page[-1]}} if len(keys) > len(page) else {}
            return {"vectors": [{"id": key} for key in page], "namespace": "", **more}
        if path == "/vectors/fetch":
            return {"vectors": {key: space[key] for key in given["ids"]}, "namespace": ""}
        if path == "/query":
            return {"matches": self.found(space, given), "namespace": given["namespace"]}
        assert path == "/describe_index_stats", path
        counts = {name: {"vectorCount": len(own)} for name, own in self.spaces.items()}
        return {"dimension": self.dimension, "namespaces": counts, "indexFullness": 0}

    def found(self, space: dict[str, Any], given: dict[str, Any]) -> list[dict[str, Any]]:
        fits = [
            entry
            for entry in space.values()
            if all(
                COMPARED[operator](entry["metadata"].get(key), value)
                for key, wanted in given.get("filter", {}).items()
                for operator, value in wanted.items()
            )
        ]
        if not fits:
            return []
        scores = np.array([entry["values"] for entry in fits]) @ np.array(given["vector"])
        best = np.argsort(-scores, kind="stable")[: given["topK"]]
        return [
            {"id": fits[i]["id"], "score": scores[i], "metadata": fits[i]["metadata"]} for i in best
        ]


def serve(dimension: int) -> str:
    """Start a server for an index of its own; return its host and port."""
    index = Index(dimension)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            given: dict[str, Any] = {key: value[0] for key, value in asked.items()}
            self.send({**given, "ids": asked.get("ids", [])})

        def do_POST(self) -> None:
            self.send(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def send(self, given: dict[str, Any]) -> None:
            assert self.headers["api-key"]
            data = json.dumps(index.answer(urlsplit(self.path).path, given)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"
