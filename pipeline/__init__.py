"""The command lines, and the parts that they combine: data, training, devices."""

import importlib.util
import sys

if sys.argv[0] == "-m" and importlib.util.find_spec("absl") is None:  # a command run outside its environment
    print("error: absl-py is not installed for this Python: make setup, then .venv/bin/python -m …", file=sys.stderr)
    sys.exit(2)
