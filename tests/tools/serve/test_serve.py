"""The small server: the text of pipeline.generate, limits, many clients, and a real browser."""

import concurrent.futures
import json
import math
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import httpx
import pytest
import tensorflow as tf

from models.decoding import generate
from models.sampling import Sampling
from pipeline.runs import trained_model
from tests.helpers.chromium import PATH, Chromium
from tests.helpers.places import ROOT

pytest.importorskip("starlette", reason="requirements-serve.txt is not installed")
PROMPT = "the cat sat on"


@pytest.fixture(scope="module")
def process(tiny_run_dir, python):
    """(server process, its address)."""
    command = [python, "-m", "tools.serve", f"--run_dir={tiny_run_dir}", "--port=0", "--waiting=20"]
    started = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    line = started.stdout.readline()
    assert " is on http://127.0.0.1:" in line
    yield started, line.split(" is on ")[1].strip()
    started.send_signal(signal.SIGINT)
    assert started.wait(30) in (0, 130)


@pytest.fixture(scope="module")
def url(process):
    return process[1]


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
        yield client


def expected(tiny_run_dir, count, sampling, seed=0):
    run = trained_model.load(str(tiny_run_dir))
    tokens = run.tokenizer.encode(PROMPT)
    end = run.tokenizer.end_of_text
    (generated,) = generate(run.model, [tokens], max_new_tokens=count, end_of_text=end, sampling=sampling, seed=seed)
    return run, generated


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.9, "top_k": 40, "top_p": 0.95}])
def test_the_text_is_that_of_generate_whole_and_streamed(client, tiny_run_dir, settings):
    run, generated = expected(tiny_run_dir, 20, Sampling(**settings), seed=5)
    body = {"prompt": PROMPT, "max_tokens": 20, "seed": 5, **settings}
    answer = client.post("/generate", json=body).json()
    assert answer["text"] == run.tokenizer.decode(generated)
    assert [token["id"] for token in answer["tokens"]] == generated
    with client.stream("POST", "/generate", json=body | {"stream": True}) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in streamed.iter_lines() if line]
    assert "".join(event["text"] for event in events) == answer["text"]
    assert [event["id"] for event in events[:-1]] == generated and events[-1]["end"] == answer["end"] == "length"
    for token in answer["tokens"]:
        shares = [other["probability"] for other in token["likeliest"]]
        assert shares == sorted(shares, reverse=True) and 0 < token["probability"] <= shares[0] < 1


def test_probabilities_and_scores_are_the_models(client, tiny_run_dir):
    run, generated = expected(tiny_run_dir, 5, Sampling(), seed=3)
    tokens = run.tokenizer.encode(PROMPT)
    rows = [run.tokenizer.end_of_text, *tokens, *generated]
    logs = tf.nn.log_softmax(run.model(tf.constant([rows[:-1]])))[0].numpy()
    logs = [float(logs[place, token]) for place, token in enumerate(rows[1:])]
    answer = client.post("/generate", json={"prompt": PROMPT, "max_tokens": 5, "seed": 3}).json()
    without = tf.nn.softmax(run.model(tf.constant([rows[1:-1]])))[0].numpy()
    for place, (token, served) in enumerate(zip(generated, answer["tokens"], strict=True), len(tokens) - 1):
        assert served["probability"] == pytest.approx(without[place, token], rel=1e-3)
    score = client.post("/score", json={"text": PROMPT}).json()
    nats = -sum(logs[: len(tokens)])
    assert score["tokens"] == len(tokens) and score["negative_log_likelihood"] == pytest.approx(nats, rel=1e-4)
    assert score["perplexity"] == pytest.approx(math.exp(nats / len(tokens)), rel=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/generate", b"{", 400, "not JSON"),
        ("/generate", b"[" * 50_000, 400, "not JSON"),
        ("/generate", b"\xff\xfe", 400, "not JSON"),
        ("/generate", b"[]", 400, "a list; expected a JSON object"),
        ("/generate", b'{"promt": "a"}', 400, "'promt' is unknown.*did you mean 'prompt'"),
        ("/generate", b"{}", 400, "prompt is empty"),
        ("/generate", b'{"prompt": 5}', 400, "prompt=5: expected a string"),
        ("/generate", b'{"prompt": "\\ud800"}', 400, "half of a surrogate pair"),
        ("/generate", json.dumps({"prompt": "the dog " * 40}).encode(), 400, "expected fewer than .* context of 48"),
        ("/generate", b'{"prompt": "a", "max_tokens": 0}', 400, "max_tokens=0: expected 1 to 1024"),
        ("/generate", b'{"prompt": "a", "max_tokens": true}', 400, "max_tokens=true: expected an integer"),
        ("/generate", b'{"prompt": "a", "temperature": -1}', 400, "temperature=-1.0: expected 0"),
        ("/generate", b'{"prompt": "a", "temperature": NaN}', 400, "NaN is not a JSON number"),
        ("/generate", b'{"prompt": "a", "top_p": 2}', 400, "top_p=2.0: expected"),
        ("/generate", b'{"prompt": "a", "seed": 99999999999}', 400, "seed=99999999999: expected at most"),
        ("/generate", b'{"prompt": "' + b"a" * 100_000 + b'"}', 413, "more than 65536 bytes"),
        ("/score", b'{"text": ""}', 400, "text is empty"),
        ("/score", json.dumps({"text": "the dog " * 40}).encode(), 400, "at most the model's context of 48"),
        ("/elsewhere", b"{}", 404, "expected GET /, POST /generate or POST /score"),
    ],
)
def test_bad_requests_are_refused_in_a_sentence(client, path, body, status, message):
    answer = client.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert re.search(message, answer.json()["error"])


def test_pages_from_elsewhere_can_neither_send_nor_read(client):
    json_type = {"content-type": "application/json"}
    assert client.post("/score", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.get("/", headers={"host": "rebound.example"}).status_code == 400
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    assert client.options("/score", headers=asked).status_code == 405
    answer = client.post("/score", content=b'{"text": "a"}', headers=json_type | {"origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_only_this_machine_can_reach_it(url):
    port = int(url.rstrip("/").rpartition(":")[2])
    with socket.socket() as other, pytest.raises(ConnectionRefusedError):
        other.connect(("127.0.0.2", port))  # loopback as well: who listens on every address would answer


def resident_bytes(process):
    fields = pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_sixteen_clients_at_once_get_answers_and_memory_is_bounded(process):
    server, url = process
    answers = load(url, clients=16, seconds=2)
    before = resident_bytes(server)
    answers += load(url, clients=16, seconds=6)
    assert len(answers) > 32 and set(answers) == {200}
    assert resident_bytes(server) - before < 64 << 20


def load(url, *, clients, seconds):
    """Has clients ask one thing after the other, streamed, whole and scored by turns; returns the status codes."""
    end = time.monotonic() + seconds

    def ask(number):
        codes = []
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            while time.monotonic() < end or not codes:
                text = "the dog sat " * (1 + len(codes) % 3) + "é" * (number % 3)
                if len(codes) % 4 == 3:
                    codes.append(client.post("/score", json={"text": text}).status_code)
                else:
                    body = {"prompt": text, "max_tokens": 1 + number, "seed": len(codes), "stream": number % 2 == 0}
                    codes.append(client.post("/generate", json=body).status_code)
        return codes

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        return [code for codes in pool.map(ask, range(clients)) for code in codes]


@pytest.mark.slow
@pytest.mark.skipif(PATH is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(url, tiny_run_dir, tmp_path):
    run, generated = expected(tiny_run_dir, 12, Sampling(temperature=0))
    with Chromium(str(tmp_path / "profile")) as browser:
        browser.screen(1000, 800, dark=False)
        browser.open(url)
        browser.run(f"at('prompt').value = {PROMPT!r}; at('max_tokens').value = 12; at('temperature').value = 0; 0")
        browser.run("at('go').click()")
        browser.until("at('status').textContent.includes('as many as were asked for')")
        assert browser.run("at('text').textContent") == PROMPT + run.tokenizer.decode(generated)
        assert browser.run("document.querySelectorAll('#text [role=button]').length") == 12
        title, facts = browser.run("document.title"), browser.run("document.querySelector('.note').innerText")
        assert title.startswith("tiny_run") and all(fact in facts for fact in ("ALGPT2", "step 3", f"{tiny_run_dir}"))
        browser.run("document.querySelector('#text [role=button]').click()")
        assert browser.run("at('others').innerText").count("%") >= 5
        browser.run("at('prompt').value = '<img src=x onerror=alert(1)>'; at('go').click()")
        browser.until("at('text').textContent.startsWith('<img')")
        assert browser.run("document.images.length") == 0
        browser.until("!at('go').disabled")
        browser.run("at('prompt').value = 'the dog '.repeat(40); at('go').click()")
        browser.until("at('status').classList.contains('error')")
        assert "expected fewer than the model's context of 48" in browser.run("at('status').textContent")
        browser.run("at('prompt').value = 'the cat sat'; at('score').click()")
        browser.until("at('scored').textContent.includes('perplexity')")
        assert "of 48" in browser.run("at('status').textContent"), "the score has a line of its own"
        step = "{token: '\\n', id: 1, text: 'one\\ntwo', probability: 0.5, likeliest: []}"
        browser.run(f"at('text').replaceChildren(); add({step}); add({step}); 0")
        assert browser.run("at('text').innerText") == "one\ntwoone\ntwo"
        assert browser.run("document.querySelectorAll('#text [role=button]')[1].getClientRects().length") == 2, (
            "a token's line break breaks the line"
        )
        pieces = [
            "class Queue",
            ":\n",
            "    ",
            "def",
            " put(self",
            ", item):\n",
            "        ",
            "self.items.append(item)\n",
        ]
        likely = [{"text": piece, "token": piece, "id": 1, "likeliest": []} for piece in pieces]
        steps = json.dumps([step | {"probability": 0.9 - 0.11 * place} for place, step in enumerate(likely)])
        browser.run(f"at('text').replaceChildren(); {steps}.forEach(add); 0")
        assert browser.run("at('text').innerText") == "".join(pieces), "code keeps its lines and its indentation"
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            browser.screen(width, 800, dark=dark)
            assert browser.run("document.documentElement.scrollWidth <= innerWidth"), (
                "the page is wider than the screen"
            )
            picture = browser.screenshot()
            assert picture.startswith(b"\x89PNG")
            (tmp_path / f"page-{width}-{'dark' if dark else 'light'}.png").write_bytes(picture)
            channel = browser.run("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/)[0]")
            assert (int(channel) < 80) == dark
