"""The order of the rooms: imports, and programs started by a module's name, lead down only and never in a circle."""

import ast
import itertools
import textwrap

import pytest

from tests.helpers.places import ROOT

# From the bottom up, a line a storey; a room may use those below it and its neighbours on the same line.
STOREYS = """
models
pipeline.errors pipeline.paths pipeline.progress pipeline.signals pipeline.streams pipeline.usage
pipeline.texts pipeline.values
pipeline.statements pipeline.storage pipeline.optimizers
pipeline.data.format
pipeline.data.corpora pipeline.data.reading pipeline.devices pipeline.serving
pipeline.cli pipeline.data.sharding
pipeline.runs
pipeline.config pipeline.evaluation
pipeline.training
pipeline.preflight
pipeline.shard pipeline.tokenizer pipeline.train pipeline.evaluate pipeline.generate pipeline.export
tools
"""


def modules_of(root):
    """Returns the path of each module below models/, pipeline/ and tools/, by name."""
    modules = {}
    for folder in ("models", "pipeline", "tools"):
        for path in sorted((root / folder).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            modules[name.removesuffix(".__init__")] = path
    return modules


def only_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def used_by(text, known, *, started):
    """Returns the modules that a module's text imports, in functions too, and those it starts as ``python -m NAME``."""
    used, left = set(), [ast.parse(text)]
    while left:
        node = left.pop()
        if only_for_types(node):
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= {name if name in known else node.module for name in names}
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.List | ast.Tuple) and started:
            words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
            used |= {str(name) for flag, name in itertools.pairwise(words) if flag == "-m"}
    return {f"{name}.__main__" if f"{name}.__main__" in known else name for name in used} & set(known)


def graph_of(root, *, started=True):
    modules = modules_of(root)
    return {
        name: used_by(path.read_text(encoding="utf-8"), modules, started=started) - {name}
        for name, path in modules.items()
        if name not in ("pipeline", "pipeline.data")  # which hold rooms, and no code
    }


def circle_in(graph):
    """Returns a circle of names, or None."""
    done = set()

    def visit(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for used in sorted(graph.get(name, ())):
                if circle := visit(used, [*path, name]):
                    return circle
            done.add(name)
        return None

    return next((circle for name in sorted(graph) if (circle := visit(name, []))), None)


def storey_of(name):
    """Returns the number of a module's storey; AssertionError for a module of no room."""
    found = [
        number
        for number, line in enumerate(STOREYS.strip().splitlines())
        for room in line.split()
        if name == room or name.startswith(f"{room}.")
    ]
    assert found, f"{name} is in no room of tests/test_imports.py: expected one of them, or a new one there"
    return max(found)


def upward(graph):
    """Returns the arrows that lead up, as text."""
    return [f"{a} -> {b}" for a, used in graph.items() for b in sorted(used) if storey_of(b) > storey_of(a)]


@pytest.fixture(scope="module")
def graph():
    return graph_of(ROOT)


def test_no_module_imports_itself_in_a_circle():
    assert circle_in(graph_of(ROOT, started=False)) is None


def test_no_arrow_leads_up(graph):
    assert upward(graph) == []


def test_no_rooms_need_each_other(graph):
    def room(name):
        parent = name.rpartition(".")[0]
        return name if parent in ("", "pipeline", "tools") or (ROOT / name.replace(".", "/")).is_dir() else parent

    rooms = {}
    for name, used in graph.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in used} - {room(name)})
    assert circle_in(rooms) is None


def test_these_checks_can_fail(tmp_path):
    sources = {
        "models/a": "from pipeline import errors",
        "pipeline/errors": """
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                from tools import no_arrow
            def later():
                from models import a
            """,
        "pipeline/train": 'command = [executable, "-m", "tools.sweep", *flags]',
        "tools/sweep/__main__": "",
        "tools/no_arrow": "",
    }
    for name, text in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    graph = graph_of(tmp_path)
    assert circle_in(graph) == ["models.a", "pipeline.errors", "models.a"]
    assert upward(graph) == ["models.a -> pipeline.errors", "pipeline.train -> tools.sweep.__main__"]
