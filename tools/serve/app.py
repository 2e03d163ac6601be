"""The small server: a page to type into, POST /generate and POST /score, with limits on all client input.

Rejections are JSON, {"error": "one sentence"}: 400 for a wrong value, 408 for a body that does not arrive, 413 for one
that is too large, 415 for another content type (a form on a foreign page could send those unasked), 503 if too many
requests wait. There are no CORS headers, and other Host names are rejected, so no foreign page can read from this
server, not even through a name that it points to 127.0.0.1.
"""

import asyncio
import base64
import contextlib
import hashlib
import html
import json
import math
import pathlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import tensorflow as tf
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from models.sampling import Sampling
from pipeline.runs.trained_model import TrainedModel
from pipeline.serving.signatures import TextModel
from pipeline.serving.stream import Stepper
from tools.serve import request_parser
from tools.serve.request_parser import BadRequestError
from tools.serve.worker import BusyError, Job, Worker

BODY_SECONDS = 10  # for a request's body to arrive
POLL_SECONDS = 0.5  # between checks that a waiting client is still connected
RETRY_SECONDS = 5
REPLACEMENT = "\ufffd"


class Server:
    """A trained run behind HTTP.

    Requests may use the host names in ``hosts``, ask for ``most_tokens`` new tokens and send ``most_bytes``;
    ``waiting`` requests may wait while one runs.
    """

    def __init__(self, run: TrainedModel, *, hosts: Sequence[str], most_tokens: int, most_bytes: int, waiting: int):
        self._run, self._most_tokens, self._most_bytes = run, most_tokens, most_bytes
        self._text_model = TextModel(run.model, run.tokenizer)
        self._stepper = Stepper(run.model, self._text_model.widths)
        self._page, self._policy = _page(run)
        self.worker = Worker(waiting)
        routes = [
            Route("/", self._show),
            Route("/generate", self._generate, methods=["POST"]),
            Route("/score", self._score, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
            exception_handlers={BadRequestError: _refuse, BusyError: _busy, HTTPException: _no_such_page},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        yield
        self.worker.stop()

    async def _show(self, _request: Request) -> Response:
        return HTMLResponse(self._page, headers={"content-security-policy": self._policy})

    async def _generate(self, request: Request) -> Response:
        usual = min(request_parser.GENERATE["max_tokens"], self._most_tokens)
        asked = await self._read(request, request_parser.GENERATE | {"max_tokens": usual})
        if isinstance(asked, Response):
            return asked
        try:
            sampling = Sampling(**{key: asked[key] for key in ("temperature", "top_k", "top_p")})
        except ValueError as error:
            raise BadRequestError(str(error)) from None
        if not 1 <= asked["max_tokens"] <= self._most_tokens:
            raise BadRequestError(f"max_tokens={asked['max_tokens']}: expected 1 to {self._most_tokens}")
        prompt, context = self._run.tokenizer.encode(asked["prompt"]), self._run.model.config.context
        if len(prompt) >= context:
            raise BadRequestError(
                f"the prompt has {len(prompt)} tokens; expected fewer than the model's context of {context}"
            )
        new_tokens = min(asked["max_tokens"], context - len(prompt))
        job = self.worker.submit(lambda: self._steps(prompt, new_tokens, sampling, asked["seed"]))
        if asked["stream"]:
            events = _events(_while_connected(request, job))
            return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        steps = [step async for step in _while_connected(request, job)]
        text = "".join(step["text"] for step in steps)
        tokens = [{key: step[key] for key in ("id", "token", "probability", "likeliest")} for step in steps[:-1]]
        return JSONResponse({"text": text, "tokens": tokens, "end": steps[-1]["end"] if steps else "client"})

    def _steps(self, prompt: list[int], new_tokens: int, sampling: Sampling, seed: int) -> Iterator[dict[str, Any]]:
        """Yields each token with the text that it completes, and finally why there are no more."""
        tokenizer, tokens, shown = self._run.tokenizer, list[int](), 0
        steps = self._stepper.steps(
            prompt, max_new_tokens=new_tokens, end_of_text=tokenizer.end_of_text, sampling=sampling, seed=seed
        )
        text = ""
        for step in steps:
            tokens.append(step.token)
            text = tokenizer.decode(tokens)
            whole = len(text.rstrip(REPLACEMENT))  # a character may take several tokens
            yield {
                "text": text[shown:whole],
                **self._named(step.token, step.probability),
                "likeliest": [self._named(token, probability) for token, probability in step.likeliest],
            }
            shown = max(shown, whole)
        yield {"text": text[shown:], "end": "length" if len(tokens) == new_tokens else "end of text"}

    def _named(self, token: int, probability: float) -> dict[str, Any]:
        return {"id": token, "token": self._run.tokenizer.decode([token]), "probability": probability}

    async def _score(self, request: Request) -> Response:
        asked = await self._read(request, request_parser.SCORE)
        if isinstance(asked, Response):
            return asked
        count, context = len(self._run.tokenizer.encode(asked["text"])), self._run.model.config.context
        if count > context:
            raise BadRequestError(f"the text has {count} tokens; expected at most the model's context of {context}")
        job = self.worker.submit(lambda: iter([self._text_model.score(tf.constant([asked["text"]]))]))
        async for scores in _while_connected(request, job):
            values = {key: value.numpy().tolist()[0] for key, value in scores.items()}
            return JSONResponse({key: value if math.isfinite(value) else None for key, value in values.items()})
        return Response(status_code=499)  # the client has disconnected

    async def _read(self, request: Request, known: dict[str, Any]) -> dict[str, Any] | Response:
        """Returns the checked JSON of a request's body, or a refusal."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return _error(415, f"content-type {kind[:40]!r}: expected application/json")
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._most_bytes:
                        message = f"the body has more than {self._most_bytes} bytes; expected a shorter text"
                        return _error(413, message, {"connection": "close"})
        except TimeoutError:
            return _error(408, f"the body did not come within {BODY_SECONDS} s", {"connection": "close"})
        except ClientDisconnect:
            return Response(status_code=499)
        return request_parser.parse(bytes(body), known)


async def _while_connected(request: Request, job: Job) -> AsyncGenerator[Any, None]:
    """Yields a job's results until its client disconnects, which closes the job."""

    async def watch() -> None:
        while not await request.is_disconnected():
            await asyncio.sleep(POLL_SECONDS)
        job.close()

    watcher = asyncio.create_task(watch())
    try:
        async with contextlib.aclosing(job.results()) as results:
            async for result in results:
                yield result
    finally:
        watcher.cancel()


async def _events(steps: AsyncGenerator[Any, None]) -> AsyncIterator[str]:
    async with contextlib.aclosing(steps) as open_steps:
        async for step in open_steps:
            yield f"data: {json.dumps(step)}\n\n"


def _page(run: TrainedModel) -> tuple[str, str]:
    """Returns the page and the Content-Security-Policy that allows only its own scripts and styles."""
    text = (pathlib.Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    hashes = {
        part: " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
            for content in re.findall(rf"<{part}>(.*?)</{part}>", text, re.DOTALL)
        )
        for part in ("style", "script")
    }
    rules = [f"{part}-src {allowed}" for part, allowed in hashes.items()]
    policy = "; ".join(["default-src 'none'", *rules, "connect-src 'self'", "img-src data:", "frame-ancestors 'none'"])
    facts = {
        "MODEL": type(run.model).__name__,
        "PARAMETERS": f"{run.model.config.parameters():,}",
        "NAME": run.directory.rstrip("/").rsplit("/", 1)[-1],
        "RUN": run.directory,
        "STEP": f"{run.step:,}",
        "CONTEXT": str(run.model.config.context),
    }
    return re.sub("@([A-Z]+)@", lambda found: html.escape(facts[found[1]]), text), policy


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


async def _refuse(_request: Request, error: Exception) -> Response:
    return _error(400, str(error))


async def _busy(_request: Request, _busy_error: Exception) -> Response:
    return _error(503, "too many requests wait; try again later", {"retry-after": str(RETRY_SECONDS)})


async def _no_such_page(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _error(status, f"{request.method} {request.url.path[:80]}: expected GET /, POST /generate or POST /score")
