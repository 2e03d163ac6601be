"""Runs ``-m MODULE ARGUMENTS`` and ``-c CODE ARGUMENTS`` as a fork of a fork server, all else with Python itself.

The body of the script that fork_server.py writes, which sets SERVER (its socket), PYTHON and UNFORKED.
"""

import json
import os
import signal
import socket
import struct
import sys

SERVER, PYTHON, UNFORKED = globals()["SERVER"], globals()["PYTHON"], globals()["UNFORKED"]
FORWARDED = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def _opened() -> list[int]:
    """Returns those of the three standard streams that are open."""
    numbers = []
    for number in range(3):
        try:
            os.fstat(number)
            numbers.append(number)
        except OSError:
            pass
    return numbers


def _read(connection: socket.socket) -> int:
    data = connection.recv(4, socket.MSG_WAITALL)
    if len(data) < 4:
        sys.exit("the fork server is gone")
    return struct.unpack("i", data)[0]


def main() -> None:
    # What multiprocessing starts inherits descriptors, which a fork of the server has not.
    if sys.argv[1] not in ("-m", "-c") or UNFORKED & set(sys.argv[2:]) or "multiprocessing" in sys.argv[2]:
        os.execv(PYTHON, [PYTHON, *sys.argv[1:]])
    streams = _opened()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SERVER)
        ignored = [number for number in FORWARDED if signal.getsignal(number) == signal.SIG_IGN]
        request = {
            "argv": sys.argv[1:],
            "environ": dict(os.environ),
            "folder": os.getcwd(),
            "ignored": ignored,
            "streams": streams,
        }
        data = json.dumps(request).encode()
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        socket.send_fds(connection, [struct.pack("i", len(data))], streams)
        connection.sendall(data)
        pid = _read(connection)
        for number in FORWARDED.difference(ignored):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        code = os.waitstatus_to_exitcode(_read(connection))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
