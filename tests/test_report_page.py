"""The page in a real browser: silent, without network, without scripts, and as wide as its window."""

import re

import pytest

from tests import chromium
from tests.report_runs import biased, draw_canvases, even, make_report, probe_rows, study_rows, write_pair, write_run

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
    write_pair(folder / "flow", *[study_rows("information_flow of probe")] * 2, model=attack,
               benchmark="information_flow of probe")  # fmt: skip
    write_run(folder / "similarity.jsonl", False, study_rows("similarity"), benchmark="similarity", model=attack)
    unfinished = write_run(folder / f"unfinished {attack}.jsonl", True, off)
    unfinished.rename(f"{unfinished}.part-0")
    return folder


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
            colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == dark
        tab.open(tmp_path / "bad.html", 400)  # what the assertions above would have seen
        assert tab.complaints()
        assert "http://127.0.0.1:9/x.png" in tab.fetched()
