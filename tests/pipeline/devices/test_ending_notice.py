"""The notice that a VM of Google Cloud is about to end, against a metadata server on loopback."""

import contextlib
import threading

import pytest

from pipeline.devices import ending_notice, metadata

CALM = {"maintenance-event": "NONE", "preempted": "FALSE"}
ENDS = {
    "maintenance-event": "Google Cloud stops this machine for maintenance (instance/maintenance-event: "
    "TERMINATE_ON_HOST_MAINTENANCE)",
    "preempted": "Google Cloud has preempted this machine (instance/preempted: TRUE)",
}
WAIT = 60  # seconds at most, for what takes a moment


def watchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("notice of ")]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Short pauses, and no thread left to another test."""
    monkeypatch.setattr(ending_notice, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(ending_notice, "POLL_SECONDS", 1)
    yield
    for thread in watchers():
        thread.join(WAIT)
        assert not thread.is_alive()


@contextlib.contextmanager
def told():
    """What is told inside the block, and a function that waits for it."""
    sentences, came = [], threading.Event()
    with ending_notice.watched(lambda sentence: (sentences.append(sentence), came.set())):
        yield sentences, lambda: came.wait(WAIT)


@pytest.mark.parametrize("path", ENDS)
def test_the_end_of_this_machine_is_told_once(metadata_server, path):
    metadata_server.say(CALM)
    with told() as (sentences, came):
        metadata_server.wait_until_asked(4)  # what is, and then a change of it, of both
        assert not sentences
        metadata_server.say({path: ending_notice.ENDS[path]})
        assert came() and sentences == [ENDS[path]]


def test_a_migration_is_no_end(metadata_server):
    metadata_server.say(CALM)
    with told() as (sentences, came):
        metadata_server.wait_until_asked(4)
        metadata_server.say({"maintenance-event": "MIGRATE_ON_HOST_MAINTENANCE"})
        metadata_server.wait_until_asked(8)
        metadata_server.say({"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
        assert came() and sentences == [ENDS["maintenance-event"]]


def test_a_run_that_starts_in_the_hour_before_maintenance_trains(metadata_server, capfd):
    """A GPU's machine keeps the notice for an hour, in which a supervisor would start the run again and again."""
    metadata_server.say(CALM | {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
    with told() as (sentences, came):
        metadata_server.wait_until_asked(6)
        assert not sentences
        metadata_server.say({"maintenance-event": "NONE"})  # it is over, the machine still the same
        metadata_server.wait_until_asked(10)
        metadata_server.say({"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE"})
        assert came() and sentences == [ENDS["maintenance-event"]]
    assert capfd.readouterr().err.count("note: Google Cloud stops this machine for maintenance within the hour") == 1


def test_a_machine_that_is_preempted_already_ends_the_run(metadata_server):
    metadata_server.say(CALM | {"preempted": "TRUE"})
    with told() as (sentences, came):
        assert came() and sentences == [ENDS["preempted"]]


@pytest.mark.parametrize(
    ("product", "expected"),
    [("Google", True), ("Google Compute Engine\n", True), ("Precision 5570", False), (None, False)],
)
def test_the_machine_itself_says_whether_to_ask(tmp_path, monkeypatch, product, expected):
    for variable in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(metadata, "PRODUCT_NAME", tmp_path / "product_name")
    if product:
        (tmp_path / "product_name").write_text(product)
    assert metadata.is_expected() == expected
    monkeypatch.setattr(metadata, "entry", lambda path: None)
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    with told():
        assert len(started) == 2 * expected


@pytest.mark.parametrize("where", ["nowhere", "without these entries"])
def test_a_server_that_does_not_answer_at_first_is_left_alone(where, metadata_server, closed, monkeypatch):
    if where == "nowhere":
        monkeypatch.setenv("GCE_METADATA_HOST", closed)
    with told() as (sentences, _):
        for thread in watchers():
            thread.join(WAIT)
            assert not thread.is_alive()
        assert not sentences and len(metadata_server.asked) == (0 if where == "nowhere" else 2)


def test_a_server_that_falls_silent_is_asked_again_and_never_waited_for(metadata_server):
    metadata_server.say(CALM)
    with told() as (sentences, came):
        metadata_server.wait_until_asked(4)
        metadata_server.fall_silent()
        metadata_server.wait_until_asked(6)  # after no answer
        metadata_server.fall_silent(None)
        metadata_server.say({"preempted": "TRUE"})
        assert came() and sentences == [ENDS["preempted"]]
    metadata_server.say(CALM)
    before = len(metadata_server.asked)
    with told() as (sentences, _):
        metadata_server.wait_until_asked(before + 4)
        metadata_server.fall_silent()
    left = watchers()
    assert left, "the block ends while the server is still being asked"
    metadata_server.say({"preempted": "TRUE"})
    metadata_server.fall_silent(None)
    for thread in left:
        thread.join(WAIT)
    assert not sentences, "a notice after the block is not told"
