"""docs/gin.md says of every setting what the code does; a setting without documentation is refused."""

import dataclasses

import pytest

from pipeline.errors import WorkFailedError
from tests.helpers.places import ROOT
from tools import gin_reference


def test_the_page_is_current():
    """If not: python -m tools.gin_reference --output=docs/gin.md"""
    assert (ROOT / "docs" / "gin.md").read_text(encoding="utf-8") == gin_reference.page()


@dataclasses.dataclass
class Base:
    """A base.

    Args:
        size: of it, ``a | b``, on
            two lines.
    """

    size: int


@dataclasses.dataclass
class Documented(Base):
    """Says everything."""

    size: int = 3


@dataclasses.dataclass
class Bare(Base):
    """Leaves one out."""

    weight: float = 1.0


def test_a_setting_may_be_documented_by_a_base():
    assert r"| `of.size` | `int` | `3` | Of it, `a \| b`, on two lines. |" in gin_reference.section("of", Documented)


def test_a_setting_without_documentation_is_refused():
    with pytest.raises(WorkFailedError, match="Bare's docstring says nothing of weight"):
        gin_reference.section("of", Bare)
