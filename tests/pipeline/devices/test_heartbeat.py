"""A call that does not return names the hosts that do not respond: a hung process, and one that is gone."""

import concurrent.futures
import itertools
import queue
import socket
import threading
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


def test_only_a_live_server_responds(hosts):
    assert [heartbeat.responds(host, 1.0) for host in hosts] == [True, False, False]
    assert heartbeat.responds(f"grpc://{hosts[0]}") and not heartbeat.responds("no address")


def test_a_call_that_does_not_return_names_the_silent_hosts(hosts, monkeypatch):
    monkeypatch.setattr(heartbeat, "responds", lambda host, ask=heartbeat.responds: ask(host, 1.0))
    notes: queue.Queue[str] = queue.Queue()
    watch = heartbeat.Heartbeat(hosts, notes.put, min_seconds=0.5)
    with watch.watching("a loop of steps"):
        first, second = notes.get(timeout=60), notes.get(timeout=60)
    assert first.startswith("a loop of steps has not returned for 0 s (it is the first one): no answer from host 1 (")
    assert "host 0" not in first and f"host 2 ({hosts[2]})" in first and first.endswith("of 3")
    assert "has not returned for 1 s" in second


@pytest.fixture
def silence(monkeypatch):
    """Hosts are not really asked: none answers, at once."""
    monkeypatch.setattr(heartbeat, "responds", lambda host: False)


def test_short_calls_and_the_time_between_calls_are_let_be(silence):
    notes: queue.Queue[str] = queue.Queue()
    watch = heartbeat.Heartbeat(["a:1"], notes.put, min_seconds=0.5)
    for _ in range(3):
        with watch.watching("a loop of steps"):
            time.sleep(0.05)
    time.sleep(0.8)
    assert notes.empty()


def test_a_call_is_asked_about_when_it_takes_five_times_as_long_as_earlier_ones(silence):
    notes: queue.Queue[str] = queue.Queue()
    watch = heartbeat.Heartbeat(["a:1"], notes.put, min_seconds=0.2, compiling_seconds=60)
    with watch.watching("the first step", compiles=True):
        time.sleep(0.6)  # longer than min_seconds: it compiles
    with watch.watching("a loop of steps"):
        assert "a loop of steps has not returned for 0 s (it is the first one)" in notes.get(timeout=60)
        time.sleep(0.3)  # in all at least 0.5 s, so that the timeout of the next is 2.5 s
    while not notes.empty():
        notes.get()
    with watch.watching("a loop of steps"):
        time.sleep(0.8)
    assert notes.empty(), "it took less than five times as long as the one before"
    began = time.monotonic()
    with watch.watching("a loop of steps"):
        said = notes.get(timeout=60)
    assert time.monotonic() - began >= heartbeat.TIMES_LONGER * 0.8 and "the longest before took 1 s" in said


def test_what_compiles_is_waited_for_longer_the_first_time_only(silence):
    notes: queue.Queue[str] = queue.Queue()
    began = time.monotonic()
    with heartbeat.Heartbeat(["a:1"], notes.put, 0.1, compiling_seconds=0.6).watching("an evaluation", compiles=True):
        assert notes.get(timeout=60).startswith("an evaluation has not returned for 1 s")
    assert time.monotonic() - began >= 0.6
    watch = heartbeat.Heartbeat(["a:1"], notes.put, 0.1, compiling_seconds=60)
    with watch.watching("an evaluation", compiles=True):
        time.sleep(1.2)
    assert notes.empty()
    with watch.watching("an evaluation", compiles=True):  # as long as the first, not five times that
        said = notes.get(timeout=30)
    assert "has not returned for 1 s (the longest before took 1 s)" in said


def test_a_machine_of_its_own_is_not_watched():
    alone = heartbeat.Heartbeat([])
    with alone.guarded(pytest.fail), alone.watching("a loop of steps"):
        pass


def test_a_host_that_is_silent_again_and_again_is_lost_and_one_that_answers_between_is_not(monkeypatch):
    answers = {"a:1": itertools.repeat(True), "b:1": itertools.cycle([False] * 5 + [True]), "c:1": iter([True, True])}
    monkeypatch.setattr(heartbeat, "responds", lambda host: next(answers[host], False))
    monkeypatch.setattr(heartbeat, "ASK_SECONDS", 0.01)
    reasons: queue.Queue[str] = queue.Queue()
    with heartbeat.Heartbeat(list(answers)).guarded(reasons.put):
        assert reasons.get(timeout=60) == "host 2 (c:1) did not answer, asked 6 times, every 0.01 s"


def test_a_run_that_is_done_loses_no_host(monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(heartbeat, "responds", lambda host: asked.set())
    monkeypatch.setattr(heartbeat, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(heartbeat, "ASKS", 10)
    with heartbeat.Heartbeat(["a:1"]).guarded(pytest.fail):
        assert asked.wait(60)
    for thread in threading.enumerate():
        if thread.name == "guard":
            thread.join(60)
