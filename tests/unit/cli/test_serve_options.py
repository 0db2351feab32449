"""The options of `polyrank serve` are made of the settings classes, and keep their names."""

from dataclasses import fields
from pathlib import Path

import typer.main

from polyrank.cli.app import app
from polyrank.cli.fields import sentences, settings_of
from polyrank.server.settings import DEFAULT_MAX_PENDING_BYTES, Limits, ServerSettings

# name in the environment: POLYRANK_SERVE_ before it, in capitals
OPTIONS = {
    "model": "--model",
    "on_demand": "--on-demand",
    "api_key_file": "--api-key-file",
    "admin_key_file": "--admin-key-file",
    "log_format": "--log-format",
    "log_level": "--log-level",
    "trace": "--trace",
    "quiet": "--quiet",
    "host": "--host",
    "port": "--port",
    "auto_truncate": "--auto-truncate",
    "strict_names": "--strict-names",
    "cors_allow_origin": "--cors-allow-origin",
    "allowed_host": "--allowed-host",
    "tls_cert": "--tls-cert",
    "tls_key": "--tls-key",
    "cache": "--cache-mb",
    "row_cache": "--row-cache-mb",
    "workers": "--tokenization-workers",
    "encoder": "--encoder",
    "max_batch_tokens": "--max-batch-tokens",
    "threads": "--threads",
    "device": "--device",
    "compute_dtype": "--compute-dtype",
    "revision": "--revision",
    "max_concurrent_requests": "--max-concurrent-requests",
    "max_queued_tokens": "--max-queued-tokens",
    "max_client_batch_size": "--max-client-batch-size",
    "payload_limit": "--payload-limit",
    "request_timeout": "--request-timeout",
    "write_timeout": "--write-timeout",
    "max_connections": "--max-connections",
    "drain": "--drain",
    "drain_delay": "--drain-delay",
}


def made(monkeypatch, *arguments):
    """Settings that a call makes; the server itself is not begun."""
    caught = []

    class Caught(Exception):
        pass

    def catch(settings):
        caught.append(settings)
        raise Caught

    monkeypatch.setattr("polyrank.server.run.bind", catch)
    command = typer.main.get_command(app)
    try:
        command.main(["serve", *arguments], standalone_mode=False)
    except Caught:
        return caught[0]
    raise AssertionError("no settings were made")


def test_options_keep_their_names():
    serve = typer.main.get_command(app).commands["serve"]
    named = {option.name: option.opts[0] for option in serve.params if option.name != "help"}
    assert OPTIONS.items() <= named.items()


def test_every_option_has_a_sentence():
    for cls in (ServerSettings, Limits):
        assert set(sentences(cls)) == {field.name for field in fields(cls)}
    port = settings_of(ServerSettings)["port"]
    serve = typer.main.get_command(app).commands["serve"]
    (option,) = (each for each in serve.params if each.name == "port")
    assert (option.help, option.default) == (port.sentence, 3000)


def test_nothing_typed_is_the_classes_defaults(monkeypatch):
    settings = made(monkeypatch)
    assert settings == ServerSettings(settings.models)
    assert [source.model for source in settings.models] == [None]


def test_what_is_typed_arrives(monkeypatch):
    settings = made(
        monkeypatch,
        *("-m", "a=one", "--on-demand", "b=two", "-p", "0", "--cache-mb", "3"),
        *("--row-cache-mb", "2", "--tokenization-workers", "4", "--threads", "1"),
        *("--cors-allow-origin", "https://a", "--cors-allow-origin", "https://b"),
        *("--payload-limit", "300000000", "--drain", "1.5", "--no-auto-truncate"),
        *("--strict-names", "--tls-cert", "c.pem", "--tls-key", "k.pem"),
    )
    assert [(each.name, each.is_loaded_at_start) for each in settings.models] == [
        ("a", True),
        ("b", False),
    ]
    assert (settings.port, settings.num_workers, settings.num_threads) == (0, 4, 1)
    assert (settings.cache_bytes, settings.row_cache_bytes) == (3_000_000, 2_000_000)
    assert settings.cors_origins == ("https://a", "https://b")
    assert (settings.auto_truncate, settings.is_strict_about_names) == (False, True)
    assert (settings.certificate, settings.private_key) == (Path("c.pem"), Path("k.pem"))
    limits = settings.limits
    assert (limits.max_payload_bytes, limits.drain_s) == (300_000_000, 1.5)
    assert limits.max_pending_bytes == 300_000_000 > DEFAULT_MAX_PENDING_BYTES


def test_the_environment_arrives(monkeypatch):
    for name, value in (("CACHE", "5"), ("WORKERS", "3"), ("ALLOWED_HOST", "a b"), ("DRAIN", "2")):
        monkeypatch.setenv(f"POLYRANK_SERVE_{name}", value)
    settings = made(monkeypatch)
    assert (settings.cache_bytes, settings.num_workers) == (5_000_000, 3)
    assert settings.allowed_hosts == ("a", "b")
    assert settings.limits.drain_s == 2
