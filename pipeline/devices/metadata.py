"""Reads Google's metadata server, which answers only on Google Cloud VMs.

Imports only the standard library. Format: https://cloud.google.com/compute/docs/metadata/overview, and for waiting
https://cloud.google.com/compute/docs/metadata/querying-metadata.
"""

import http.client
import os
import pathlib
import urllib.parse
import urllib.request
from typing import NamedTuple

SECONDS = 1.0  # a VM's server answers in milliseconds
PRODUCT_NAME = pathlib.Path("/sys/class/dmi/id/product_name")


class Entry(NamedTuple):
    """An entry of the server: its value, and a tag that changes with the value."""

    value: str
    etag: str


def server() -> str:
    """Returns its HOST or HOST:PORT; the environment can override it, as in Google's own clients."""
    return _named_by_environment() or "metadata.google.internal"


def is_expected() -> bool:
    """Whether this is likely a Google Cloud VM, judged by the machine alone, without any request or wait.

    Its firmware says "Google" or "Google Compute Engine", which Google's own clients check too.
    """
    if _named_by_environment():
        return True
    try:
        return PRODUCT_NAME.read_text(encoding="utf-8").startswith("Google")
    except (OSError, UnicodeDecodeError):
        return False


def attribute(name: str) -> str:
    """Returns an attribute of this VM (``accelerator-type``), or an empty string if there is none."""
    return instance(f"attributes/{name}")


def instance(path: str) -> str:
    """Returns an entry for this VM (its ``zone``), or an empty string if there is none."""
    found = entry(path)
    return found.value if found else ""


def zone() -> str:
    """Returns this VM's zone, as ``us-central1-a``, or an empty string if no server answers."""
    return instance("zone").rpartition("/")[2]  # projects/NUMBER/zones/us-central1-a


def entry(path: str) -> Entry | None:
    """Returns an entry for this VM with its tag, or None if there is none or no server answers."""
    return _get(path, SECONDS)


def next_entry(path: str, before: Entry, seconds: float) -> Entry | None:
    """Returns an entry once it differs from ``before``, or after ``seconds``; None if no server answers."""
    wait = {"wait_for_change": "true", "timeout_sec": f"{seconds:.0f}", "last_etag": before.etag}
    return _get(f"{path}?{urllib.parse.urlencode(wait)}", seconds + SECONDS)


def _get(path: str, seconds: float) -> Entry | None:
    url = f"http://{server()}/computeMetadata/v1/instance/{path}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would describe its own machine
    try:
        with direct.open(request, timeout=seconds) as answer:
            return Entry(answer.read().decode(), answer.headers.get("ETag", ""))
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return None


def _named_by_environment() -> str:
    return os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP") or ""
