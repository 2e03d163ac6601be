"""Serves a page for trying a trained model, and JSON endpoints, on this machine only.

    python -m tools.serve --run_dir=… [--port=8000]

    POST /generate  {"prompt": "…", "max_tokens": 100, "temperature": 1,
                     "top_k": 0, "top_p": 1, "seed": 0, "stream": false}
    POST /score     {"text": "…"} → tokens, negative_log_likelihood (nats),
                                    perplexity

With "stream" the answer comes as server-sent events, one per token. Other machines can reach it only with --host; there
is no encryption and no password. Needs requirements-serve.txt.
"""

import socket

from absl import flags

from pipeline import cli
from pipeline.errors import UserError, pip_install

FLAGS = flags.FLAGS
CONNECTIONS = 256  # at once; above this uvicorn answers 503
STOP_SECONDS = 5


def main() -> None:
    """Loads the run and serves it until a signal."""
    cli.required("run_dir", "a directory that pipeline.train wrote")
    listener = _listen(FLAGS.host, FLAGS.port)
    cli.import_tensorflow()
    try:
        import uvicorn

        from tools.serve.app import Server
    except ImportError as error:
        raise UserError(f"{error.name} is missing: {pip_install('-r requirements-serve.txt')}") from None
    from pipeline.runs import trained_model

    run = trained_model.load(FLAGS.run_dir)
    server = Server(
        run,
        hosts=["127.0.0.1", "localhost", FLAGS.host, *FLAGS.allow_host],
        most_tokens=FLAGS.max_tokens,
        most_bytes=FLAGS.max_body,
        waiting=FLAGS.waiting,
    )
    settings = uvicorn.Config(
        server.app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    address, port = listener.getsockname()[:2]
    print(f"step {run.step:,} of {FLAGS.run_dir} is on http://{address}:{port}/")
    uvicorn.Server(settings).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(f"--host={host} --port={port}: cannot be listened on ({error}); expected a free port") from None


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", None, "The run; its best checkpoint (train.keep_best), or else its newest, is used.")
    flags.DEFINE_string("host", "127.0.0.1", "The address to listen on; other machines can reach any but 127.0.0.1.")
    flags.DEFINE_integer("port", 8000, "The port to listen on; 0 takes a free one.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_multi_string("allow_host", [], "Another host name that requests may use for this server.")
    flags.DEFINE_integer("max_tokens", 1024, "Most new tokens per request.", lower_bound=1)
    flags.DEFINE_integer("max_body", 1 << 16, "Most bytes in a request's body.", lower_bound=1)
    flags.DEFINE_integer("waiting", 16, "Requests that may wait for the running one.", lower_bound=0)


if __name__ == "__main__":
    cli.run(main, define_flags)
