"""The sinks of a run's figures, one module each."""

from collections.abc import Sequence
from typing import Any


class Sink:
    """Keeps nothing; each sink overrides what it keeps."""

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Keeps flat records of numbers, including ``step`` and perhaps ``time``, in Unix seconds."""

    def text(self, name: str, text: str, step: int) -> None:
        """Keeps a text of a step."""

    def close(self, summary: dict[str, Any] | None) -> None:
        """Ends this process's records; ``summary`` is that of a finished run."""
