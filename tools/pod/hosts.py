"""All hosts of a slice at once: one gcloud each, in parallel."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tools.pod import commands, gcloud
from tools.pod.request import Request

Hear = Callable[[int, str], None]  # is told a host and a line of its
AT_ONCE = 16  # each gcloud is a Python process of some 100 MB


@dataclass
class Outcome:
    """What a command did on a host: its exit code and its last lines."""

    host: int
    code: int
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)


def each(hosts: Iterable[int], work: Callable[[int], Outcome]) -> list[Outcome]:
    """Does the same for each host, in parallel."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, hosts))


def one(request: Request, host: int, command: str, hear: Hear = lambda host, line: None) -> Outcome:
    """Runs a shell command on a host."""
    return Outcome(host, *gcloud.lines(commands.ssh(request, host, command), lambda line: hear(host, line)))


def ssh(request: Request, hosts: Iterable[int], command: str, hear: Hear = lambda host, line: None) -> list[Outcome]:
    """Runs the same shell command on each host."""
    return each(hosts, lambda host: one(request, host, command, hear))


def greet(request: Request) -> Outcome:
    """Connects to host 0 alone: the first connection makes an ssh key, which sixteen at once would make sixteen of."""
    return one(request, 0, "true")
