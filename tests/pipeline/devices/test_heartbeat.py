"""A call that does not return has the silent host named: one whose process hangs, and one that is gone."""

import concurrent.futures
import queue
import socket
import time

import grpc
import pytest

from pipeline.devices import heartbeat


@pytest.fixture
def hosts():
    """A live gRPC server, a process that hangs (its kernel accepts connections, nobody answers), and none."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    live = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with socket.create_server(("127.0.0.1", 0)) as hung, socket.create_server(("127.0.0.1", 0)) as gone:
        addresses = [f"127.0.0.1:{there.getsockname()[1]}" for there in (hung, gone)]
        gone.close()
        yield [live, *addresses]
    server.stop(None)


def test_only_a_live_server_speaks(hosts):
    assert [heartbeat.speaks(host, 1.0) for host in hosts] == [True, False, False]
    assert heartbeat.speaks(f"grpc://{hosts[0]}") and not heartbeat.speaks("no address")


def test_a_call_that_does_not_return_names_the_silent_hosts(hosts, monkeypatch):
    monkeypatch.setattr(heartbeat, "speaks", lambda host, ask=heartbeat.speaks: ask(host, 1.0))
    notes: queue.Queue[str] = queue.Queue()
    watch = heartbeat.Heartbeat(hosts, notes.put, least_seconds=0.5)
    with watch.watching():
        first, second = notes.get(timeout=60), notes.get(timeout=60)
    assert first.startswith("a loop of steps has not returned for 0 s (it is the first one): no answer from host 1 (")
    assert "host 0" not in first and f"host 2 ({hosts[2]})" in first and first.endswith("of 3")
    assert "has not returned for 1 s" in second


def test_calls_as_long_as_usual_and_the_time_between_them_are_let_be(hosts):
    notes: queue.Queue[str] = queue.Queue()
    watch = heartbeat.Heartbeat(hosts, notes.put, least_seconds=30)
    for _ in range(3):
        with watch.watching():
            time.sleep(0.05)
    time.sleep(0.2)
    assert notes.empty()
    assert watch.state(60) and "the longest before took 0 s" in watch.state(60)


def test_a_machine_of_its_own_is_not_watched():
    with heartbeat.Heartbeat([]).watching():
        pass
