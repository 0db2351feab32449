"""Logs: one JSON object a line, or plain lines. Texts, keys and headers are never written."""

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("polyrank.server")
FIELDS = "polyrank_fields"  # attribute of log records that holds more than the message


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line."""
        fields: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class PlainFormatter(logging.Formatter):
    """Time, message and fields, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line; a traceback follows on lines of its own."""
        fields = " ".join(f"{key}={value}" for key, value in getattr(record, FIELDS, {}).items())
        line = f"{_timestamp(record)} {record.levelname.lower()} {record.getMessage()} {fields}"
        if record.exc_info:
            line = f"{line.rstrip()}\n{self.formatException(record.exc_info)}"
        return line.rstrip()


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def set_up(*, is_json: bool, level: str = "info") -> None:
    """Write logs of the server, of uvicorn and of OpenTelemetry to standard error.

    Args:
        is_json: Whether lines are JSON.
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if is_json else PlainFormatter())
    for name in ("polyrank", "uvicorn", "opentelemetry"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False


def log(level: int, message: str, **fields: Any) -> None:
    """Write a message with fields."""
    LOGGER.log(level, message, extra={FIELDS: fields})
