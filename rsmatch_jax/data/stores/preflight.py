"""Checks soon whether a download can work, which offline TFDS tries for minutes."""

import http.client
import importlib.util
import os
import pathlib
import shlex
import threading
import urllib.error
import urllib.parse
import urllib.request

from rsmatch_jax.errors import RequestError

TIMEOUT = 10.0  # seconds
_IMPORTED = "tiny_imagenet"  # no dataset of TFDS: made by a layout of import_images


def check_download(name: str, data_dir: str, *, allowed: bool = True):
    """Raises RequestError if a download is not allowed (data.download), or TFDS lacks
    the dataset, is not installed or cannot reach the files.

    A dataset passes if TFDS lists no addresses of it, or its archive lies in
    <data_dir>/downloads/manual.
    """
    if (base := _base(name)) == _IMPORTED:
        out = shlex.quote(os.path.join(data_dir, base, "1.0.0"))
        raise RequestError(
            f"{base} is not in {data_dir}, and TFDS has no such dataset: fetch "
            "tiny-imagenet-200.zip and run rsmatch import "
            f"--layout={base} --source=ZIP --out={out}"
        )
    if not allowed:
        raise RequestError(
            f"{name} is not in {data_dir}, data.download is False: prepare it on "
            "another machine and pass --config.data.data_dir=DIR"
        )
    root = tfds_root()
    if root is None:
        raise RequestError(
            f"{name} is not in {data_dir}, tensorflow-datasets is not installed; pass "
            "--config.data.data_dir=DIR or data.cache_dir of a machine that decoded it"
        )
    urls = known_urls(name, root)
    manual = pathlib.Path(data_dir, "downloads", "manual")
    if any((manual / os.path.basename(url)).exists() for url in urls):
        return
    # One request, because a dataset's files nearly always share a host.
    if urls and (reason := unreachable(urls[0], TIMEOUT)):
        host = urllib.parse.urlsplit(urls[0]).hostname
        raise RequestError(
            f"{name} is not in {data_dir} and {host} cannot be reached ({reason}). "
            "Prepare it on another machine and pass --config.data.data_dir=DIR"
        )


def tfds_root() -> str | None:
    """Returns the folder of tensorflow_datasets, without importing it, or None."""
    spec = importlib.util.find_spec("tensorflow_datasets")
    return next(iter(spec and spec.submodule_search_locations or ()), None)


def _base(name: str) -> str:
    return name.split("/")[0].split(":")[0]


def known_urls(name: str, root: str) -> list[str]:
    """Returns the addresses in TFDS's checksum list of a dataset; [] without a list."""
    base = _base(name)
    for file in (f"url_checksums/{base}.txt", f"datasets/{base}/checksums.tsv"):
        path = pathlib.Path(root, file)
        if path.is_file():
            lines = path.read_text().splitlines()
            return [line.split()[0] for line in lines if line.startswith("http")]
    return []


def unreachable(url: str, timeout: float) -> str | None:
    """Returns why `url` cannot be fetched; None if its host answers in `timeout` s."""
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
            reason = f"HTTP {e.code}" if e.code >= 500 or e.code == proxy else None
        except (OSError, http.client.HTTPException) as e:
            reason = str(getattr(e, "reason", e)) or type(e).__name__

    # The socket's timeout does not cover name lookups and redirects.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return reason
