"""The page of tools.report in Chromium: on screens of two widths, light and dark; values, zoom, axes, runs that hide.

SCREENSHOTS=FOLDER keeps the pictures.
"""

import os
import pathlib
import re

import pytest

from pipeline.report import charts
from pipeline.report import page as report_page
from pipeline.report.read import read
from tests.helpers import made_up_runs
from tests.helpers.chromium import PATH, Chromium
from tools.report import sweeps

STEPS = 100_000
in_chromium = pytest.mark.skipif(PATH is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def long(folder):
    spikes = {77_777: 99.0, 5_555: -7.0}
    return read(str(made_up_runs.write(folder / "long", range(1, STEPS + 1), loss=lambda step: spikes.get(step, 2.0))))


@pytest.fixture(scope="module")
def pages(folder, long):
    """The files of pages, by what they are about, with the number of their figures."""
    one = read(str(made_up_runs.write(folder / "one", range(1, 61), identity=made_up_runs.WHOLE_IDENTITY)))
    resumed = read(str(made_up_runs.write_resumed(folder / "resumed")))
    sweep = sweeps.read_sweep([str(made_up_runs.write_sweep(folder / "sweep"))])
    runs = {"one": [one], "two": [one, resumed], "resumed": [resumed], "long": [long], "sweep": sweep.runs}
    files = {}
    for name, drawn in runs.items():
        figures, file = charts.figures(drawn), folder / f"{name}.html"
        more = (sweep.figures, sweep.name, sweep.table) if name == "sweep" else ()
        file.write_text(report_page.page(drawn, figures, *more))
        files[name] = (file, len(figures))
    return files


@pytest.fixture(scope="module")
def browser(folder):
    with Chromium(str(folder / "profile")) as chromium:
        yield chromium


def test_100_000_steps_keep_their_spikes_in_a_small_page(pages, long):
    loss = charts.figures([long])[0]
    (curve,), (means,) = loss.curves, loss.means
    assert len(curve) <= charts.MOST + 2 and len(means) == charts.MEANS
    assert (77_777.0, 99.0) in curve and (5_555.0, -7.0) in curve
    assert curve[0][0] == 1 and curve[-1][0] == STEPS
    assert means[55] == (5550.5, 1.91)
    assert pages["long"][0].stat().st_size < 1e6


@in_chromium
@pytest.mark.parametrize("name", ["one", "two", "resumed", "long", "sweep"])
def test_every_page_is_drawn_on_every_screen(pages, browser, tmp_path, name):
    kept = pathlib.Path(os.environ.get("SCREENSHOTS", tmp_path))
    file, count = pages[name]
    for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
        browser.screen(width, 900, dark=dark)
        browser.open(f"file://{file}")
        assert browser.run("document.documentElement.dataset.drawn") == str(count), "the script ended early"
        assert browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
        assert browser.run("performance.getEntriesByType('resource').length") == 0, "the page asks for something"
        red = int(re.findall(r"\d+", browser.run("getComputedStyle(document.body).backgroundColor"))[0])
        assert (red < 64) if dark else (red > 192)
        pixels = "[...plots[0].plot.ctx.getImageData(0, 0, plots[0].plot.ctx.canvas.width, 400).data]"
        coloured = "data[i + 3] > 60 && Math.max(...data.slice(i, i + 3)) - Math.min(...data.slice(i, i + 3)) > 80"
        assert browser.run(f"(data => data.filter((_, i) => i % 4 === 0 && {coloured}).length)({pixels})") > 100, (
            "no curve"
        )
        tables = "[...document.querySelectorAll('.scroll')].map(t => [t.scrollWidth > t.clientWidth + 1, t.className])"
        hints = [(wide, "wide" in kind) for wide, kind in browser.run(tables)]
        assert all(wide == hint for wide, hint in hints)
        assert width > 390 or name not in ("resumed", "sweep") or (True, True) in hints
        browser.screen(width, min(5000, browser.run("document.documentElement.scrollHeight")), dark=dark)
        (kept / f"{name}-{width}-{'dark' if dark else 'light'}.png").write_bytes(browser.screenshot())


@in_chromium
def test_a_reader_sees_values_zooms_and_chooses(pages, browser):
    browser.screen(1280, 900, dark=False)
    browser.open(f"file://{pages['two'][0]}")
    box = "(box => [box.left, box.top, box.width, box.height])(plots[0].plot.over.getBoundingClientRect())"
    browser.run("plots[0].plot.root.scrollIntoView({block: 'center'})")
    left, top, width, height = browser.run(box)

    def mouse(kind, step, **more):
        place = {"x": left + step / 60 * width, "y": top + height / 2}
        browser.send("Input.dispatchMouseEvent", type=kind, **place, **more)

    def told(step):
        mouse("mouseMoved", step)
        return browser.run("plots[0].plot.over.querySelector('.tip').innerText")

    assert re.findall(r"[\d.]+", told(30))[:3] == ["30", "2.1667", "2.1667"]
    assert "restart after step 20" in told(20) and "step 50: update skipped, loss or gradient not finite" in told(50)
    for kind, step in (("mousePressed", 30), ("mouseMoved", 45), ("mouseReleased", 45)):
        mouse(kind, step, button="left", clickCount=1)
    ranges = "plots.map(({plot}) => [plot.scales.x.min, plot.scales.x.max])"
    assert browser.run(ranges) == [[pytest.approx(30, abs=0.5), pytest.approx(45, abs=0.5)]] * len(browser.run(ranges))
    browser.run("get('reset').click()")
    assert browser.run(ranges)[0] == [0, 60]
    browser.run("get('by').value = 'tokens'; get('log-y').checked = true; get('by').dispatchEvent(new Event('input'))")
    assert browser.run(ranges)[0] == [0, 60 * 64] and browser.run("plots[0].plot.scales.y.distr") == 3
    assert browser.run("plots[0].plot.data[2].filter(value => value != null).length") == 58
    browser.run("document.querySelectorAll('#runs input')[1].click()")
    assert browser.run("plots[0].plot.series.slice(1).map(series => series.show)") == [True, False]
    browser.run("get('smoothing').value = 10; get('smoothing').dispatchEvent(new Event('input'))")
    assert browser.run("plots[0].plot.series.slice(1).map(series => series.show)") == [True, True, False, False]
    browser.run("get('by').value = 'hours'; get('by').dispatchEvent(new Event('input'))")
    assert browser.run(ranges)[0] == [0, pytest.approx(62 / 3600)]


@in_chromium
@pytest.mark.parametrize("logarithmic", [False, True])
def test_fingers_read_values_and_zoom(pages, browser, logarithmic):
    browser.screen(390, 844, dark=False)
    browser.send("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    browser.open(f"file://{pages['one'][0]}")
    browser.run(f"get('log-x').checked = {str(logarithmic).lower()}; get('log-x').dispatchEvent(new Event('input'))")
    browser.run("plots[0].plot.root.scrollIntoView({block: 'center'})")
    box = "(box => [box.left, box.top, box.width, box.height])(plots[0].plot.over.getBoundingClientRect())"
    left, top, width, height = browser.run(box)

    def touch(kind, *shares):
        points = [
            {"x": left + share * width, "y": top + height / 2, "id": number} for number, share in enumerate(shares)
        ]
        browser.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    ranges = "plots.map(({plot}) => [plot.scales.x.min, plot.scales.x.max])"
    whole = browser.run(ranges)[0]
    values = [browser.run(f"plots[0].plot.posToVal({share * width}, 'x')") for share in (0.25, 0.75)]
    touch("touchStart", 0.5)
    assert "nats per token" in browser.run("plots[0].plot.over.querySelector('.tip').innerText")
    touch("touchEnd")
    touch("touchStart", 0.4, 0.6)
    touch("touchMove", 0.3, 0.7)
    touch("touchMove", 0.2, 0.8)
    touch("touchEnd")
    # What was under the fingers at 0.4 and 0.6 is at 0.2 and 0.8: a third of the range, around its middle.
    zoomed = browser.run(ranges)
    middle = [browser.run(f"plots[0].plot.posToVal({share * width}, 'x')") for share in (0.2, 0.8)]
    assert whole[0] < zoomed[0][0] < middle[0] < middle[1] < zoomed[0][1] < whole[1] and values[0] < middle[0]
    assert zoomed == [zoomed[0]] * len(zoomed), "all figures"
    if not logarithmic:
        assert zoomed[0] == [pytest.approx(20, abs=1), pytest.approx(40, abs=1)]
    touch("touchStart", 0.2, 0.8)
    touch("touchMove", 0.49, 0.51)
    touch("touchMove", 0.45, 0.55)
    touch("touchEnd")
    assert browser.run(ranges)[0] == whole, "no further than the data go"
    browser.send("Emulation.setTouchEmulationEnabled", enabled=False)
