"""Whether a download can work at all, asked before TFDS may try.

Offline, TFDS retries for minutes before it gives up. One short request to the
dataset's own host settles the question within TIMEOUT seconds. No TensorFlow.
"""

import http.client
import importlib.util
import os
import threading
import urllib.error
import urllib.parse
import urllib.request

from rsmatch_jax.errors import RequestError

TIMEOUT = 10.0


def check_download(name: str, data_dir: str):
    """Raises RequestError unless TFDS is here and can reach `name`'s files.

    A set whose addresses TFDS does not list passes: TFDS itself has the word then. So
    does one whose archive was fetched by hand into <data_dir>/downloads/manual.
    """
    root = tfds_root()
    if root is None:
        raise RequestError(
            f"{name} is not in {data_dir} and tensorflow-datasets is not installed. "
            "Copy the cache folder (data.cache_dir) of a host that has decoded it, or "
            "pass --config.data.data_dir=DIR"
        )
    urls = known_urls(name, root)
    manual = os.path.join(data_dir, "downloads", "manual")
    if any(os.path.exists(os.path.join(manual, os.path.basename(u))) for u in urls):
        return
    # One request only: a set's files nearly always share a host.
    reason = unreachable(urls[0], TIMEOUT) if urls else None
    if reason:
        host = urllib.parse.urlsplit(urls[0]).hostname
        raise RequestError(
            f"{name} is not in {data_dir} and {host} cannot be reached ({reason}). "
            "Prepare it elsewhere and pass --config.data.data_dir=DIR"
        )


def tfds_root() -> str | None:
    """Where tensorflow_datasets is installed, found without importing it."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    return spec.submodule_search_locations[0] if spec else None


def known_urls(name: str, root: str) -> list[str]:
    """The addresses in TFDS's checksum list of a dataset, [] where it has none."""
    base = name.split("/")[0].split(":")[0]
    for path in (f"url_checksums/{base}.txt", f"datasets/{base}/checksums.tsv"):
        path = os.path.join(root, *path.split("/"))
        if os.path.isfile(path):
            with open(path) as f:
                return [line.split()[0] for line in f if line.startswith("http")]
    return []


def unreachable(url: str, timeout: float) -> str | None:
    """Why `url` cannot be fetched, None if its host answers within `timeout` s.

    Proxy variables are respected. The request runs in a thread: name lookups and
    redirects would escape the socket's own timeout.
    """
    outcome = [f"no answer within {timeout:g} s"]

    def ask():
        outcome[0] = _ask(url, timeout)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return outcome[0]


def _ask(url: str, timeout: float) -> str | None:
    request = urllib.request.Request(url, headers={"User-Agent": "rsmatch_jax"})
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return None  # the body stays unread
    except urllib.error.HTTPError as e:
        # The host may dislike this client, but a gateway's or proxy's answer is none.
        answered = e.code < 500 and e.code != http.client.PROXY_AUTHENTICATION_REQUIRED
        return None if answered else f"HTTP {e.code}"
    except (OSError, http.client.HTTPException) as e:
        return str(getattr(e, "reason", e)) or type(e).__name__
