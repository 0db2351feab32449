"""A server with the shapes of Weaviate's wire, in memory: its schema by REST, all else by gRPC.

Messages are those of the client's own protocol files. What it shows is that requests are what the
wire has, and that values are of the types that the schema names; all vectors are compared as they
came, whatever quantiser was asked for.
"""

import json
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from weaviate.proto.v1 import (
    aggregate_pb2,
    base_pb2,
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)

OF_CLASS = {
    "invertedIndexConfig": {
        "bm25": {"b": 0.75, "k1": 1.2},
        "cleanupIntervalSeconds": 60,
        "stopwords": {"preset": "en", "additions": None, "removals": None},
    },
    "multiTenancyConfig": {"enabled": False},
    "replicationConfig": {"factor": 1},
    "shardingConfig": {
        **{"virtualPerPhysical": 128, "desiredCount": 1, "actualCount": 1, "key": "_id"},
        **{"desiredVirtualCount": 128, "actualVirtualCount": 128},
        **{"strategy": "hash", "function": "murmur3"},
    },
}
OF_INDEX = {
    **{"skip": False, "cleanupIntervalSeconds": 300, "maxConnections": 32},
    **{"efConstruction": 128, "ef": -1, "dynamicEfMin": 100, "dynamicEfMax": 500},
    **{"dynamicEfFactor": 8, "vectorCacheMaxObjects": 10**12, "flatSearchCutoff": 40_000},
    "distance": "cosine",
}
OF_MULTIVECTOR = {"enabled": False, "aggregation": "maxSim", "muvera": {"enabled": False}}
FIELDS = {"text": "text_value", "int": "int_value", "number": "number_value"}
FIELDS["boolean"] = "bool_value"
FILTERS = base_pb2.Filters
COMPARED = {
    FILTERS.OPERATOR_EQUAL: lambda a, b: a == b,
    FILTERS.OPERATOR_LESS_THAN: lambda a, b: a < b,
    FILTERS.OPERATOR_CONTAINS_ANY: lambda a, b: a in b,
}
VALUES = {"value_text": "text", "value_int": "int", "value_number": "number"}
VALUES["value_boolean"] = "boolean"


class Held:
    """A collection: what it was made with, and its objects by their names."""

    def __init__(self, asked: dict[str, Any]) -> None:
        assert re.fullmatch("[A-Z][_0-9A-Za-z]{0,254}", asked["class"])
        self.schema: dict[str, Any] = {**OF_CLASS, **asked, "properties": []}
        self.types: dict[str, str] = {}
        self.objects: dict[str, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
        for each in asked.get("properties", ()):
            self.add_property(each)
        for each in self.schema.get("vectorConfig", {}).values():
            assert each["vectorIndexType"] == "hnsw"
            held = {**OF_INDEX, **each.get("vectorIndexConfig", {})}
            held["multivector"] = {**OF_MULTIVECTOR, **held.get("multivector", {})}
            each["vectorIndexConfig"] = held

    def add_property(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = asked["name"]
        assert re.fullmatch("[_A-Za-z][_0-9A-Za-z]{0,230}", name)
        # the real one makes the first letter small, and tells names apart without their case
        assert name[0] == name[0].lower()
        assert name.lower() not in {known.lower() for known in self.types}
        assert name not in ("id", "_id", "_additional")
        kind = asked["dataType"][0]
        if kind != "text":
            assert not asked.get("indexSearchable")
            assert not asked.get("tokenization")
        made = {"indexFilterable": True, "indexSearchable": kind == "text", **asked}
        self.types[name] = kind
        self.schema["properties"].append(made)
        return made

    def put(self, given: batch_pb2.BatchObject) -> str | None:
        """Keep an object in place of the one of its name; return what is wrong with it."""
        facts = MessageToDict(given.properties.non_ref_properties)
        for key, value in facts.items():
            kind = self.types.get(key)
            fits = {
                "text": isinstance(value, str),
                "boolean": isinstance(value, bool),
                "number": isinstance(value, float) and not isinstance(value, bool),
                "int": isinstance(value, float) and value == int(value),
            }
            if kind is None or not fits[kind]:
                return f"invalid {kind} property '{key}' on class '{self.schema['class']}'"
            facts[key] = int(value) if kind == "int" else value
        vectors = {each.name: self.decoded(each) for each in given.vectors}
        for name, vector in vectors.items():
            assert name in self.schema["vectorConfig"]
            for _, older in self.objects.values():
                if name in older and older[name].shape[-1] != vector.shape[-1]:
                    return "vector lengths don't match"
                break
        self.objects[str(uuid.UUID(given.uuid))] = facts, vectors
        return None

    def decoded(self, given: base_pb2.Vectors) -> np.ndarray:
        config = self.schema["vectorConfig"][given.name]["vectorIndexConfig"]
        is_multi = given.type == base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32
        assert is_multi == config["multivector"]["enabled"]
        if not is_multi:
            return np.frombuffer(given.vector_bytes, "<f4")
        size = int(np.frombuffer(given.vector_bytes[:2], "<u2")[0])
        return np.frombuffer(given.vector_bytes[2:], "<f4").reshape(-1, size)

    def fitting(self, filter: base_pb2.Filters | None) -> list[str]:
        return [name for name in sorted(self.objects) if filter is None or self.fits(name, filter)]

    def fits(self, name: str, filter: base_pb2.Filters) -> bool:
        if filter.operator == FILTERS.OPERATOR_AND:
            return all(self.fits(name, each) for each in filter.filters)
        key = filter.target.property
        if key == "_id":
            return COMPARED[filter.operator](name, list(filter.value_text_array.values))
        field = filter.WhichOneof("test_value")
        # the real one refuses a value of another type than the property's
        assert VALUES[field] == self.types[key], (field, key)
        held = self.objects[name][0].get(key)
        return held is not None and COMPARED[filter.operator](held, getattr(filter, field))


class Server(weaviate_pb2_grpc.WeaviateServicer):
    """Collections in memory, and what each call does to them."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.held: dict[str, Held] = {}
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, given: Any) -> tuple[int, Any]:
        """Answer a request to the REST interface."""
        if path == "/v1/meta":
            return 200, {"version": self.version, "hostname": "", "modules": {}}
        with self.lock:
            if (method, path) == ("POST", "/v1/schema"):
                made = Held(given)
                assert made.schema["class"] not in self.held
                self.held[made.schema["class"]] = made
                return 200, made.schema
            match = re.fullmatch(r"/v1/schema/(\w+)(/properties)?", path)
            assert match, path
            known = self.held.get(match[1])
            if known is None:
                return 404, None
            return 200, known.add_property(given) if match[2] else known.schema

    def BatchObjects(self, request: Any, context: Any) -> Any:
        errors = []
        with self.lock:
            for index, each in enumerate(request.objects):
                wrong = self.held[each.collection].put(each)
                if wrong is not None:
                    errors.append(batch_pb2.BatchObjectsReply.BatchError(index=index, error=wrong))
        return batch_pb2.BatchObjectsReply(errors=errors)

    def BatchDelete(self, request: Any, context: Any) -> Any:
        with self.lock:
            held = self.held[request.collection]
            gone = held.fitting(request.filters)
            for name in gone:
                del held.objects[name]
        return batch_delete_pb2.BatchDeleteReply(matches=len(gone), successful=len(gone))

    def Aggregate(self, request: Any, context: Any) -> Any:
        assert request.objects_count
        count = len(self.held[request.collection].objects)
        single = aggregate_pb2.AggregateReply.Single(objects_count=count)
        return aggregate_pb2.AggregateReply(single_result=single)

    def Search(self, request: Any, context: Any) -> Any:
        assert 0 < request.limit <= 10_000
        with self.lock:
            held = self.held[request.collection]
            filter = request.filters if request.HasField("filters") else None
            names = [name for name in held.fitting(filter) if name > request.after]
            if not request.HasField("near_vector"):
                found = [(name, None) for name in names[: request.limit]]
                return search_get_pb2.SearchReply(
                    results=[result(held, request, *each) for each in found]
                )
            asked = request.near_vector
            assert list(asked.targets.target_vectors) == ["vector"]
            given = asked.vector_bytes or asked.vectors[0].vector_bytes
            query = np.frombuffer(given, "<f4").astype(np.float64)
            matrix = np.array([held.objects[name][1]["vector"] for name in names], np.float64)
            if not len(matrix):
                return search_get_pb2.SearchReply()
            if matrix.shape[1] != len(query):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "vector lengths don't match")
            lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
            distances = 1 - matrix @ query / lengths
            best = np.argsort(distances, kind="stable")[: request.limit]
            found = [(names[i], float(distances[i])) for i in best]
            return search_get_pb2.SearchReply(
                results=[result(held, request, *each) for each in found]
            )


def result(held: Held, request: Any, name: str, distance: float | None) -> Any:
    """Return an object as a search tells it: what was asked of it, and no more."""
    facts, vectors = held.objects[name]
    wanted = request.properties.non_ref_properties
    fields = {
        key: properties_pb2.Value(**{FIELDS[held.types[key]]: facts[key]})
        for key in wanted
        if key in facts
    }
    told = search_get_pb2.MetadataResult(id=name, id_as_bytes=uuid.UUID(name).bytes)
    if distance is not None and request.metadata.distance:
        told.distance, told.distance_present = distance, True
    for key in request.metadata.vectors:
        if key in vectors:
            rows = vectors[key].astype("<f4")
            head = np.array([rows.shape[1]], "<u2").tobytes()
            kind = base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32
            told.vectors.add(name=key, vector_bytes=head + rows.tobytes(), type=kind)
    properties = search_get_pb2.PropertiesResult(
        target_collection=request.collection,
        non_ref_props=properties_pb2.Properties(fields=fields),
    )
    return search_get_pb2.SearchResult(properties=properties, metadata=told)


def serve(version: str = "1.33.0") -> str:
    """Start a server; return its URL without the scheme."""
    server_of = Server(version)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def send(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
            path = urlsplit(self.path).path
            code, found = server_of.answer(self.command, path, json.loads(data or b"null"))
            reply = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = send

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    rest = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    wire = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 10**8)])
    weaviate_pb2_grpc.add_WeaviateServicer_to_server(server_of, wire)
    port = wire.add_insecure_port("127.0.0.1:0")
    wire.start()
    threading.Thread(target=wire.wait_for_termination, daemon=True).start()
    return f"127.0.0.1:{rest.server_port}?grpc={port}"
