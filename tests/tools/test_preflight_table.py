"""The table of what fits where: its rows survive a run of a part of it, and wrong choices are refused."""

import dataclasses

import pytest

from pipeline import cli
from pipeline.config import batch_plan
from pipeline.config.attention_path import AttentionPath
from pipeline.devices import slices
from pipeline.preflight import figures as preflight_figures
from pipeline.preflight.compiled import GIB, Compiled
from tests.helpers.places import ROOT
from tools import preflight_excerpts, preflight_table


def figures(fits, estimate=0.09):
    from models.config import GPT2Config

    compiled = Compiled(
        fits=fits,
        peak_bytes=3 * GIB if fits else 24 * GIB,
        hbm_limit_bytes=0 if fits else round(15.48 * GIB),
        flops=3.5e12,
        traffic_bytes=27e9,
        cycles=111.7e6,
        compiler_seconds=estimate,
    )
    return preflight_figures.figures(
        compiled,
        model=GPT2Config(vocabulary_size=50257),
        sizes={"weights": GIB // 2, "slots": 0, "all_reduce": GIB // 2},
        plan=batch_plan.plan(global_batch=512, replicas=128, microbatch=4, context=1024),
        steps=90_000,
        piece=slices.find("v3-128"),
        attention=AttentionPath("plain", "asked for"),
    )


def test_a_row_says_what_fits_and_how_fast():
    assert preflight_table.cells(figures(True)) == ["yes", "4", "3.00", "27.0", "60", "90", "119", "plain"]
    assert preflight_table.cells(figures(True, estimate=-400.0))[-3:] == ["-", "119", "plain"]
    assert preflight_table.cells(figures(False)) == ["no", "-", "needs 24.00 of 15.48", *["-"] * 5]


def test_figures_of_the_whole_run():
    computed = figures(True)
    assert computed.tokens == 90_000 * 512 * 1024
    assert computed.tokens_per_second == pytest.approx(512 * 1024 / 0.09)
    assert computed.hours == pytest.approx(90_000 * 0.09 / 3600)
    # 3.5e12 model FLOPs per core in 90 ms, of 61.5 TFLOP/s.
    assert computed.mfu == pytest.approx(computed.model_flops / 0.09 / 61.5e12)
    assert computed.all_reduce_bytes == GIB // 2
    assert dataclasses.asdict(computed) == computed.as_json()


def test_rows_that_are_not_chosen_are_kept_and_all_are_in_order(tmp_path):
    output = tmp_path / "docs" / "preflight.md"
    keys = [("gpt2-xl", "v3-8", "adamw", "full"), ("gpt2-small", "v3-128", "adafactor", "none")]
    cells = ["yes", "4", "3.00", "27.0", "60", "90", "119", "plain"]
    rows = {key: f"| {' | '.join([*key, *cells])} |" for key in keys}
    preflight_table.write_rows(output, rows)
    with output.open("a") as file:  # as a table had it before it had its last column
        file.write("| gpt2-small | v3-8 | adamw | full | yes | 4 | 2.09 | 27.7 | 66 | 104 | 150 |\n")
    assert preflight_table.read_rows(output) == rows
    preflight_table.write_rows(output, rows)
    lines = [line for line in output.read_text().splitlines() if line.startswith("| gpt2")]
    assert lines == [rows[keys[1]], rows[keys[0]]]


def test_configuration_is_the_run_files_but_for_what_the_table_varies():
    settings, model, optimizer = preflight_table.configure("algpt2-xl", "adamw", "full", slices.find("v3-8"), 2)
    assert (settings.model, settings.global_batch, settings.microbatch) == ("algpt2", 16, 2)
    assert (model.layers, model.width, model.remat, model.known_vocabulary) == (48, 1600, "full", 50257)
    assert type(optimizer).__name__ == "AdamWConfig"
    assert model.embedding == 128
    for name, embedding in (("E=512", 512), ("E=none", None)):
        model = preflight_table.configure(f"algpt2-base {name}", "adamw", "full", slices.find("v3-8"), 2)[1]
        assert model.embedding == embedding


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--models=gpt2-smal", "--models=gpt2-smal: expected some of gpt2-small"),
        (
            "--slices=v9-8",
            f"--slices=v9-8: expected slices such as {', '.join(preflight_table.SLICES)} (did you mean 'v6e-8'?)",
        ),
        ("--remat=some", "--remat=some: expected some of none, full"),
    ],
)
def test_wrong_choices_are_refused(refused, tmp_path, flag, message):
    assert message in refused("tools.preflight_table", flag, f"--output={tmp_path / 'table.md'}")


def test_pages_that_cannot_be_written_are_refused_before_hours_of_compiling(refused, tmp_path):
    assert "its folder does not exist" in refused("tools.preflight_table", f"--readme={tmp_path / 'no' / 'README.md'}")
    assert "it has no line <!-- preflight" in refused("tools.preflight_table", f"--readme={tmp_path / 'README.md'}")
    assert "/proc cannot be written to" in refused("tools.preflight_table", "--output=/proc/table.md")


def test_what_cannot_fit_is_known_without_the_compiler(monkeypatch):
    """AdamW's weights and slots of gpt2-xl are 12 bytes per parameter, 17.4 GiB."""
    monkeypatch.setattr(preflight_table.compile_step, "check", None)
    row = preflight_table.row("gpt2-xl", "v3-8", "adamw", "full")
    assert row == "| gpt2-xl | v3-8 | adamw | full | no | - | needs over 17.41 of 15.48 | - | - | - | - | - |"


def test_sharded_slots_are_counted_as_a_core_holds_them():
    _, model, optimizer = preflight_table.configure("gpt2-xl", "adamw", "full", slices.find("v3-128"), 1)
    split = dataclasses.replace(optimizer, slots="sharded")
    assert preflight_table.state_bytes(model, split, 128) / GIB == pytest.approx(5.80 + 11.61 / 128, abs=0.02)


def test_rows_that_stand_are_left_on_request(run_module, tmp_path):
    output = tmp_path / "table.md"
    key = ("gpt2-small", "v3-8", "adafactor", "none")
    rows = {key: "| " + " | ".join([*key, "yes", "4", "3.00", "27.0", "60", "90", "119", "plain"]) + " |"}
    preflight_table.write_rows(output, rows)
    chosen = ["--models=gpt2-small", "--slices=v3-8", "--optimizers=adafactor", "--remat=none"]
    done = run_module("tools.preflight_table", *chosen, "--missing", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert preflight_table.read_rows(output) == rows


def test_rows_with_an_unknown_figure_count_as_missing(monkeypatch, tmp_path):
    output, done = tmp_path / "table.md", []
    keys = [("gpt2-small", "v3-8", "adafactor", remat) for remat in ("none", "full")]
    cells = ["yes", "4", "3.00", "27.0", "60", "90"]
    lasts = zip(keys, ("119", "?"), strict=True)
    rows = {key: f"| {' | '.join([*key, *cells, last, 'plain'])} |" for key, last in lasts}
    preflight_table.write_rows(output, rows)
    chosen = ["--models=gpt2-small", "--slices=v3-8", "--optimizers=adafactor", "--missing", f"--output={output}"]
    monkeypatch.setattr(preflight_table.tpu_compiler, "require_compiler", lambda: "0")
    monkeypatch.setattr(preflight_table, "row", lambda *key: done.append(key) or rows[key])
    assert cli.call(preflight_table.main, preflight_table.define_flags, chosen) == 0
    assert done == [keys[1]]
    assert preflight_excerpts.short(rows[keys[1]]) == "4 per core, 3.00 GiB, 90 ms"


def test_the_readme_gets_an_excerpt_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{preflight_excerpts.OVERVIEW_MARKS.begin}\nold\n{preflight_excerpts.OVERVIEW_MARKS.end}\nafter\n"
    )
    cells = {
        "none": ["yes", "4", "1.81", "21.7", "56", "85", "119", "plain"],
        "full": preflight_table.misfit("needs over 17.41", 15.48),
    }
    rows = {
        ("gpt2-small", name, "adafactor", remat): "| "
        + " | ".join(["gpt2-small", name, "adafactor", remat, *columns])
        + " |"
        for remat, columns in cells.items()
        for name in ("v3-128", "v2-8")
    }
    for _ in range(2):
        preflight_excerpts.write(readme, preflight_excerpts.OVERVIEW_MARKS, preflight_excerpts.overview(rows))
    page = readme.read_text()
    assert page.startswith("before\n") and page.endswith("\nafter\n") and "old" not in page
    assert page.count("| gpt2-small |") == 1
    assert "| 4 per core, 1.81 GiB, 85 to 119 ms | does not fit: needs over 17.41 of 15.48 GiB |" in page


def test_hours_are_microsteps_times_the_roofline_and_the_cycles():
    """90,000 steps of 512 sequences are 16 microsteps of 4 on each of a v3-8's 8 cores."""
    key = ("gpt2-small", "v3-8", "adafactor", "none")
    row = f"| {' | '.join([*key, 'yes', '4', '1.81', '21.9', '56', '85', '120', 'plain'])} |"
    lines = preflight_excerpts.hours({key: row}).splitlines()
    least, most = (90_000 * 16 * seconds / 3600 for seconds in (0.056, 0.120))
    expected = f"| v3-8 | 4 | {least:.0f} to {most:.0f} | {4 * least:.0f} to {4 * most:.0f} | not compiled yet | - |"
    assert expected in lines


def test_the_pages_say_what_the_table_says():
    rows = preflight_table.read_rows(ROOT / "docs" / "preflight.md")
    for page, excerpt in (("docs/pods.md", preflight_excerpts.hours), ("README.md", preflight_excerpts.overview)):
        assert excerpt(rows) in (ROOT / page).read_text(encoding="utf-8")
    assert "not compiled yet" not in preflight_excerpts.hours(rows)
