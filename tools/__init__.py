"""Commands that inspect, prove and measure; the pipeline works without them."""

import importlib.util
import sys

if sys.argv[0] == "-m" and importlib.util.find_spec("absl") is None:  # a command, in another environment than its own
    print("error: absl-py is not installed for this Python: make setup, then .venv/bin/python -m …", file=sys.stderr)
    sys.exit(2)
