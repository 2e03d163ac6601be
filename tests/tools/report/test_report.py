"""The page of tools.report: runs of every kind, its facts, warnings and refusals."""

import hashlib
import json
import re

import pytest

from pipeline import evaluate
from pipeline.evaluation import comparability
from pipeline.report import charts
from pipeline.report import page as report_page
from pipeline.report import write as report_write
from pipeline.report.read import read
from pipeline.runs.run_directory import RunDirectory
from tests.helpers.made_up_runs import IDENTITY, write_resumed, write_sweep
from tests.helpers.places import ROOT


def flags_of(runs):
    return [f"--run_dir={run}" for run in runs]


def test_runs_of_every_kind_are_on_one_page_with_pngs(kinds, run_module, tmp_path):
    done = run_module("tools.report", *flags_of(kinds), f"--output={tmp_path / 'r.html'}", "--png", "--svg")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    assert "loss or gradient not finite" in page and "3.0000" in page
    assert "&lt;script&gt;alert" in page and "<script>alert" not in page
    assert not re.search(r"(src|href)=\"(?!data:,)|url\(|@import", page), "the page asks for something from elsewhere"
    assert (tmp_path / "r-loss.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "r-loss.svg").read_text()
    assert all(f">{text}<" in drawn for text in ("step", "nats per token", "restart", "skipped update", str(kinds[0])))


def test_the_speed_of_an_older_run_is_drawn_by_its_present_name(kinds):
    assert read(str(kinds[1])).points("tokens_per_second")[0] == (1.0, 1e4)


def test_the_head_tells_what_ran_where_and_how_well(tmp_path):
    run = read(str(write_resumed(tmp_path / "run")))
    page = report_page.page([run], charts.figures([run]))
    for fact in (
        "not done: step 60 of 60, written 2026-09-21 14:14 UTC, 2 restarts, 2 skipped updates",
        "2.5833 nats per token (perplexity 13.24) at step 60",
        "GPT-2, 2 layers, width 32, 2 heads, context 64",
        "37,120",
        "AdamW, learning rate 0.001, cosine after 5 steps of warm-up",
        "wikitext, 1,000 train tokens, 3,840 seen (3.84 passes), gs://bucket/wikitext",
        "8 sequences of 64 tokens: 512 per step",
        "v3-8: 8 TPU cores, 1 host",
        'python -m pipeline.train <span class="flag">--gin_file=gpt2.gin</span>',
        "c0ffee-dirty",
    ):
        assert f"<td>{fact}</td>" in page, fact
    assert run.restarts() == [20, 41] and "<td>AdamW.learning_rate</td>" in page and "kind" not in page.split("data")[0]


def test_a_sweep_is_a_table_its_curves_and_the_loss_over_each_setting(tmp_path, run_module, refused):
    sweep = write_sweep(tmp_path / "sweep")
    done = run_module("tools.report", f"--run_dir={sweep}", f"--output={tmp_path / 's.html'}", "--png")
    assert done.returncode == 0 and "a sweep of 12 cells" in done.stdout, done.stderr
    page = (tmp_path / "s.html").read_text()
    assert "11 of 12 cells are done" in page and "too many updates were skipped" in page
    assert page.count('"name":"model=') == 11 and "model=gpt2, AdamW.learning_rate=0.001, train.seed=0" in page
    (over,) = re.findall(r'"name":"over-AdamW[^}]*', page)
    assert '"x":[0.0001,0.001,0.01]' in over and '"logarithmic":true' in over
    lines = dict(json.loads(over.partition('"lines":')[2]))
    assert lines["model=gpt2"] == pytest.approx(
        [3.26, 3.01, 3.25]
    )  # the mean of two seeds, but for the cell that failed
    assert (tmp_path / "s-over-AdamW.learning_rate.png").exists()
    cell = next((sweep / "cells").iterdir())
    message = refused("tools.report", f"--run_dir={sweep}", f"--run_dir={cell}", f"--output={tmp_path / 't.html'}")
    assert "is a sweep; expected it alone" in message


def test_a_report_that_cannot_be_written_fails_no_run(kinds, capsys, gcs):
    for path in kinds[0].iterdir():
        gcs.put(f"runs/nan/{path.name}", path.read_bytes())
    assert report_write.write_report(RunDirectory("gs://corpus/runs/nan"))
    assert "Run gs://corpus/runs/nan" in RunDirectory("gs://corpus/runs/nan").read_text("report.html")
    assert capsys.readouterr().err == ""
    (kinds[1] / "run.json").write_text("[")
    assert not report_write.write_report(RunDirectory(str(kinds[1])))
    assert "report.html is not written" in capsys.readouterr().err and not (kinds[1] / "report.html").exists()


@pytest.mark.parametrize("place", ["local", "gs://corpus/runs/resumed"])
def test_an_evaluation_is_in_the_report_of_a_run_that_is_done(kinds, capsys, gcs, place):
    for path in kinds[1].iterdir():
        gcs.put(f"runs/resumed/{path.name}", path.read_bytes())
    directory = RunDirectory(str(kinds[1]) if place == "local" else place)
    protocol = {"text": "wiki.test.raw", "stride": 512, "step": 10}
    evaluate.keep(directory.path, {"nats_per_token": 3.21987, "word_perplexity": 40.5}, protocol)
    assert not directory.exists("report.html"), "a run that goes on writes it when it ends"
    directory.write_json("summary.json", {"steps": 10})
    report_write.write_report(directory)
    assert "3.2199" in directory.read_text("report.html") and "2.7183" not in directory.read_text("report.html")
    evaluate.keep(directory.path, {"nats_per_token": 2.71828}, protocol | {"stride": 64})
    page = directory.read_text("report.html")
    assert "3.2199" in page and "2.7183" in page and "stride" in page
    assert capsys.readouterr().err == ""


def test_the_plotting_library_is_the_one_that_the_notice_names():
    notice = (ROOT / "NOTICE").read_text()
    for name in ("uPlot.iife.min.js", "uPlot.min.css"):
        assert f"{hashlib.sha256((report_page.ASSETS / 'uplot' / name).read_bytes()).hexdigest()}  {name}" in notice


def test_time_before_a_restart_counts(kinds):
    step, parts = read(str(kinds[1])).seconds[-1]
    assert (step, parts) == (10, {"step": 8.0, "compile": 4.0})


def test_another_protocol_is_warned_of(make_run):
    evaluated = {"more": lambda step: {"validation.nats_per_token": 3.0}}
    other = IDENTITY | {"shard": {"packing": "contiguous", "shards": 16}}
    paths = [
        make_run("a", [1], **evaluated),
        make_run("same", [1], identity=other, **evaluated),
        make_run("b", [1], identity=IDENTITY | {"model": {"context": 128}}, **evaluated),
    ]
    runs = [read(str(path)) for path in paths]
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
    page = report_page.page([read(str(a)), read(str(b))], [])
    assert page.count("<h3>wiki.test.raw</h3>") == 1
    assert "41.5000" in page and "39.2500" in page and "1,234" in page and "99.0000" not in page
    assert "cannot be compared" not in page


def test_evaluations_of_differing_protocols_are_warned_of(make_run, keep):
    a, b = make_run("a", [1]), make_run("b", [1])
    keep(a, 10, {"word_perplexity": 41.5})
    keep(b, 10, {"word_perplexity": 39.25}, tokenizer="other")
    runs = [read(str(a)), read(str(b))]
    assert "By token these figures cannot be compared: tokenizer differ." in report_page.page(runs, [])
    keep(b, 10, {"word_perplexity": 38.0}, stride=32)
    page = report_page.page([runs[0], read(str(b))], [])
    assert "These figures cannot be compared: stride, tokenizer differ." in page
    keep(b, 10, {"word_perplexity": 7.0}, file_sha256="bar", text="wiki.valid.raw")
    assert page.count("<h3>wiki.") == 1
    assert report_page.page([runs[0], read(str(b))], []).count("<h3>wiki.") == 2


def test_line_packed_data_have_no_figures_by_text_even_where_older_runs_kept_them(make_run, keep):
    more = {"validation.nats_per_token": 3.0, "validation.bits_per_byte": 1.0046}
    run = make_run("a", [1], identity=IDENTITY | {"shard": {"packing": "lines"}}, more=lambda step: more)
    assert "Left out of line-packed data: bits per byte" in report_page.page([read(str(run))], [])
    (run / "summary.json").write_text(
        json.dumps({"steps": 1, "validation": {"nats_per_token": 3.0, **dict.fromkeys(comparability.BY_TEXT, 1.0046)}})
    )
    keep(run, 1, {"nats_per_token": 3.5, **dict.fromkeys(comparability.BY_TEXT, 1.0047)}, packing="lines")
    page = report_page.page([read(str(run))], [])
    assert "1.004" not in page and "3.5000" in page and page.count("Left out of line-packed data: bits per byte") == 2


def test_a_damaged_evaluation_is_named(make_run, refused, tmp_path):
    run = make_run("a", [1])
    (run / "evaluation-0123456789ab.json").write_text('{"figures"')
    message = refused("tools.report", f"--run_dir={run}", f"--output={tmp_path / 'r.html'}")
    assert "evaluation-0123456789ab.json: damaged, not JSON" in message


def test_differences_of_configuration_are_those_settings_alone(make_run):
    other = {**IDENTITY, "train": {"steps": 20}}
    runs = [read(str(make_run(name, [1], identity=identity))) for name, identity in (("a", IDENTITY), ("b", other))]
    table = report_page.page(runs, []).split("<h2>Differences of configuration</h2>")[1]
    assert "<td>train.steps</td><td>10</td><td>20</td>" in table and "model.context" not in table


def test_a_run_on_cloud_storage_makes_the_same_page(gcs, kinds, keep):
    keep(kinds[0], 5, {"word_perplexity": 99.0})
    for path in kinds[0].iterdir():
        gcs.put(f"runs/nan/{path.name}", path.read_bytes())
    local, remote = read(str(kinds[0])), read("gs://corpus/runs/nan")
    assert remote.evaluations and remote.incidents and remote.samples
    pages = [report_page.page([run], charts.figures([run])) for run in (local, remote)]
    assert pages[0].replace(local.name, "RUN") == pages[1].replace(remote.name, "RUN")


def test_a_directory_that_is_not_a_run_is_refused(refused, make_run, tmp_path):
    output = tmp_path / "r.html"
    assert "no run.json there" in refused("tools.report", f"--run_dir={tmp_path}", f"--output={output}")
    assert "no record yet" in refused("tools.report", f"--run_dir={make_run('empty', [])}", f"--output={output}")
    assert not output.exists()
