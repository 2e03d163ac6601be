"""Published corpora by name, for machines with a network: downloaded once, checked by sha256, kept in a cache."""

import hashlib
import os
import sys
import urllib.error
import urllib.request

from pipeline import storage
from pipeline.errors import UserError

SECONDS = 30  # of silence before a connection is given up

FOLDERS = ("https://s3.amazonaws.com/research.metamind.io/wikitext/", "https://wikitext.smerity.com/")
SHA256 = {  # of NAME-raw-v1.zip, in each folder
    "wikitext-2": "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    "wikitext-103": "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
}


def cache_folder() -> str:
    """Where downloads are kept: under XDG_CACHE_HOME, by default ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "gpt2-tpu-pipeline")


def published(name: str) -> str:
    """Returns the local path of a published corpus, downloading it if the cache has none.

    Raises:
        UserError: it is unknown, cannot be downloaded, or has another sha256.
    """
    if name not in SHA256:
        raise UserError(f"corpus {name!r} needs --source: only {', '.join(SHA256)} can be downloaded by name")
    file, sha256 = f"{name}-raw-v1.zip", SHA256[name]
    path = os.path.join(cache_folder(), file)
    if os.path.isfile(path) and _sha256(path) == sha256:
        return path
    os.makedirs(cache_folder(), exist_ok=True)
    reasons = []
    for address in (folder + file for folder in FOLDERS):
        print(f"downloading {address}", file=sys.stderr)
        try:
            _download(address, path, sha256)
        except (OSError, UserError) as error:
            reasons.append(f"{address}: {getattr(error, 'reason', None) or error}")
        else:
            return path
    raise UserError(f"{name} cannot be downloaded ({'; '.join(reasons)}): give its folder or zip file with --source")


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(address: str, path: str, sha256: str) -> None:
    """Downloads to a temporary file and renames it only if the sha256 is right."""
    with (
        urllib.request.urlopen(address, timeout=SECONDS) as reply,
        storage.partial_file(os.path.dirname(path)) as file,
    ):
        while data := reply.read(1 << 20):
            file.write(data)
        file.flush()
        if (digest := _sha256(file.name)) != sha256:
            raise UserError(f"has sha256 {digest} instead of {sha256}")
        os.replace(file.name, path)
