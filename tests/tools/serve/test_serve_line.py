"""The line before the small server's one worker: who comes too late is told so, and who leaves makes room."""

import contextlib
import socket
import threading
import time

import httpx
import pytest

from pipeline.runs import trained_model
from tests.helpers import tiny_run

pytest.importorskip("starlette", reason="requirements-serve.txt is not installed")


@pytest.fixture
def slow_server(tmp_path):
    """(a server whose texts never end, its address), with one place in the line."""
    import uvicorn

    from tools.serve.app import Server

    class Slow(Server):
        def _steps(self, *_):
            while True:
                time.sleep(0.01)
                yield {"text": "a", "id": 1, "token": "a", "probability": 0.5, "likeliest": []}

    tiny_run.write(tmp_path)
    loaded = trained_model.load(str(tmp_path))
    server = Slow(loaded, hosts=["127.0.0.1"], most_tokens=40, most_bytes=1000, waiting=1)
    listener = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(server.app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]})
    thread.start()
    yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
    runner.should_exit = True
    thread.join()


def wait_until(condition):
    while not condition():
        time.sleep(0.05)


def test_a_full_line_refuses_and_who_leaves_makes_room(slow_server):
    server, url = slow_server
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client, contextlib.ExitStack() as leaving:
        body = {"prompt": "a", "stream": True, "max_tokens": 40}
        worked_on = leaving.enter_context(client.stream("POST", "/generate", json=body))
        lines = worked_on.iter_lines()  # held, for what is left of it would be closed
        next(lines)
        leaving.enter_context(client.stream("POST", "/generate", json=body))  # waits
        refused = client.post("/generate", json=body)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert server.worker.open == 2
        leaving.close()
        wait_until(lambda: server.worker.open == 0)
        whole = threading.Thread(target=leave_early, args=(url, body | {"stream": False}))
        whole.start()
        wait_until(lambda: server.worker.open == 1)
        whole.join()
        wait_until(lambda: server.worker.open == 0)


def leave_early(url, body):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/generate", json=body, timeout=1, trust_env=False)
