"""The page of benchmarks: measured sections are written, the others stay, and wrong choices are refused."""

from tools import bench


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    file = tmp_path / "benchmarks.md"
    bench.write_page(
        file, {"step": {"ratio_to_keras_hub": 1.25, "tokens_per_second": 12345.6}, "read": {"ratio": 3}}, "one"
    )
    bench.write_page(file, {"step": {"ratio_to_keras_hub": 1.5}}, "another")
    text = file.read_text()
    assert text.count("## ") == 2 and text.index("## read") < text.index("## step")
    assert "| ratio | 3 |" in text and "--only=read` on one:" in text
    assert "| ratio to keras hub | 1.5 |" in text and "--only=step` on another:" in text and "12,346" not in text
    assert "keras-hub's `fit`" in text, "the benchmark says itself what it measures"


def test_wrong_choices_are_refused(refused, tmp_path):
    assert "did you mean 'step'" in refused("tools.bench", "--only=stepp")
    assert "its folder does not exist" in refused("tools.bench", f"--page={tmp_path}/no/benchmarks.md")
