"""Reads Google's metadata server, which answers on Google Cloud VMs only.

Imports only the standard library. Format: https://cloud.google.com/compute/docs/metadata/overview.
"""

import http.client
import os
import urllib.request

SECONDS = 1.0  # a VM's server answers in milliseconds


def server() -> str:
    """Returns its HOST or HOST:PORT, which the environment can override as in Google's own clients."""
    return os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP") or "metadata.google.internal"


def attribute(name: str) -> str:
    """Returns an attribute of this VM, such as ``accelerator-type``, or an empty string if there is none."""
    return instance(f"attributes/{name}")


def instance(path: str) -> str:
    """Returns an entry for this VM, such as its ``zone``, or an empty string if there is none."""
    url = f"http://{server()}/computeMetadata/v1/instance/{path}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would describe its own machine
    try:
        with direct.open(request, timeout=SECONDS) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return ""
