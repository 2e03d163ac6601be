"""The rule of ``pytest --quick``: what imports TensorFlow, Keras or jax, or starts a process, is skipped as it does."""

import importlib.abc
import sys

import pytest

SLOW_TO_IMPORT = ("jax", "keras", "keras_hub", "tensorflow", "tensorflow_text", "torch", "transformers")
STARTS = ("subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty")  # audit events


class _SkipsImports(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname in SLOW_TO_IMPORT:
            pytest.skip(f"--quick: imports {fullname}", allow_module_level=True)


def _skip_starts(event, arguments):
    if event in STARTS:
        pytest.skip("--quick: starts a process", allow_module_level=True)


def start() -> None:
    """Skips, from here on, each test and each test module that needs what is slow."""
    sys.meta_path.insert(0, _SkipsImports())
    sys.addaudithook(_skip_starts)
