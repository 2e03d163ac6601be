"""The order of the rooms: imports, and programs started by a module's name, lead down only and never in a circle."""

import textwrap

import pytest

from pipeline.errors import WorkFailedError
from tests.helpers.places import ROOT
from tools import house


@pytest.fixture(scope="module")
def graph():
    return house.graph_of(ROOT)


def test_no_module_imports_itself_in_a_circle():
    assert house.circle_in(house.graph_of(ROOT, started=False)) is None


def test_no_arrow_leads_up(graph):
    assert len(graph) > 150 and house.upward(graph) == []


def test_no_rooms_need_each_other(graph):
    assert house.circle_in(house.between_rooms(graph)) is None


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
        "pipeline/runs/a": "import pipeline.texts",
        "pipeline/texts": "from pipeline.runs import b",
        "pipeline/runs/b": "",
        "tools/sweep/__main__": "",
        "tools/no_arrow": "",
    }
    for name, text in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    graph = house.graph_of(tmp_path)
    assert set(house.circle_in(graph)) == {"models.a", "pipeline.errors"}
    assert sorted(house.upward(graph)) == [
        "models.a -> pipeline.errors",
        "pipeline.texts -> pipeline.runs.b",
        "pipeline.train -> tools.sweep.__main__",
    ]
    rooms = {name: used for name, used in house.between_rooms(graph).items() if name.startswith("pipeline.")}
    assert set(house.circle_in(rooms)) == {"pipeline.runs", "pipeline.texts"}
    with pytest.raises(WorkFailedError, match="elsewhere is in no room of STOREYS"):
        house.upward({"pipeline.elsewhere": {"models.a"}})
