"""The sinks of a run's figures, one module each."""

from typing import Any


class Sink:
    """Keeps nothing; a sink overrides what it keeps."""

    def write(self, record: dict[str, Any]) -> None:
        """Keeps a flat record of numbers, one of which is ``step``."""

    def text(self, name: str, text: str, step: int) -> None:
        """Keeps a text of a step."""

    def close(self, summary: dict[str, Any] | None) -> None:
        """Ends this process's records; ``summary`` is that of a finished run."""
