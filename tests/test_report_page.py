"""The page in a real browser: silent, without network, without scripts, and as wide as its window."""

import base64
import re

import numpy as np
import pytest

from eval.heatmaps import Panel, probe_heatmaps
from eval.reporting.pictures import drawn
from tests import chromium
from tests.report_runs import (
    biased,
    draw_canvases,
    even,
    make_report,
    probe_rows,
    study_rows,
    write_pair,
    write_rotary,
    write_run,
)

ATTACKS = (
    "<script>document.title = 'taken'; console.log('script')</script>",
    "\"><img src='https://example.org/x.png' onerror=\"document.title = 'taken'\">",
    "</style></svg></details><iframe src=https://example.org></iframe>{{ 7 * 7 }}",
)
WIDE = "a_caption_without_any_space_" * 12
SIZES = [(width, dark) for width in (400, 1400) for dark in (False, True)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results whose captions, replies, folders and model want to be more than text."""
    folder = tmp_path_factory.mktemp("results") / "<b>bold</b> & \"quoted'"
    off, on = probe_rows(biased), probe_rows(even)
    draw_canvases(folder / "canvases", off)
    for number, (first, second) in enumerate(zip(off, on, strict=True)):
        second["image_sha256"] = first["image_sha256"]
        first["caption"] = second["caption"] = WIDE if number % 4 == 3 else ATTACKS[number % 4]
        second["prediction"] += " " + ATTACKS[0]
    attack = ATTACKS[1].replace("/", "|")
    write_pair(folder / "runs", off, on, model=attack)
    for study in ("information_flow of probe", "perception"):
        write_pair(folder / study, *[study_rows(study)] * 2, model=attack, benchmark=study)
    write_rotary(folder / "rotary.json", model=attack, layer_types=("full_attention", "sliding_attention"))
    write_run(folder / "similarity.jsonl", False, study_rows("similarity"), benchmark="similarity", model=attack)
    unfinished = write_run(folder / f"unfinished {attack}.jsonl", True, off)
    unfinished.rename(f"{unfinished}.part-0")
    return folder


# What is wrong with figures: [alt, px on the page, px as drawn, px beyond the window or what encloses it].
FIGURES = """[...document.querySelectorAll('figure img')].map(image => {
    const shown = image.getBoundingClientRect();
    let beyond = Math.max(shown.right - document.documentElement.clientWidth, -shown.left);
    for (let one = image.parentElement; one; one = one.parentElement) {
        const around = one.getBoundingClientRect();
        beyond = Math.max(beyond, shown.right - around.right, around.left - shown.left);
    }
    return [image.alt, shown.width, image.naturalWidth, beyond];
}).filter(([alt, width, drawn, beyond]) => beyond > 1 || width < 0.95 * drawn)"""


def test_what_others_wrote_stays_text(results):
    page = make_report(results)
    assert not re.search(r"<(script|iframe)|onerror=\"|<b>bold", page)
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("<img ") == len(
        re.findall(r'<img src="data:image/(?:svg\+xml|jpeg);base64,[\w+/=]+" alt="', page)
    )
    assert "http://" not in page
    assert all(address.startswith("example.org") for address in page.split("https://")[1:])


@pytest.mark.skipif(chromium.BROWSER is None, reason="no Chromium is installed")
def test_the_page_in_a_browser(results, tmp_path):
    make_report(results)
    (tmp_path / "bad.html").write_text("<title>a</title><img src=http://127.0.0.1:9/x.png onerror=console.log(this)>")
    with chromium.browser(tmp_path / "profile") as tab:
        for width, dark in SIZES:
            tab.open(results / "page.html", width, dark)
            assert tab.complaints() == []
            assert tab.fetched() == [(results / "page.html").resolve().as_uri()]
            assert tab.evaluate("document.title").startswith("Spatial bias: ")
            assert tab.evaluate("document.scripts.length + document.querySelectorAll('iframe').length") == 0
            assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0 && image.alt)")
            tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            widths = tab.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert widths[0] <= widths[1], f"wider than a window of {width}"
            cut = "[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth).length"
            assert tab.evaluate(cut) == 0, "a table of which a part is not to be seen"
            assert tab.evaluate(FIGURES) == [], "a figure that is cut, or too small to be read"
            colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == dark
        tab.open(tmp_path / "bad.html", 400)  # what the assertions above would have seen
        assert tab.complaints()
        assert "http://127.0.0.1:9/x.png" in tab.fetched()


@pytest.mark.skipif(chromium.BROWSER is None, reason="no Chromium is installed")
def test_a_cell_without_data_can_be_read_in_both_themes(tmp_path):
    cells = np.full((3, 3), 80.0)
    cells[0, 0] = np.nan
    picture = drawn(lambda path: probe_heatmaps([Panel("off", "mean", cells)], path), "A cell without data")
    (tmp_path / "cells.svg").write_bytes(base64.b64decode(picture.source.partition(",")[2]))
    # matplotlib draws letters as shapes and says in a comment beside them what they are.
    fills = """(() => {
        const is_said = (one, words) => [...one.childNodes].some(
            node => node.nodeType === Node.COMMENT_NODE && node.data.trim() === words);
        const named = words => [...document.querySelectorAll('g')].find(one => is_said(one, words));
        const fill = one => getComputedStyle(one).fill;
        return {inks: ['no data', 'top left'].map(words => fill(named(words).querySelector('use'))),
                field: fill(document.querySelector('pattern rect')),
                hatch: getComputedStyle(document.querySelector('pattern path')).stroke,
                behind: fill(named('no data').querySelector('path'))};
    })()"""
    with chromium.browser(tmp_path / "profile") as tab:
        for dark in (False, True):
            tab.open(tmp_path / "cells.svg", 400, dark)
            found = tab.evaluate(fills)
            for ink in found["inks"]:
                assert contrast(ink, found["field"]) > 4.5
            assert found["behind"] == found["field"]
            assert contrast(found["hatch"], found["field"]) < 2, "a hatch that shows through the words"
            assert (luminance(found["field"]) < 0.1) == dark


def contrast(first: str, second: str) -> float:
    """Ratio of two colours as CSS writes them (WCAG 2.1)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """0, black, to 1, white."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
