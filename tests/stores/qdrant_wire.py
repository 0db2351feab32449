"""A server with the paths of Qdrant's REST interface, answered by its client's local mode.

What it shows is that requests are what the wire has; types and quantisation are taken and told
again, but all vectors are compared as they came.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models
from qdrant_client.http.models import CreateCollection


class Server:
    """Collections in memory, and what each path does to them."""

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, given: dict[str, Any]) -> Any:
        match = re.fullmatch(r"/collections/(\w+)(/.*)?", path)
        assert match, path
        name, rest = match[1], match[2] or ""
        with self.lock:
            return getattr(self, f"{method}_{rest.strip('/').replace('/', '_')}")(name, given)

    def get_exists(self, name: str, given: dict[str, Any]) -> Any:
        return {"exists": self.client.collection_exists(name)}

    def put_(self, name: str, given: dict[str, Any]) -> Any:
        asked = CreateCollection.model_validate(given)
        return self.client.create_collection(name, vectors_config=asked.vectors)

    def get_(self, name: str, given: dict[str, Any]) -> Any:
        return self.client.get_collection(name)

    def put_points(self, name: str, given: dict[str, Any]) -> Any:
        points = models.PointsList.model_validate(given).points
        return self.client.upsert(name, points)

    def post_points(self, name: str, given: dict[str, Any]) -> Any:
        asked = models.PointRequest.model_validate(given)
        return self.client.retrieve(
            name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector
        )

    def post_points_query(self, name: str, given: dict[str, Any]) -> Any:
        asked = models.QueryRequest.model_validate(given)
        quantization = asked.params and asked.params.quantization
        held = self.client.get_collection(name).config.params.vectors["vector"]
        # a search by copies asks for more than it wants, and chooses by the vectors
        assert (held.quantization_config is None) is (quantization is None)
        return self.client.query_points(
            name,
            query=asked.query,
            using=asked.using,
            limit=asked.limit,
            query_filter=asked.filter,
            with_payload=asked.with_payload,
            with_vectors=asked.with_vector,
        )

    def post_points_delete(self, name: str, given: dict[str, Any]) -> Any:
        return self.client.delete(name, models.PointIdsList.model_validate(given))

    def post_points_count(self, name: str, given: dict[str, Any]) -> Any:
        return self.client.count(name, exact=given["exact"])

    def post_points_scroll(self, name: str, given: dict[str, Any]) -> Any:
        asked = models.ScrollRequest.model_validate(given)
        points, more = self.client.scroll(name, limit=asked.limit or 10, offset=asked.offset)
        return models.ScrollResult(points=points, next_page_offset=more)


def dumped(found: Any) -> Any:
    if isinstance(found, list):
        return [dumped(each) for each in found]
    return found.model_dump(mode="json") if hasattr(found, "model_dump") else found


def serve() -> str:
    """Start a server; return its host and port."""
    server_of = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def send(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = urlsplit(self.path).path
            found = server_of.answer(self.command.lower(), path, json.loads(data or b"{}"))
            plain = dumped(found)
            reply = json.dumps({"result": plain, "status": "ok", "time": 0.0}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_PUT = do_POST = send

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"
