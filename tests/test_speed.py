"""eval/benchmark.py: both ways do the same work, and it says so if they do not."""

import json
import re
import sys

import pytest
import torch

from eval import benchmark, generate, performance_page
from eval.speed import building, commands, growth, operators, overhead, paper_loops, positions, sharding, utilisation
from eval.speed.peak_memory import peak_bytes, reset_peak
from eval.speed.side_by_side import side_by_side
from models.errors import InputError
from tests.pictures import picture
from tests.probe_runs import write_rows
from train import geometry, narrow
from train.random_weights import random_weights


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


def measure(model, canvases, *more, rounds=2):
    few = ("--rounds", str(rounds), "--model_path", str(model), *canvases, "--mask_size", "30")
    items = () if "--items" in more else ("--items", "1")
    benchmark.main([*more, *items, *few])


def small(monkeypatch):
    """Shorter work of every kind; what is compared stays."""
    monkeypatch.setattr(paper_loops, "MAX_NEW_TOKENS", 4)
    monkeypatch.setattr(overhead, "FAMILIES", ("llava_1_5_7b", "qwen2_5_vl_7b", "gemma3_12b"))
    monkeypatch.setattr(overhead, "DECODED", 3)
    monkeypatch.setattr(narrow, "CANVAS", (112, 112))
    monkeypatch.setattr(positions, "LENGTHS", (3_000,))
    monkeypatch.setattr(positions, "BATCHES", (1, 2))
    monkeypatch.setattr(positions, "SECONDS", 0.01)
    monkeypatch.setattr(building, "CROPS", 1)
    monkeypatch.setattr(sharding, "ITEMS", (90, 180))
    monkeypatch.setattr(overhead, "MORE_ROUNDS", 1)
    monkeypatch.setitem(utilisation.SIDES, "cpu", 256)
    monkeypatch.setattr(growth, "TOKENS", (100, 1_000))
    monkeypatch.setattr(growth, "PICTURES", (1, 2))


def saved(tmp_path) -> dict[str, list[dict]]:
    """The rows of the last run, by part."""
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    return {part: [row for row in rows if row["part"] == part] for part in {row["part"] for row in rows}}


def test_every_part_is_measured_saved_and_put_on_a_page(tiny_folders, canvases, tmp_path, monkeypatch, capsys):
    small(monkeypatch)
    measure(tiny_folders["llava"], canvases, "--output_json", str(tmp_path / "speed.json"), rounds=1)
    printed = capsys.readouterr().out
    found = saved(tmp_path)
    assert set(found) == set(benchmark.PARTS) - {"engine"}, "which needs vLLM"
    assert len(found["overhead"]) == 3 * 3
    assert len(found["positions"]) == 5 * 2
    compared = {part: [row for row in rows if "ratio" in row] for part, rows in found.items()}
    sizes = [row for rows in found.values() for row in rows if "ratio" not in row]
    for rows in compared.values():
        for row in rows:
            ratio = row["ratio"]
            assert min(ratio["seconds"]) > 0
            assert [ratio["median"]] == ratio["rounds"]
            assert row["what"] in printed
            assert row["met"] is None or row["goal"].startswith("at most") is (row["part"] in ("overhead", "positions"))
    waits = {row["what"]: tuple(map(int, re.findall(r"\d+", row["note"]))) for row in found["positions"]}
    of_tiles = {what: counts for what, counts in waits.items() if "1_6" in what or "next" in what}
    # LLaVA-NeXT's read the pictures' sizes, from which their numbers of tokens follow, and bring these back.
    assert len(of_tiles) == 4
    assert set(of_tiles.values()) == {(2, 0)}
    assert {ours for what, (ours, _) in waits.items() if what not in of_tiles} == {0}
    assert max(upstreams for _, upstreams in waits.values()) > 0, "Qwen2.5-VL's of upstream wait"
    counted = [list(map(int, re.findall(r"\d+", row["note"].replace(",", "")))) for row in found["overhead"]]
    assert all(0 < abs(on - off) < 0.2 * off for on, off, *_ in counted)
    assert [row["first"] for row in compared["shard"]] == ["1 process"]
    assert [(row["size"], row["unit"], row["computed"]) for row in sizes if row["part"] == "growth"] == [
        *((100, "token", False), (1_000, "token", False), (1, "picture", False), (2, "picture", False))
    ]
    assert all("%" in row["limit"] for row in found["growth"]), "an operator and its share"
    few, many, *processes = (row for row in sizes if row["part"] == "shard")
    assert (few["size"], many["size"]) == (90, 180)
    assert [row["size"] for row in processes] == [1, 2, 4, 8]
    assert processes[0]["seconds"] > processes[2]["seconds"] > processes[3]["seconds"] > many["seconds"] > 0
    assert all(row["computed"] for row in processes)
    assert all(row["peak"] > 1e7 for row in sizes if not row["computed"])
    (tmp_path / "findings.md").write_text("## What limits the rest\n\nNothing.\n")
    words = ["--results_file", tmp_path / "speed.json", "--findings", tmp_path / "findings.md"]
    performance_page.main([*map(str, words), "--output", str(tmp_path / "page.md")])
    page = (tmp_path / "page.md").read_text()
    assert page.endswith("Nothing.\n")
    assert all(f"### {part}\n" in page for part in found)
    assert page.count("\n| ") > sum(map(len, found.values()))


def test_both_flags_of_a_narrow_model_are_measured():
    """What is switched is what the models read: balanced positions, and with the flag off upstream's."""
    model = narrow.narrow_model("llava_1_5_7b", torch.device("cpu"))
    batch = narrow.prompt_of(model, 8)
    positions_of = {}
    for flag in (False, True):
        model.config.position_balance = flag
        with torch.inference_mode():
            positions_of[flag] = model._prepare_position_ids_for_generation(batch["input_ids"], batch)
    assert int(positions_of[False].max()) == 576 + 7
    assert int(positions_of[True].max()) == 8


def test_batches_of_another_family(tiny_folders, canvases, monkeypatch, tmp_path):
    monkeypatch.setattr(paper_loops, "MAX_NEW_TOKENS", 4)
    words = ("probe", "perception", "--position_balance", "true", "--output_json", str(tmp_path / "speed.json"))
    measure(tiny_folders["qwen2_5_vl"], canvases, *words)
    assert {part: rows[0]["ratio"]["units"] for part, rows in saved(tmp_path).items()} == {"probe": 1, "perception": 8}


def test_random_weights_of_a_released_geometry(canvases, monkeypatch, tmp_path):
    """Made narrow for a CPU: the studies run on it, and the share of a matrix product's rate is of its count."""
    config = narrow.narrow_config(narrow.LORA).to_dict()
    values = {name: config[name] for name in ("text_config", "vision_config")}
    monkeypatch.setitem(geometry.GEOMETRIES, narrow.LORA, ("qwen2_5_vl", values))
    small(monkeypatch)
    words = ("probe", "perception", "train", "--geometry", narrow.LORA, "--output_json", str(tmp_path / "speed.json"))
    measure("not read", canvases, *words, rounds=1)
    found = saved(tmp_path)
    assert found["probe"][0]["what"].startswith("qwen2_5_vl_7b with random weights")
    assert found["perception"][0]["ratio"]["units"] == 8
    for part in ("probe", "train"):
        gflop, unit = re.match(r"([\d.,e-]+) GFLOP an (\w+) by count, \d+% of the ", found[part][0]["note"]).groups()
        assert float(gflop) > 0
        assert unit == {"probe": "item", "train": "update"}[part]
    with pytest.raises(InputError, match="--geometry gemma3_12b: choose one of qwen2_5_vl_7b, qwen2_5_vl_32b"):
        measure("not read", canvases, "overhead", "probe", "--geometry", "gemma3_12b")
    with pytest.raises(InputError, match="--geometry: vLLM needs a checkpoint"):
        measure("not read", canvases, "engine", "--geometry", narrow.LORA)


def test_full_size_is_that_of_the_release():
    """Without values: the weights that Qwen2.5-VL-7B's card gives, and as many tokens of the probe's canvas."""
    model, processor = random_weights(narrow.LORA, torch.device("meta"), True)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(8.29e9, rel=0.001)
    assert (model.dtype, model.config.position_balance, model.training) == (torch.bfloat16, True, False)
    inputs = processor(text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[picture(840, 840)])
    assert sum(token == model.config.image_token_id for token in inputs["input_ids"][0]) == 900


def test_loader_processes_have_a_core_each(monkeypatch):
    monkeypatch.setattr(generate, "_cores", lambda: 4)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for workers, threads in ((0, 4), (1, 3), (4, 1), (9, 1)):
            with generate.threads_beside(workers, torch.device("cpu")):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 4
        with generate.threads_beside(1, torch.device("cuda")):
            assert torch.get_num_threads() == 4
        torch.set_num_threads(2)  # OMP_NUM_THREADS, or torchrun, has set fewer
        with generate.threads_beside(1, torch.device("cpu")):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_counted_operations_are_those_of_a_matrix_product():
    model, queries = torch.nn.Linear(64, 32, bias=False), torch.ones(1, 2, 10, 16)

    def work():
        model(torch.ones(10, 64))
        torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)

    expected = 2 * 10 * 64 * 32 + 2 * (2 * 2 * 10 * 10 * 16)
    assert utilisation.counted(work) == expected
    with torch.inference_mode():
        assert utilisation.counted(work) == expected


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
        measure(tiny_folders["llava"], canvases, "probe", rounds=0)
    with pytest.raises(InputError, match="prob: no part; choose among overhead, "):
        measure(tiny_folders["llava"], canvases, "prob")
    with pytest.raises(InputError, match="probe, shard: give --eval_file and --img_path"):
        benchmark.main(["probe", "build", "shard", "growth"])
    with pytest.raises(InputError, match="--mask_size 40: does not divide 0_0.png, 90 x 90 px"):
        benchmark.main(["overhead", "perception", *canvases, "--rounds", "1", "--mask_size", "40"])
    with pytest.raises(InputError, match="--device: 'gpu' is none of auto, cpu"):
        benchmark.main(["overhead", "--device", "gpu"])


def test_what_is_no_result_makes_no_page(tmp_path):
    results, findings = tmp_path / "results.json", tmp_path / "findings.md"
    findings.write_text("None.")
    words = ["--results_file", str(results), "--findings", str(findings), "--output"]
    for text, message in (("{", "not JSON"), ("{}", "holds no results of eval/benchmark.py")):
        results.write_text(text)
        with pytest.raises(InputError, match=f"results.json: {message}"):
            performance_page.main([*words, str(tmp_path / "page.md")])
    empty = {
        "hardware": "",
        "versions": {},
        "commit": "",
        "command": "",
        "changed_since": False,
        "seconds": {},
        "rows": [],
    }
    results.write_text(json.dumps(empty))
    with pytest.raises(InputError, match="page.md: cannot be written"):
        performance_page.main([*words, str(results / "page.md")])


def test_a_command_has_its_own_peak_and_its_own_words():
    held = torch.ones(50_000_000)  # 200 MB, of the parent
    ended = commands.called([sys.executable, "-S", "-c", "text = 'x' * 50_000_000; print(len(text))"])
    assert 50e6 < ended.peak < 150e6 < held.nbytes
    assert ended.printed == "50000000\n"
    with pytest.raises(InputError, match="ended with status"):
        commands.called([sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(InputError, match=": a reason$"):
        commands.called([sys.executable, "-S", "-c", "import sys; sys.exit('told\\na reason')"])


def test_reads_that_wait_for_a_gpu_are_counted():
    numbers = torch.arange(4)
    waiting = {
        "values": lambda: numbers.tolist(),
        "a value": lambda: bool(numbers[0] > 1),
        "a mask": lambda: numbers[numbers > 1],
        "places": lambda: numbers.nonzero(),
        "lengths": lambda: numbers.repeat_interleave(numbers),
        "a list brought there": lambda: torch.tensor([1, 2], device=numbers.device),
    }
    assert {name: operators.waits(work) for name, work in waiting.items()} == dict.fromkeys(waiting, 1)
    for work in (lambda: numbers[numbers].cumsum(0) + 1, lambda: torch.tensor([1, 2])):
        assert operators.waits(work) == 0
    assert operators.operators(lambda: numbers + 1 - 2) == 2


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
    assert all(peak is None or peak > 1e7 for peak in ratio.peaks)
    assert results[2] == ([2] * 5, [2] * 5)


def test_the_peak_is_of_the_work_alone():
    torch.ones(7_500_000)  # 30 MB, freed: glibc keeps pieces up to that size for itself from now on
    pieces = [torch.ones(5_000_000) for _ in range(20)]
    last = pieces[-1]
    del pieces
    reset_peak()
    before = peak_bytes()
    held = torch.ones(50_000_000)  # 200 MB
    assert peak_bytes() - before > 150e6
    del held, last
    reset_peak()
    assert peak_bytes() - before < 100e6
