"""No file is longer than 300 lines and no function longer than 60; tools.house counts and says which is."""

import pytest

from tests.helpers.places import ROOT
from tools import house


def test_every_file_and_function_keeps_its_limit():
    assert house.too_long(house.file_lines(ROOT), house.function_lines(ROOT)) == []


def test_what_is_too_long_is_named_and_ends_with_1(tmp_path, monkeypatch, capsys):
    for room in house.ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "short.py").write_text("def kept():\n" + "    pass\n" * 59)
    (tmp_path / "models" / "long.py").write_text("x = 0\n" * 301)
    (tmp_path / "tests" / "two.py").write_text(
        "class A:\n    def same(self):\n" + "        pass\n" * 60 + "\n\nclass B:\n    def same(self):\n        pass\n"
    )
    monkeypatch.setattr(house, "ROOT", tmp_path)
    with pytest.raises(house.WorkFailedError, match="2 limits"):
        house.main()
    printed = capsys.readouterr().out
    assert "models/long.py: 301 lines, at most 300" in printed
    assert "tests/two.py:2 same: 61 lines, at most 60" in printed
    assert "models        2     361     180" in printed
