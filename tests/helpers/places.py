"""Paths of the project, and of the shared data beside it on the machines that test it."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
WIKITEXT = SHARED / "data" / "wikitext-2-raw"
