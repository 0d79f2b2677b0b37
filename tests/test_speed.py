"""eval/benchmark.py: both ways do the same work, and it says so if they do not."""

import pytest

from eval import benchmark
from eval.speed import paper_loops
from eval.speed.side_by_side import side_by_side
from models.errors import InputError
from tests.pictures import picture
from tests.probe_runs import write_rows


@pytest.fixture
def canvases(tmp_path):
    """Two canvases of 3 x 3 squares of 30 px, the upper left white."""
    (tmp_path / "images").mkdir()
    rows = []
    for number, position in enumerate(("center", "left")):
        canvas = picture(90, 90, number)
        canvas.paste("white", (0, 0, 30, 30))
        canvas.save(tmp_path / "images" / f"{number}_0.png")
        rows.append({"id": number, "image": f"{number}_0.png", "caption": "x", "position": position, "answer": "Yes"})
    write_rows(tmp_path / "probe.jsonl", rows)
    return ["--eval_file", str(tmp_path / "probe.jsonl"), "--img_path", str(tmp_path / "images")]


def measure(model, canvases, *more):
    few = ("--rounds", "2", "--items", "1")
    benchmark.main([*few, *more, "--model_path", str(model), *canvases, "--mask_size", "30"])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_both_parts_print_a_ratio_of_equal_work(tiny_folders, canvases, capsys, monkeypatch, family):
    monkeypatch.setattr(paper_loops, "MAX_NEW_TOKENS", 4)
    measure(tiny_folders[family], canvases, "probe", "perception", "--position_balance", "true")
    header, probe, perception = capsys.readouterr().out.splitlines()[1:]
    assert header.split()[-4:] == ["ratio", "of", "each", "round"]
    for line in (probe, perception):
        *_, papers, ours, ratio, first, second = line.split()
        assert float(papers) > 0
        assert float(ours) > 0
        assert float(ratio) == pytest.approx((float(first) + float(second)) / 2, abs=0.02)


def test_other_maps_are_no_ratio(tiny_folders, canvases, monkeypatch):
    monkeypatch.setattr(paper_loops, "MAX_NEW_TOKENS", 2)
    honest = paper_loops.cover
    monkeypatch.setattr(
        paper_loops, "cover", lambda canvas, square, size, colour: honest(canvas, square, size, (9, 9, 9))
    )
    with pytest.raises(AssertionError, match="the two ways draw different maps"):
        measure(tiny_folders["llava"], canvases, "perception")


def test_what_cannot_be_measured_is_named(tiny_folders, canvases):
    with pytest.raises(InputError, match="probe.jsonl: 2 positives, 18 are needed"):
        measure(tiny_folders["llava"], canvases, "probe", "--items", "9")
    with pytest.raises(InputError, match="--rounds: give 1 or more"):
        measure(tiny_folders["llava"], canvases, "probe", "--rounds", "0")


def test_ways_take_turns_and_the_median_counts(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def way(name, seconds):
        def work(number):
            order.append(name)
            clock[0] += seconds[number]
            return [number] * 5

        return work

    ratio, results = side_by_side(way("a", [4, 9, 6]), way("b", [2, 3, 1]), 3)
    assert "".join(order) == "abbaab"
    assert (ratio.median, ratio.rounds, ratio.seconds, ratio.units) == (3, [2, 3, 6], (6, 2), 5)
    assert results[2] == ([2] * 5, [2] * 5)
