"""What Google's metadata server says of this machine, which is a Google Cloud VM or has no such server.

Light: standard library only. Format: https://cloud.google.com/compute/docs/metadata/overview.
"""

import http.client
import os
import urllib.request

SECONDS = 1.0  # a VM's server answers in milliseconds


def server() -> str:
    """Returns its HOST or HOST:PORT, which Google's own clients too let the environment replace."""
    return os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP") or "metadata.google.internal"


def attribute(name: str) -> str:
    """Returns an attribute of this VM, such as ``accelerator-type``, or an empty string where there is none."""
    return instance(f"attributes/{name}")


def instance(path: str) -> str:
    """Returns what the server says of this VM, such as its ``zone``, or an empty string where there is none."""
    url = f"http://{server()}/computeMetadata/v1/instance/{path}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would tell of its own machine
    try:
        with direct.open(request, timeout=SECONDS) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException, UnicodeDecodeError):
        return ""
