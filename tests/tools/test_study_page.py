"""The study's page: it follows from the results, says what is missing, and its plots say what they show."""

import json
import math
import re
import shutil

import pytest

from tests.helpers.made_up_study import BEST, STUDY, all_cells, stored, write_cell, write_data
from tests.helpers.places import ROOT
from tools.study import figures, page
from tools.study.cells import CORPORA, grid
from tools.study.claims import Claim, Pair
from tools.study.results import Difference, Noise, Row
from tools.study.store import Store
from tools.study.tuning import by_seed, rate_grid, tune

NOISE = Noise(deviation=0.01, freedom=2)
UNKNOWN = Noise(deviation=math.inf, freedom=0)


@pytest.mark.parametrize(
    ("by_seed", "noise", "clear"),
    [
        ((0.1, 0.11, 0.12), UNKNOWN, True),
        ((-0.1, -0.11, -0.12), UNKNOWN, True),
        ((0.1, 0.3, -0.01), NOISE, False),
        ((0.1, 0.2, 0.3), NOISE, False),
        ((0.1,), UNKNOWN, False),
        ((-0.07,), NOISE, True),
        ((0.05,), NOISE, False),
        ((0.03,), Noise(deviation=0.01, freedom=100), True),
    ],
)
def test_a_clear_difference(by_seed, noise, clear):
    """Of several seeds by what they say in pairs; of a single one by 4.3 (at 2 degrees of freedom) times √2 × 0.01."""
    assert Difference(by_seed=by_seed, noise=noise).is_clear is clear


def test_the_noise_is_pooled_over_the_rows_with_several_seeds():
    noise = Noise.of([row(1.0, 1.2), row(5.0, 5.1, 5.2), row(9.0), None])
    assert noise.freedom == 3 and noise.deviation == pytest.approx(((0.02 + 0.02) / 3) ** 0.5)
    assert Noise.of([row(9.0), None]) == UNKNOWN


def row(*nats, seeds=1):
    return Row(rate=1, parameters=1, flops=1, seeds=seeds, nats=dict(enumerate(nats)), bits={})


def test_the_page_follows_from_the_results(tmp_path, run_module, cells_that_end):
    write_data(tmp_path)
    store = stored(tmp_path)
    tune(store, grid(STUDY), lambda cells: store.measure(tmp_path, cells, 2))
    store.measure(tmp_path, by_seed(STUDY, BEST), workers=2)
    output = tmp_path / "docs" / "study.md"
    page.write(store, output)
    text = output.read_text()
    verdicts = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if " nats, perplexity" in line}
    assert "| confirmed | cpython: +0.490 ± 0.014" in next(
        line for claim, line in verdicts.items() if "its decay frozen" in claim
    )
    assert "| no clear difference |" in next(
        line for claim, line in verdicts.items() if "scaling, Adafactor is better" in claim
    )
    assert "| nothing against it |" in next(line for claim, line in verdicts.items() if "costs nothing" in claim)
    assert "| 32 to 64: no clear difference; 64 to 128: the opposite |" in text
    assert "64 to 128: -0.200 ± 0.014 nats, perplexity × 0.82 |" in text
    assert "are not run yet" not in text and "| kernel, train | 7 | 4,000 | 2,000 | 4.10 |" in text
    tables_3 = re.findall(r"\| GPT-2(?:, larger)?: tables_3 \|.* \| (.*) \|\n", text)
    assert len(tables_3) == 2 and all(re.fullmatch(r"\+0\.2\d\d ± 0\.0\d\d, clear", more) for more in tables_3), (
        tables_3
    )
    plots = sorted((tmp_path / "docs" / "study").glob("*.svg"))
    assert len(plots) == 8 and all(f"study/{plot.name}" in text for plot in plots)
    first = [output.read_bytes(), *(plot.read_bytes() for plot in plots)]
    for plot in plots:
        plot.unlink()
    done = run_module("tools.study.page", f"--run_dir={tmp_path}/none", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert [output.read_bytes(), *(plot.read_bytes() for plot in plots)] == first, "written again from the results"
    curve = json.loads(store.path.read_text())["cells"][by_seed(STUDY, BEST)[0].name]["curve"]
    assert curve[0] == [1280, 8.95] and len(curve) == 50


def test_the_plots_say_what_they_show(tmp_path):
    rows = {f"{corpus}: {name}": {0: 5.0, 1: 5.2, 2: 5.1} for corpus in CORPORA for name in ("nanogpt", "frozen")}
    drawn = {"optimizers": rows, "contexts": {"128": {0: 5.0, 1: 5.2}, "256": {}}, "dropout": {}}
    drawn["embeddings"] = {"cpython: GPT-2": {0: 5.0}}
    (tmp_path / "dropout.svg").write_text("of before")
    losses = {"nanogpt": {"0.001": 6.0, "0.002": 5.0}, "algpt2": {"0.001": 6.0}, "muon": {}}
    figures.draw(losses, drawn, {label: [[100, 9.0], [200, 8.0]] for label in rows}, tmp_path)
    pictures = {file.stem: file.read_text() for file in tmp_path.glob("*.svg")}
    assert all("prefers-color-scheme: dark" in picture for picture in pictures.values())
    texts = {name: re.findall(r">([^<>]+)</text>", picture) for name, picture in pictures.items()}
    assert texts.keys() == {"rates", "tokens", "optimizers", "contexts", "embeddings"}
    assert {*CORPORA, "mean ± standard deviation of 3 seeds (no bar: one seed)", "a seed"} < {*texts["optimizers"]}
    assert texts["optimizers"].count("nanogpt") == 3 and texts["optimizers"].count(figures.LOSS) == 1
    assert {"cpython", "context, tokens", "128"} < {*texts["contexts"]} and "256" not in texts["contexts"]
    assert {"learning rate", "nanogpt", "scaled, ALGPT2", "chosen", figures.LOSS} < {*texts["rates"]}
    assert {"tokens, millions", *CORPORA, "frozen", "train loss, nats per token, running mean"} < {*texts["tokens"]}
    assert "a seed" not in texts["embeddings"], "one seed has no deviation"


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    committed = ROOT / "docs"
    page.write(Store.load(committed / "study.json"), tmp_path / "study.md")
    assert (tmp_path / "study.md").read_text() == (committed / "study.md").read_text()
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "study").glob("*.svg")}
    assert drawn == {file.name: file.read_bytes() for file in (committed / "study").glob("*.svg")}


def test_a_page_of_a_study_that_goes_on_says_what_is_missing(tmp_path, refused, run_module):
    output = tmp_path / "docs" / "study.md"
    assert "make study makes them" in refused("tools.study.page", f"--output={tmp_path}/page.md")
    assert "expected a file NAME.md" in refused("tools.study.page", f"--output={tmp_path}/page.txt")
    assert "its folder does not exist" in refused("tools.study.page", f"--output={tmp_path}/none/page.md")
    write_data(tmp_path)
    store = stored(tmp_path)
    store.write()
    page.write(store, output)
    count = len(all_cells(dict.fromkeys(BEST, 0.0)))
    grids = sum(len(cell.first_rates) for cell in grid(STUDY).values())
    assert f"**{grids + count} cells are not run yet" in output.read_text()
    first = [cell for cell in by_seed(STUDY, BEST) if cell.seed == 0]
    for cell in first:
        write_cell(tmp_path, cell)
    tried = tmp_path / "tried.json"  # what a grid needs, to have runs of it
    shutil.copy(store.path, tried)
    other = Store.load(tried)
    for cell in grid(STUDY).values():
        while missing := other.missing(rate_grid(other, cell)):
            for one in missing:
                write_cell(tmp_path, one)
            other.collect(tmp_path, missing)
    done = run_module("tools.study.page", f"--run_dir={tmp_path}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    assert f"**{len(all_cells()) - len(first)} cells are not run yet" in text
    assert "| not decided yet (1 of 3 seeds) | " in text
    assert all(
        (tmp_path / "docs/study" / f"{part}.svg").exists() == (f"(study/{part}.svg)" in text) for part in page.TITLES
    )


def test_a_verdict_names_its_pairs_where_they_differ():
    rows = {"part": {"high": row(5.0, 5.1, seeds=2), "low": row(4.0, 4.1, seeds=2), "one": row(4.0, seeds=2)}}
    rows["part"] |= {"single": row(4.0), "none": None}
    pairs = {lower: Pair(lower, "part", "high", lower) for lower in ("low", "one", "single", "none")}
    assert Claim("", (pairs["low"], pairs["low"])).verdict(rows, UNKNOWN)[0] == "confirmed"
    verdict, measured = Claim("", tuple(pairs.values())).verdict(rows, NOISE)
    assert verdict == "low: confirmed; one: not decided yet (1 of 2 seeds); single: confirmed; none: not run yet"
    one = "+1.000 ± 0.014 nats, perplexity × 2.72"
    assert measured == f"low: +1.000 ± 0.000 nats, perplexity × 2.72; one: {one}; single: {one}; none: —"
    assert Claim("", (pairs["single"],)).verdict(rows, UNKNOWN) == (
        "not decided yet (no row has several seeds)",
        "single: +1.000 nats, perplexity × 2.72",
    )
    assert Claim("", (pairs["low"],), equal=True).verdict(rows, NOISE)[0] == "not confirmed, a clear difference"
    assert Claim("", (Pair("", "part", "low", "high"),)).verdict(rows, NOISE)[0] == "the opposite"
