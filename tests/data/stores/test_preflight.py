"""An offline start fails soon, with the host and the way out in its message."""

import socket
import threading
import time

import pytest

from rsmatch_jax.data import sources
from rsmatch_jax.data.stores import preflight
from rsmatch_jax.errors import RequestError


def test_offline_start_fails_soon_and_names_host_and_data_dir(tmp_path, monkeypatch):
    """The worst case: a proxy accepts the connection and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for key in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(key, f"http://127.0.0.1:{silent.getsockname()[1]}")
        for key in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(key, raising=False)
        monkeypatch.setattr(preflight, "TIMEOUT", 0.5)
        start = time.monotonic()
        host = "www.cs.toronto.edu cannot be .*pass --config.data.data_dir=DIR"
        with pytest.raises(RequestError, match=f"not in {tmp_path} and {host}"):
            folders = {"data_dir": str(tmp_path), "cache_dir": str(tmp_path / "c")}
            sources.load_real("cifar10", **folders)
    assert time.monotonic() - start < 3


@pytest.fixture
def no_proxy(monkeypatch):
    for key in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.parametrize(
    ("status", "reached"), [(200, True), (403, True), (404, True), (502, False)]
)
def test_any_answer_of_the_host_will_do(status, reached, no_proxy):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer():
            client, _ = server.accept()
            client.recv(4096)
            client.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        reason = preflight.unreachable(
            f"http://127.0.0.1:{server.getsockname()[1]}/x", 5.0
        )
        thread.join()
    assert (reason is None) == reached


def test_a_hanging_name_lookup_ends_in_time(monkeypatch, no_proxy):
    release = threading.Event()

    def hang(*args, **kwargs):
        release.wait(5)
        raise OSError("released")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    start = time.monotonic()
    assert "no answer within 0.2 s" in preflight.unreachable("http://a.invalid/x", 0.2)
    assert time.monotonic() - start < 2
    release.set()


def test_archive_fetched_by_hand_needs_no_network(tmp_path, monkeypatch):
    requests = []
    monkeypatch.setattr(preflight, "unreachable", lambda *a: requests.append(a) or "no")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "other.tar").write_text("")
    with pytest.raises(RequestError, match="cannot be reached"):
        preflight.check_download("cifar10:3.*.*", str(tmp_path))
    assert len(requests) == 1
    (manual / "cifar-10-binary.tar.gz").write_text("")
    preflight.check_download("cifar10", str(tmp_path))
    assert len(requests) == 1


def test_without_tfds_or_addresses(tmp_path, monkeypatch):
    """A set without a list of addresses passes; svhn_cropped has TFDS's newer form."""
    monkeypatch.setattr(preflight, "unreachable", lambda url, timeout: url)
    preflight.check_download("no_such_set", str(tmp_path))
    with pytest.raises(RequestError, match="stanford.edu"):
        preflight.check_download("svhn_cropped", str(tmp_path))
    monkeypatch.setattr(preflight, "tfds_root", lambda: None)
    with pytest.raises(RequestError, match="not installed"):
        preflight.check_download("cifar10", str(tmp_path))
