"""The page of tools.report: runs of every kind, its size, honest thinning, refusals, and a real browser."""

import json
import math
import os
import re
import shutil
import subprocess

import pytest

from pipeline.evaluation import comparability
from tools.report import __main__ as report
from tools.report import charts
from tools.report import page as report_page

IDENTITY = {
    "train": {"steps": 10},
    "model": {"context": 64},
    "data": {"corpus": "c", "tokenizer": "t"},
    "shard": {"packing": "contiguous", "shards": 8},
}


@pytest.fixture
def make_run(tmp_path):
    def make(name, steps, *, incidents=(), samples="", identity=IDENTITY, **changes):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "run.json").write_text(json.dumps(identity))
        with (directory / "metrics.jsonl").open("w") as file:
            for step in steps:
                record = {"step": step, "tokens": 64 * step, "loss": 2 + 5 / step, "grad_norm": 1.0, "mfu": 0.3}
                record |= {"learning_rate": 1e-3, "tokens_per_s": 1e4, "seconds.step": step, "seconds.compile": 2.0}
                changed = {key: value(step) for key, value in changes.items()}
                file.write(json.dumps(record | changed.pop("more", {}) | changed) + "\n")
        if incidents:
            (directory / "incidents.jsonl").write_text("".join(json.dumps(incident) + "\n" for incident in incidents))
        (directory / "samples.txt").write_text(samples)
        return directory

    return make


@pytest.fixture
def kinds(make_run):
    """A run with skipped updates, one that was resumed on another slice, and one of one step."""
    nan = make_run(
        "nan",
        range(1, 11),
        loss=lambda step: math.nan if step == 5 else 2 + 5 / step,
        incidents=[{"step": 5, "reason": "loss or gradient not finite", "loss": "nan", "grad_norm": "nan"}],
        samples="=== step 5 ===\n<script>alert(1)</script>\n\n",
    )
    evaluated = {"validation.nats_per_token": 3.0, "validation.perplexity": 20.1, "validation.bits_per_byte": 1.1}
    resumed = make_run(
        "resumed",
        range(1, 11),
        tokens_per_s=lambda step: 1e4 if step < 6 else 8e4,
        more=lambda step: {"seconds.step": (step - 1) % 5, **(evaluated if step == 10 else {})},
    )
    return [nan, resumed, make_run("one", [1])]


def flags_of(runs):
    return [f"--run_dir={run}" for run in runs]


def test_runs_of_every_kind_are_on_one_page_with_pngs(kinds, run_module, tmp_path):
    done = run_module("tools.report", *flags_of(kinds), f"--output={tmp_path / 'r.html'}", "--png")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    assert "loss or gradient not finite" in page and "3.0000" in page and "stroke-dasharray" in page
    assert "&lt;script&gt;alert" in page and "<script" not in page
    assert not re.search(r"(src|href)=\"(?!data:,)|url\(|@import", page), "the page asks for something from elsewhere"
    assert (tmp_path / "r-loss-by-step.png").read_bytes().startswith(b"\x89PNG")


def test_the_speed_of_an_older_run_is_drawn_by_its_present_name(kinds):
    assert report.read(str(kinds[1])).points("step", "tokens_per_second")[0] == (1.0, 1e4)


def test_time_before_a_restart_counts(kinds):
    step, parts = report.read(str(kinds[1])).seconds()[-1]
    assert (step, parts) == (10, {"step": 8.0, "compile": 4.0})


def test_100_000_records_keep_their_spikes_in_a_small_page(make_run, tmp_path):
    run = make_run(
        "long", range(1, 100_001), loss=lambda step: 99.0 if step == 77_777 else -7.0 if step == 5_555 else 2.0
    )
    read = report.read(str(run))
    figures = charts.figures([read])
    loss = figures[0].curves[0]
    assert len(loss) <= charts.POINTS + 2
    assert (77_777.0, 99.0) in loss and (5_555.0, -7.0) in loss
    assert loss[0][0] == 1 and loss[-1][0] == 100_000
    assert len(figures[0].means[0]) == 100 and figures[0].means[0][5] == (5500.5, 1.991)
    assert len(report_page.page([read], figures).encode()) < 3e6


def test_another_protocol_is_warned_of(make_run):
    evaluated = {"more": lambda step: {"validation.nats_per_token": 3.0}}
    other = IDENTITY | {"shard": {"packing": "contiguous", "shards": 16}}
    paths = [
        make_run("a", [1], **evaluated),
        make_run("same", [1], identity=other, **evaluated),
        make_run("b", [1], identity=IDENTITY | {"model": {"context": 128}}, **evaluated),
    ]
    runs = [report.read(str(path)) for path in paths]
    assert "cannot be compared" not in report_page.page(runs[:2], [])
    assert "cannot be compared: model.context differ" in report_page.page(runs, [])


@pytest.fixture
def keep():
    """Keeps figures in a run directory as pipeline.evaluate does."""

    def run(directory, step, figures, **changes):
        protocol = {"file_sha256": "f00", "text": "wiki.test.raw", "tokenizer": "t", "stride": 64, "step": step}
        evaluation = {"figures": figures, "protocol": protocol | changes}
        (directory / comparability.file_name(evaluation["protocol"])).write_text(json.dumps(evaluation))

    return run


def test_evaluations_of_a_protocol_are_side_by_side_at_their_newest_step(make_run, keep):
    a, b = make_run("a", [1]), make_run("b", [1])
    keep(a, 5, {"word_perplexity": 99.0})
    keep(a, 10, {"word_perplexity": 41.5})
    keep(b, 10, {"word_perplexity": 39.25, "words": 1234}, text="elsewhere/wiki.test.raw")
    page = report_page.page([report.read(str(a)), report.read(str(b))], [])
    assert page.count("<h3>wiki.test.raw</h3>") == 1
    assert "41.5000" in page and "39.2500" in page and "1,234" in page and "99.0000" not in page
    assert "cannot be compared" not in page


def test_evaluations_of_differing_protocols_are_warned_of(make_run, keep):
    a, b = make_run("a", [1]), make_run("b", [1])
    keep(a, 10, {"word_perplexity": 41.5})
    keep(b, 10, {"word_perplexity": 39.25}, tokenizer="other")
    runs = [report.read(str(a)), report.read(str(b))]
    assert "By token these figures cannot be compared: tokenizer differ." in report_page.page(runs, [])
    keep(b, 10, {"word_perplexity": 38.0}, stride=32)
    page = report_page.page([runs[0], report.read(str(b))], [])
    assert "These figures cannot be compared: stride, tokenizer differ." in page
    keep(b, 10, {"word_perplexity": 7.0}, file_sha256="bar", text="wiki.valid.raw")
    assert page.count("<h3>wiki.") == 1
    assert report_page.page([runs[0], report.read(str(b))], []).count("<h3>wiki.") == 2


def test_line_packed_data_have_no_figures_by_text_even_where_older_runs_kept_them(make_run, keep):
    more = {"validation.nats_per_token": 3.0, "validation.bits_per_byte": 1.0046}
    run = make_run("a", [1], identity=IDENTITY | {"shard": {"packing": "lines"}}, more=lambda step: more)
    assert "Left out of line-packed data: bits per byte" in report_page.page([report.read(str(run))], [])
    (run / "summary.json").write_text(
        json.dumps({"steps": 1, "validation": {"nats_per_token": 3.0, **dict.fromkeys(comparability.BY_TEXT, 1.0046)}})
    )
    keep(run, 1, {"nats_per_token": 3.5, **dict.fromkeys(comparability.BY_TEXT, 1.0047)}, packing="lines")
    page = report_page.page([report.read(str(run))], [])
    assert "1.004" not in page and "3.5000" in page and page.count("Left out of line-packed data: bits per byte") == 2


def test_a_damaged_evaluation_is_named(make_run, refused, tmp_path):
    run = make_run("a", [1])
    (run / "evaluation-0123456789ab.json").write_text('{"figures"')
    message = refused("tools.report", f"--run_dir={run}", f"--output={tmp_path / 'r.html'}")
    assert "evaluation-0123456789ab.json: damaged, not JSON" in message


def test_differences_of_configuration_are_those_settings_alone(make_run):
    other = {**IDENTITY, "train": {"steps": 20}}
    runs = [
        report.read(str(make_run(name, [1], identity=identity))) for name, identity in (("a", IDENTITY), ("b", other))
    ]
    table = report_page.page(runs, []).split("<h2>Differences of configuration</h2>")[1]
    assert "<td>train.steps</td><td>10</td><td>20</td>" in table and "model.context" not in table


def test_a_run_on_cloud_storage_makes_the_same_page(gcs, kinds, keep):
    keep(kinds[0], 5, {"word_perplexity": 99.0})
    for path in kinds[0].iterdir():
        gcs.put(f"runs/nan/{path.name}", path.read_bytes())
    local, remote = report.read(str(kinds[0])), report.read("gs://corpus/runs/nan")
    assert remote.evaluations and remote.incidents and remote.samples
    pages = [report_page.page([run], charts.figures([run])) for run in (local, remote)]
    assert pages[0].replace(local.name, "RUN") == pages[1].replace(remote.name, "RUN")


def test_a_directory_that_is_not_a_run_is_refused(refused, make_run, tmp_path):
    output = tmp_path / "r.html"
    assert "no run.json there" in refused("tools.report", f"--run_dir={tmp_path}", f"--output={output}")
    assert "no record yet" in refused("tools.report", f"--run_dir={make_run('empty', [])}", f"--output={output}")
    assert not output.exists()


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_phone_needs_no_sideways_scrolling(kinds, tmp_path):
    runs = [report.read(str(run)) for run in kinds]
    page = report_page.page(runs, charts.figures(runs))
    (tmp_path / "page.html").write_text(page)
    # Headless Chromium's windows are 500 wide at least: a frame of 390 is the phone, and says how much is out of sight.
    measure = "let page=this.contentDocument.documentElement;document.title=page.scrollWidth-page.clientWidth+' over'"
    frame = f'<iframe id="f" src="page.html" width="390" height="800" frameborder="0" onload="{measure}"></iframe>'
    (tmp_path / "phone.html").write_text(f"<!doctype html><title>-</title>{frame}")
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    more = "--disable-component-update --allow-file-access-from-files --enable-logging=stderr --dump-dom"
    command = ["chromium", *options.split(), *more.split(), f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, f"file://{tmp_path}/phone.html"],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert "<title>0 over</title>" in done.stdout, done.stdout[:300]
    assert "CONSOLE" not in done.stderr, done.stderr
