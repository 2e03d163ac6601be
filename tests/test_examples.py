"""The Example of each public class of models/ and pipeline/optimizers/ is there, and gives what it says."""

import doctest
import importlib
import inspect

import pytest

from tests.helpers.places import ROOT

FILES = [path for room in ("models", "pipeline/optimizers") for path in sorted((ROOT / room).glob("*.py"))]
MODULES = [path.relative_to(ROOT).as_posix().removesuffix(".py").replace("/", ".") for path in FILES]
# Made by functions, not by users: each is in the example of the class that it serves, or abstract.
WITHOUT = {"Optimizer", "OptimizerConfig", "Normal", "WholeSlot", "WholeMatrices", "Weights"}


def classes(module):
    """The module's own public classes, apart from tuples of tensors and protocols."""
    own = [thing for _, thing in inspect.getmembers(module, inspect.isclass) if thing.__module__ == module.__name__]
    return [
        kind
        for kind in own
        if not (kind.__name__.startswith("_") or issubclass(kind, tuple) or getattr(kind, "_is_protocol", False))
    ]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name):
    module = importlib.import_module(name)
    wanted = {kind.__name__ for kind in classes(module)} - WITHOUT
    tests = [test for test in doctest.DocTestFinder().find(module, name) if test.examples]
    assert {test.name.removeprefix(f"{name}.") for test in tests} >= wanted
    for test in tests:
        report = []
        doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=report.append)
        assert not report, "".join(report)


def test_there_are_examples():
    assert {"models.gpt2", "pipeline.optimizers.adamw"} <= set(MODULES)
