"""One module per benchmark, each with run() -> figures; tools/bench.py runs them."""
