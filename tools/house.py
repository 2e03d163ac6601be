"""Measures the code: files and lines of each room, the longest files and functions, and the direction of imports.

    python -m tools.house

Exit code 1 if a file or a function exceeds its limit, or an import, or a program started by a module's name, goes up
or in a circle.
"""

import ast
import graphlib
import heapq
import itertools
import pathlib
import statistics
from collections.abc import Collection, Mapping

from pipeline import cli
from pipeline.errors import WorkFailedError
from pipeline.progress import counted

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROOMS = ("models", "pipeline", "tools", "tests")
FILE_LINES, FUNCTION_LINES = 300, 60  # at most
# From the bottom up, one storey per line: a room may use those below it and those on the same line.
STOREYS = """
models
pipeline.errors pipeline.help_text pipeline.paths pipeline.progress pipeline.stop_signals pipeline.streams
pipeline.texts pipeline.values
pipeline.storage pipeline.optimizers
pipeline.data.format pipeline.gin_files
pipeline.data.corpora pipeline.data.reading pipeline.devices pipeline.serving
pipeline.cli pipeline.data.sharding
pipeline.runs
pipeline.config pipeline.evaluation pipeline.report
pipeline.training
pipeline.preflight
pipeline.shard pipeline.tokenizer pipeline.train pipeline.evaluate pipeline.generate pipeline.export
tools
"""
Graph = dict[str, set[str]]  # module: the modules that it uses


def main() -> None:
    """Prints the counts; WorkFailedError if a limit is exceeded."""
    files, functions, graph = file_lines(ROOT), function_lines(ROOT), graph_of(ROOT)
    print("room      files   lines  median")
    for room in ROOMS:
        lines = [count for file, count in files.items() if file.startswith(f"{room}/")]
        print(f"{room:<8} {len(lines):>6} {sum(lines):>7,} {statistics.median(lines):>7.0f}")
    print("\n lines  the longest files and functions")
    for counts in (files, functions):
        print(*(f"{counts[name]:>6}  {name}" for name in heapq.nlargest(5, counts, key=counts.__getitem__)), sep="\n")
    circles = circle_in(graph_of(ROOT, started=False)), circle_in(between_rooms(graph))
    problems = [*too_long(files, functions), *upward(graph), *(" -> ".join(circle) for circle in circles if circle)]
    print(f"\n{sum(map(len, graph.values())):,} imports", *problems, sep="\n")
    if problems:
        raise WorkFailedError(f"{counted(len(problems), 'limit')} of the house broken")


def file_lines(root: pathlib.Path) -> dict[str, int]:
    """Returns the number of lines of each Python file, by its path below the root."""
    files = [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


def function_lines(root: pathlib.Path) -> dict[str, int]:
    """Returns the number of lines of each function, with its inner functions, by its place and name."""
    return {
        f"{file}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file in file_lines(root)
        for node in ast.walk(ast.parse((root / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def too_long(files: Mapping[str, int], functions: Mapping[str, int]) -> list[str]:
    """Returns a sentence for each file and function over its limit."""
    return [
        f"{name}: {lines} lines, at most {limit}"
        for counts, limit in ((files, FILE_LINES), (functions, FUNCTION_LINES))
        for name, lines in counts.items()
        if lines > limit
    ]


def graph_of(root: pathlib.Path, *, started: bool = True) -> Graph:
    """Returns what each module imports and, unless told otherwise, starts as ``python -m NAME``."""
    files = [file for file in file_lines(root) if not file.startswith("tests/")]
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): root / file for file in files}
    return {
        name: _used_by(path.read_text(encoding="utf-8"), modules, started=started) - {name}
        for name, path in modules.items()
        if name not in ("pipeline", "pipeline.data")  # contain rooms, no code
    }


def _used_by(text: str, modules: Collection[str], *, started: bool) -> set[str]:
    """Returns the modules that a module's text uses, also in functions, except only for types."""
    used: set[str] = set()
    pending: list[ast.AST] = [ast.parse(text)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            used |= {name if name in modules else node.module for name in names}
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.List | ast.Tuple) and started:
            words = [word.value if isinstance(word, ast.Constant) else None for word in node.elts]
            used |= {str(name) for flag, name in itertools.pairwise(words) if flag == "-m"}
    return {f"{name}.__main__" if f"{name}.__main__" in modules else name for name in used} & set(modules)


def upward(graph: Graph) -> list[str]:
    """Returns the arrows that lead to a higher storey, as text."""
    return [f"{a} -> {b}" for a, used in graph.items() for b in sorted(used) if _storey(b) > _storey(a)]


def _storey(name: str) -> int:
    """Returns the number of a module's storey; WorkFailedError for a module of no room."""
    rooms = [(room, number) for number, line in enumerate(STOREYS.strip().splitlines()) for room in line.split()]
    inside = [number for room, number in rooms if f"{name}.".startswith(f"{room}.")]
    if not inside:
        raise WorkFailedError(f"{name} is in no room of STOREYS in tools/house.py: expected one of them, or a new one")
    return max(inside)


def circle_in(graph: Graph) -> list[str] | None:
    """Returns a circle of names, or None."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1][::-1]
    return None


def between_rooms(graph: Graph) -> Graph:
    """Returns the same arrows between rooms; a module outside any room's folder is its own room."""
    folders = {name.rpartition(".")[0] for name in graph} - {"", "pipeline", "tools"}

    def room(name: str) -> str:
        parent = name.rpartition(".")[0]
        return name if name in folders or parent not in folders else parent

    arrows = {(room(name), room(other)) for name, used in graph.items() for other in used}
    return {first: {b for a, b in arrows if a == first != b} for first, _ in arrows}


if __name__ == "__main__":
    cli.run(main)
