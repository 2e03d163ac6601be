"""All hosts of a slice at once: one gcloud each, in parallel."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tools.pod import commands, gcloud
from tools.pod.request import Request

Hear = Callable[[int, str], None]  # gets a host and one of its lines
AT_ONCE = 16  # each gcloud is a Python process of some 100 MB


@dataclass
class Outcome:
    """The result of a command on a host: its exit code and its last lines."""

    host: int
    code: int
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def each(hosts: Iterable[int], work: Callable[[int], Outcome]) -> list[Outcome]:
    """Calls a function for each host, in parallel."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, hosts))


def one(request: Request, host: int, command: str, hear: Hear = lambda host, line: None) -> Outcome:
    """Runs a shell command on a host."""
    return Outcome(host, *gcloud.lines(commands.ssh(request, host, command), lambda line: hear(host, line)))


def ssh(request: Request, hosts: Iterable[int], command: str, hear: Hear = lambda host, line: None) -> list[Outcome]:
    """Runs the same shell command on each host."""
    return each(hosts, lambda host: one(request, host, command, hear))


def greet(request: Request) -> Outcome:
    """Connects to host 0 alone: the first connection makes an ssh key; sixteen at once would make sixteen."""
    return one(request, 0, "true")
