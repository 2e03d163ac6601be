"""Figures that take hours to measure, in a JSON file: a broken file is rejected early, and writing is atomic."""

import json
import os
import pathlib
from typing import Any

from pipeline import storage
from pipeline.errors import UserError


def load(file: pathlib.Path) -> dict[str, Any]:
    """Returns a file's figures, none if it does not exist.

    Raises:
        UserError: it is not a JSON object, or could not be written later.
    """
    storage.check_file(os.fspath(file))
    try:
        figures = json.loads(file.read_bytes()) if file.exists() else {}
    except ValueError as error:  # of JSON and of UTF-8
        raise UserError(f"{file} is not JSON ({error}); mend it, or name another file") from None
    if not isinstance(figures, dict):
        raise UserError(f"{file} holds no JSON object; expected the figures that were measured before")
    return figures


def require_model(figures: dict[str, Any], file: pathlib.Path, model: str) -> None:
    """Raises UserError, before hours of measuring, if the figures, by slice and attention, have another model."""
    for name, of_slice in figures.items():
        for attention, row in of_slice.items():
            if row["model"] != model:
                raise UserError(
                    f"{file} holds {name}, {attention} of {row['model']}, and this is {model}: name another file"
                )


def save(file: pathlib.Path, figures: dict[str, Any]) -> None:
    """Replaces the file in one step: a kill leaves the old figures or the new ones."""
    storage.replace_bytes((json.dumps(figures, indent=1, sort_keys=True) + "\n").encode(), os.fspath(file))
