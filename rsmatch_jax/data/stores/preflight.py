"""Checks whether a download can work, before TFDS tries it. Needs no TensorFlow.

Offline, TFDS retries for minutes before it gives up. One short request to the dataset's
host settles the question within TIMEOUT seconds.
"""

import http.client
import importlib.util
import os
import threading
import urllib.error
import urllib.parse
import urllib.request

from rsmatch_jax.errors import RequestError

TIMEOUT = 10.0  # seconds


def check_download(name: str, data_dir: str):
    """Raises RequestError if TFDS is not installed or cannot reach a dataset's files.

    A dataset passes unchecked if TFDS does not list its addresses, or if its archive
    lies in <data_dir>/downloads/manual.
    """
    root = tfds_root()
    if root is None:
        raise RequestError(
            f"{name} is not in {data_dir} and tensorflow-datasets is not installed. "
            "Copy the cache folder (data.cache_dir) of a machine that has decoded it, "
            "or pass --config.data.data_dir=DIR"
        )
    urls = known_urls(name, root)
    manual = os.path.join(data_dir, "downloads", "manual")
    if any(os.path.exists(os.path.join(manual, os.path.basename(u))) for u in urls):
        return
    # One request, because a dataset's files nearly always share a host.
    reason = unreachable(urls[0], TIMEOUT) if urls else None
    if reason:
        host = urllib.parse.urlsplit(urls[0]).hostname
        raise RequestError(
            f"{name} is not in {data_dir} and {host} cannot be reached ({reason}). "
            "Prepare it on another machine and pass --config.data.data_dir=DIR"
        )


def tfds_root() -> str | None:
    """Returns the folder of tensorflow_datasets, without importing it, or None."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    return spec.submodule_search_locations[0] if spec else None


def known_urls(name: str, root: str) -> list[str]:
    """Returns the addresses in TFDS's checksum list of a dataset; [] without a list."""
    base = name.split("/")[0].split(":")[0]
    for path in (f"url_checksums/{base}.txt", f"datasets/{base}/checksums.tsv"):
        path = os.path.join(root, *path.split("/"))
        if os.path.isfile(path):
            with open(path) as f:
                return [line.split()[0] for line in f if line.startswith("http")]
    return []


def unreachable(url: str, timeout: float) -> str | None:
    """Returns why `url` cannot be fetched; None if its host answers in `timeout` s.

    Proxy variables are respected. The request runs in a thread, because name lookups
    and redirects are not covered by the socket's timeout.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "rsmatch_jax"})
    reason = f"no answer within {timeout:g} s"

    def ask():
        nonlocal reason
        try:
            with urllib.request.urlopen(request, timeout=timeout):
                reason = None  # the body stays unread
        except urllib.error.HTTPError as e:
            # A refusal comes from the host; an error of a gateway or a proxy does not.
            proxy = http.client.PROXY_AUTHENTICATION_REQUIRED
            answered = e.code < 500 and e.code != proxy
            reason = None if answered else f"HTTP {e.code}"
        except (OSError, http.client.HTTPException) as e:
            reason = str(getattr(e, "reason", e)) or type(e).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return reason
