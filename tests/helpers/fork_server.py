"""Runs commands as forks of a process that has imported TensorFlow, which costs each command half of its time.

    python tests/helpers/fork_server.py SOCKET CLIENT    # started by start() only

A fork begins where ``python -m MODULE`` begins, but for TensorFlow: nothing of this project has been imported. The peak
of a matrix multiply is a constant there: it takes a second to measure, and only scales a figure. A fork has the
streams, the environment, the folder and the signals of its client, and ends with it: whoever kills the client kills
the fork.
"""

import atexit
import contextlib
import gc
import json
import os
import pathlib
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from typing import Any

CLIENT = pathlib.Path(__file__).with_name("fork_client.py")
UNFORKED = {"pipeline.preflight.libtpu_process"}  # JAX's libraries must not meet TensorFlow's in one process


@contextlib.contextmanager
def start(folder: pathlib.Path) -> Iterator[str]:
    """Starts a server; yields the path of an executable to be used in place of Python: ``wait_for`` it."""
    address, client = folder / "socket", folder / "python"
    constants = f"SERVER, PYTHON, UNFORKED = {str(address)!r}, {sys.executable!r}, {UNFORKED!r}\n"
    client.write_text(f"#!{sys.executable} -IS\n{constants}{CLIENT.read_text()}")
    client.chmod(0o755)
    command = [sys.executable, __file__, address, client]
    with (
        open(folder / "stderr", "w") as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=said, start_new_session=True) as server,
    ):
        yield str(client)
        assert server.stdin
        server.stdin.close()  # which ends it


def wait_for(client: str) -> None:
    """Blocks until the server of an executable listens."""
    folder, deadline = pathlib.Path(client).parent, time.monotonic() + 300
    while not (folder / "socket").exists():
        assert time.monotonic() < deadline, f"the fork server has not started: {(folder / 'stderr').read_text()}"
        time.sleep(0.05)


def light(python: str, module: str) -> list[str]:
    """Returns a command that runs a module with Python itself, which starts others with ``python``."""
    code = f"import runpy, sys; sys.executable = {python!r}; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", code]


class _Server:
    def __init__(self, address: str, client: str) -> None:
        self._client = client
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{address}.new")
        self._listener.listen(64)
        os.rename(f"{address}.new", address)  # who sees it can connect
        self._forks: dict[socket.socket, int] = {}  # the process of each client's connection
        self._woken, wake = os.pipe()  # is written to when a fork has ended
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._descriptors = [self._listener.fileno(), self._woken, wake]

    def serve(self) -> None:
        """Answers until stdin is closed."""
        while True:
            ready, _, _ = select.select([sys.stdin, self._woken, self._listener, *self._forks], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
            for connection, pid in list(self._forks.items()):
                gone = sys.stdin in ready or connection in ready  # a client sends nothing more, so that is its end
                if gone:
                    os.kill(pid, signal.SIGKILL)
                ended, status = os.waitpid(pid, 0 if gone else os.WNOHANG)
                if ended:
                    del self._forks[connection]
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(struct.pack("i", status))
            if sys.stdin in ready:
                return
            if self._listener in ready:
                self._fork()

    def _fork(self) -> None:
        """Starts a command; clients that were killed before it was asked for have been seen, for they came first."""
        connection, _ = self._listener.accept()
        header, streams, _, _ = socket.recv_fds(connection, 4, 3)
        request = json.loads(connection.recv(*struct.unpack("i", header), socket.MSG_WAITALL))
        pid = os.fork()
        if pid == 0:
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (connection, *self._forks):
                    other.close()
                for descriptor in self._descriptors:
                    os.close(descriptor)
                _become(request, streams, self._client)
                code = _run(*request["argv"][:2])
            except BaseException:
                traceback.print_exc()
                code = 1
            finally:
                with contextlib.suppress(BaseException):
                    atexit._run_exitfuncs()
                    sys.stdout.flush()
                os._exit(code)
        for stream in streams:
            os.close(stream)
        self._forks[connection] = pid
        with contextlib.suppress(OSError):
            connection.sendall(struct.pack("i", pid))


def _become(request: dict[str, Any], streams: list[int], client: str) -> None:
    """Takes over what a process gets from the one that starts it."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if number in request["streams"]:
            os.dup2(streams[request["streams"].index(number)], number)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
        else:
            os.close(number)
            setattr(sys, name, None)
    for stream in streams:
        os.close(stream)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv, sys.executable = request["argv"][1:], client
    sys.path[:1] = [request["folder"], *filter(None, request["environ"].get("PYTHONPATH", "").split(os.pathsep))]


def _run(option: str, what: str) -> int:
    """Runs a module or code as ``python -m`` and ``python -c`` do, and returns the exit code."""
    peak = types.ModuleType("pipeline.devices.matmul_peak")
    peak.measure = lambda *_, **__: 1e11  # type: ignore[attr-defined]
    sys.modules[peak.__name__] = peak
    try:
        if option == "-m":
            runpy.run_module(what, None, "__main__", True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        code: Any = 0
    except SystemExit as ended:
        code = ended.code
    threading._shutdown()
    if isinstance(code, str):
        print(code, file=sys.stderr)
        return 1
    return code or 0


def main() -> None:
    address, client = sys.argv[1:]
    import gin
    import google.cloud.storage
    import keras
    import tensorflow
    import tensorflow_text

    assert all((gin, google.cloud.storage, keras.Model, tensorflow.keras, tensorflow_text))
    gc.collect()
    gc.freeze()
    gc.set_threshold(300_000, 20, 20)  # as tests/conftest.py does
    _Server(address, client).serve()


if __name__ == "__main__":
    main()
