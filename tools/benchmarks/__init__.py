"""One module a benchmark, each with run() -> figures; tools/bench.py runs them."""
