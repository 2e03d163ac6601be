"""Checks of a host's installation: versions against requirements-tpu.txt, the clock, access to the bucket."""

import platform
import re
from collections.abc import Iterator

from pipeline import storage
from pipeline.devices import wheels
from pipeline.errors import UserError
from tools.doctor import ROOT, pins

PACKAGES = ("tensorflow-tpu", "libtpu", "tensorflow-text")
PYTHON = "3.11"


def expected() -> dict[str, str]:
    """Returns the versions in requirements-tpu.txt, including tensorflow-text's, which is in a comment."""
    file = ROOT / "requirements-tpu.txt"
    text = re.search(r"tensorflow-text==(\S+)", file.read_text(encoding="utf-8"))
    return pins(file) | ({"tensorflow-text": text[1]} if text else {})


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that matter here."""
    return {"Python": platform.python_version()} | {name: wheels.installed(name) or "none" for name in PACKAGES}


def faults(bucket: str | None) -> Iterator[str]:
    """Yields a sentence for each thing that is wrong."""
    found, wanted = versions(), expected()
    if not found["Python"].startswith(f"{PYTHON}."):
        yield f"Python is {found['Python']}; expected {PYTHON}"
    for name in PACKAGES:
        if found[name] != wanted[name]:
            yield f"{name} is {found[name]}; expected {wanted[name]}"
    if bucket:
        try:
            storage.check_writable(bucket)
            storage.is_empty(bucket)
        except (UserError, OSError) as error:
            yield f"{bucket}: {error}; the hosts' service account needs roles/storage.objectAdmin on it"
