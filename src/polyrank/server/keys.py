"""API keys: where they are read from, where requests carry them, how they are compared."""

import hashlib
import hmac
import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from polyrank.errors import ConfigError

API_KEYS_VARIABLE = "POLYRANK_API_KEYS"
ADMIN_KEYS_VARIABLE = "POLYRANK_ADMIN_KEYS"
SHORTEST_KEY = 8
# besides Authorization: Pinecone's clients, and gateways
_KEY_HEADERS = ("api-key", "x-api-key")


class Keys:
    """A set of keys, of which only hashes are kept."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take the keys.

        Args:
            keys: The keys; none means that nothing is asked of requests.

        Raises:
            ConfigError: If a key is too short to be one.
        """
        members = tuple(keys)
        for key in members:
            if len(key) < SHORTEST_KEY:
                raise ConfigError(
                    f"an API key must have {SHORTEST_KEY} characters or more; one has {len(key)}. "
                    "`openssl rand -hex 32` makes good ones."
                )
        self._num_keys = len(members)
        self._digests = tuple(dict.fromkeys(each for key in members for each in _digests(key)))

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __repr__(self) -> str:
        return f"Keys({self._num_keys})"

    def accept(self, headers: Mapping[str, str]) -> bool:
        """Return whether a request's headers carry one of the keys.

        Read are ``Authorization: Bearer KEY``, ``Authorization: KEY`` (LlamaIndex's TEI
        reranker), ``Api-Key`` (Pinecone) and ``X-Api-Key``. The time taken tells nothing of
        how much of a key was right.
        """
        matches = [
            hmac.compare_digest(given_digest, known)
            for given_digest in map(_sent_digest, _given(headers))
            for known in self._digests
        ]
        return any(matches)


def _given(headers: Mapping[str, str]) -> list[str]:
    values = [headers[name] for name in _KEY_HEADERS if name in headers]
    authorization = headers.get("authorization", "")
    scheme, _, rest = authorization.partition(" ")
    return [*values, rest.strip() if scheme.lower() == "bearer" else authorization]


def _digests(key: str) -> list[bytes]:
    """Return the hashes of a key's bytes, as clients write them: in UTF-8, or in Latin-1."""
    written = [key.encode("utf8", "surrogatepass")]
    with suppress(UnicodeEncodeError):
        written.append(key.encode("latin-1"))
    return [hashlib.sha256(each).digest() for each in written]


def _sent_digest(given: str) -> bytes:
    # the bytes of a header are read as Latin-1
    return hashlib.sha256(given.encode("latin-1", "replace")).digest()


def read_keys(path: Path | None, variable: str) -> Keys:
    """Return the keys of a file (one a line, # begins a comment) and of the environment.

    Args:
        path: The file, or None.
        variable: Environment variable whose keys are parted by commas or blanks.

    Returns:
        All of them.

    Raises:
        ConfigError: If the file cannot be read, others may read it, or it holds no key.
    """
    keys = os.environ.get(variable, "").replace(",", " ").split()
    if path is not None:
        try:
            lines = path.read_text("utf8").splitlines()
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"the key file {path} cannot be read: {exc}") from exc
        if os.name == "posix" and mode & stat.S_IROTH:
            raise ConfigError(f"every user of this machine can read {path}: chmod 600 {path}")
        found = [line.split("#", 1)[0].strip() for line in lines]
        if not any(found):
            raise ConfigError(f"the key file {path} holds no key; write one a line")
        keys += [line for line in found if line]
    return Keys(keys)
