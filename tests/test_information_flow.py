"""eval/information_flow.py against eager attention's own weights, and its report on planted maps."""

import base64
import json
import pickle
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch

from eval import information_flow, plots
from eval.flow_report import describe, drawn_with, read_maps, shape_numbers
from eval.generate import prepare
from eval.map_grid import lay
from models import load_model, tiny
from models.errors import InputError
from models.tiny import FAMILIES
from tests.benchmark_folders import crpe, hallusionbench, scienceqa
from tests.pictures import picture
from tests.probe_runs import read_rows, write_rows
from tests.test_similarity import compare, picture_of


def flow(model, probe, answers, *more) -> int:
    paths = ("--model_path", model, "--eval_file", probe / "probe.jsonl", "--img_path", probe / "images")
    command = (*paths, "--answers_file", answers, "--num_workers", 0, *more)
    return information_flow.main([str(part) for part in command])


def laid(path) -> np.ndarray:
    """All rows' attention on one grid, whatever theirs."""
    return np.stack([lay(np.frombuffer(base64.b64decode(row["flow"]), np.float32).reshape(row["shape"]), 6)
                     for row in read_rows(path)])  # fmt: skip


def maps_of(path) -> np.ndarray:
    """(items, layers, rows, columns), shares of all attention."""
    return read_maps(read_rows(path), str(path))[0] / 100


@pytest.mark.parametrize("position_balance", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_weights_of_eager_attention(kits, probe, tmp_path, family, position_balance):
    """Three prompts of unequal length, in one batch and alone (without padding there is no mask), against each alone
    through transformers' own output_attentions."""
    kit, answers = kits[family], tmp_path / "a.jsonl"
    more = ("--limit", 3, "--per_layer", "--position_balance", str(position_balance).lower())
    assert flow(kit.folder, probe, answers, *more) == 0
    assert flow(kit.folder, probe, tmp_path / "alone.jsonl", *more, "--batch_size", 1) == 0
    np.testing.assert_allclose(*(laid(path) for path in (answers, tmp_path / "alone.jsonl")), atol=1e-6)
    eager, processor = load_model(
        kit.folder, position_balance=position_balance, dtype="float32", attn_implementation="eager"
    )
    for row in read_rows(answers):
        text = information_flow.probe.PROMPT.format(caption=row["caption"])
        inputs = kit.inputs((picture_of(probe, row), text))
        with torch.no_grad():
            layers = eager(**inputs, output_attentions=True).attentions
        image = (inputs["input_ids"][0] == kit.image_token_id).nonzero()[:, 0]
        # (layers, image tokens): mean over heads and the text behind the image
        expected = torch.stack([layer[0, :, int(image[-1]) + 1 :][..., image].mean((0, 1)) for layer in layers])
        stored = np.frombuffer(base64.b64decode(row["flow"]), np.float32).reshape(row["shape"])
        grid = np.arange(stored[0].size).reshape(stored[0].shape)  # raster order, in the base view too
        if kit.fork.config.model_type == "qwen2_5_vl":
            _, height, width = inputs["image_grid_thw"][0].tolist()
            assert stored[0].shape == (height // 2, width // 2)
        else:
            assert stored.shape[1] == stored.shape[2]
        np.testing.assert_allclose(stored, expected.numpy()[:, grid], atol=1e-6)
        assert row["image_share"] == pytest.approx(float(expected.sum(1).mean()), abs=1e-5)


def test_the_last_token_and_the_mean_over_layers(llava, probe, tmp_path):
    for name, more in {"last": ("--from", "last_token"), "text": (), "layers": ("--per_layer",)}.items():
        assert flow(llava, probe, tmp_path / name, "--limit", 3, *more, "--position_balance", "false") == 0
    text, layers, last = (maps_of(tmp_path / name) for name in ("text", "layers", "last"))
    np.testing.assert_allclose(text[:, 0], layers.mean(1), atol=1e-6)
    eager, processor = load_model(llava, position_balance=False, dtype="float32", attn_implementation="eager")
    for row, found in zip(read_rows(tmp_path / "last"), last, strict=True):
        message = information_flow.probe.messages(row, Namespace(img_path=probe / "images"))
        with torch.no_grad():
            inputs = prepare(processor, [(0, message)]).inputs
            layers = torch.stack(eager(**inputs, output_attentions=True).attentions)
        image = (inputs["input_ids"][0] == eager.config.image_token_id).nonzero()[:, 0]
        np.testing.assert_allclose(found[0].ravel(), layers[:, 0, :, -1, image].mean((0, 1)), atol=1e-6)
    with pytest.raises(InputError, match="answers of another run"):
        flow(llava, probe, tmp_path / "last", "--limit", 3, "--position_balance", "false")


def test_the_tiles_of_llava_next_are_those_of_the_unpadded_canvas(tiny_folders, probe, tmp_path):
    folder = tiny_folders["llava_next_mistral"]
    more = ("--limit", 6, "--position_balance", "true")
    assert flow(folder, probe, tmp_path / "base", *more) == 0
    assert flow(folder, probe, tmp_path / "tiles", *more, "--view", "tiles") == 0
    base, tiles = ([row["shape"][1:] for row in read_rows(tmp_path / name)] for name in ("base", "tiles"))
    assert len({tuple(shape) for shape in base}) == 1 < len({tuple(shape) for shape in tiles})
    eager, processor = load_model(folder, position_balance=True, dtype="float32", attn_implementation="eager")
    for row, (rows, columns) in zip(read_rows(tmp_path / "tiles"), tiles, strict=True):
        width, height = picture_of(probe, row).size
        assert (rows > columns) == (height > width)
        message = information_flow.probe.messages(row, Namespace(img_path=probe / "images"))
        inputs = prepare(processor, [(0, message)]).inputs
        with torch.no_grad():
            layers = torch.stack(eager(**inputs, output_attentions=True).attentions)
        image = (inputs["input_ids"][0] == eager.config.image_token_id).nonzero()[:, 0]
        flow_of = layers[:, 0, :, int(image[-1]) + 1 :][..., image].mean((0, 1, 2))
        view = flow_of[-rows * (columns + 1) :].reshape(rows, columns + 1)[:, :columns]  # the last ends each row
        stored = np.frombuffer(base64.b64decode(row["flow"]), np.float32).reshape(rows, columns)
        np.testing.assert_allclose(stored, view.numpy(), atol=1e-6)


def test_every_patch_token_is_an_image_token_once(kits, probe):
    for kit in kits.values():
        picture = picture_of(probe, {"image": "000000_1.jpg"})
        inputs = kit.inputs((picture, "x"))
        count = int((inputs["input_ids"] == kit.image_token_id).sum())
        views = ("base", "tiles") if kit.fork.config.model_type == "llava_next" else ("base",)
        places = torch.cat([kit.fork.model.patch_tokens(view=view, **inputs)[0].flatten() for view in views])
        assert len(places.unique()) == len(places)
        assert places.max() < count
        if len(views) == 2:  # base, tiles, and a newline behind each row of tiles
            rows = len(kit.fork.model.patch_tokens(view="tiles", **inputs)[0])
            assert len(places) == count - rows
        else:
            assert len(places) == count


def test_a_cls_token_is_no_patch(kits, probe):
    from copy import deepcopy

    from models.modeling_llava import patch_tokens

    config = deepcopy(kits["llava"].fork.config)
    without = patch_tokens(config)
    config.vision_feature_select_strategy = "full"
    torch.testing.assert_close(patch_tokens(config), without + 1)
    config.vision_feature_select_strategy = "default"
    config.vision_config.model_type = "siglip_vision_model"
    with pytest.raises(ValueError, match="its grid has a hole"):
        patch_tokens(config)


def test_a_model_without_a_patch_grid_is_refused(probe, tmp_path):
    """A SigLIP tower, which has no CLS token, whose first token is dropped as if it were one."""
    model_class, clip, processor = tiny.llava()
    vision = tiny.CLIP | {"model_type": "siglip_vision_model", "vision_use_head": False}
    kept = {"text_config": clip.text_config, "image_token_index": clip.image_token_id, "position_balance": True}
    config = type(clip)(vision_config=vision, **kept)
    processor.num_additional_image_tokens = 0
    for part in (model_class(config), processor):
        part.save_pretrained(tmp_path / "hole")
    with pytest.raises(InputError, match="hole: no grid of patches is known .*drops the first patch"):
        flow(tmp_path / "hole", probe, tmp_path / "a.jsonl", "--limit", 2)
    assert not (tmp_path / "a.jsonl").exists()


def test_other_attention_is_not_used_and_a_notice_says_so(llava, probe, tmp_path, capsys):
    more = ("--limit", 2, "--position_balance", "true")
    notice = "is not used: the model runs with sdpa, and the weights of attention are computed beside it"
    assert flow(llava, probe, tmp_path / "a", *more) == 0
    assert "is not used" not in capsys.readouterr().out
    assert flow(llava, probe, tmp_path / "b", *more, "--attn_implementation", "eager") == 0
    assert f"information_flow of probe: --attn_implementation eager {notice}" in capsys.readouterr().out
    np.testing.assert_allclose(maps_of(tmp_path / "a"), maps_of(tmp_path / "b"), atol=1e-7)


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_attention_that_config_json_asks_for_is_not_used_either(llava, probe, tmp_path, capsys, field):
    folder = shutil.copytree(llava, tmp_path / "eager")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: "eager"}))
    more = ("--limit", 2, "--position_balance", "true")
    assert flow(folder, probe, tmp_path / "a", *more) == 0
    said = '"attn_implementation": "eager" of the checkpoint\'s config.json is not used: the model runs with sdpa'
    assert said in capsys.readouterr().out
    assert json.loads((tmp_path / "a.manifest.json").read_text())["attn_implementation"] == "sdpa"
    assert flow(folder, probe, tmp_path / "b", *more, "--attn_implementation", "sdpa") == 0
    assert "is not used" not in capsys.readouterr().out, "sdpa was asked for"
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_adapter_is_measured_like_a_model(tiny_folders, probe, tmp_path):
    import peft

    model, processor = load_model(tiny_folders["llava"], position_balance=True, dtype="float32")
    adapter = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    adapter.save_pretrained(tmp_path / "adapter")
    merged = adapter.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    processor.save_pretrained(tmp_path / "merged")
    for name in ("adapter", "merged"):
        assert flow(tmp_path / name, probe, tmp_path / f"{name}.jsonl", "--limit", 2, "--position_balance", "true") == 0
    np.testing.assert_allclose(maps_of(tmp_path / "adapter.jsonl"), maps_of(tmp_path / "merged.jsonl"), atol=1e-6)


def test_tiles_are_refused_where_there_are_none(llava, probe, tmp_path):
    with pytest.raises(InputError, match="--view tiles: a llava has one view"):
        flow(llava, probe, tmp_path / "a", "--view", "tiles", "--position_balance", "true")


def test_pan_and_scan_is_refused_until_the_file_that_can_switch_it_on_does_not(tiny_folders, tmp_path):
    """A wide picture. transformers heeds do_pan_and_scan of tokenizer_config.json, not of processor_config.json."""
    folder = shutil.copytree(tiny_folders["gemma3"], tmp_path / "gemma3")
    (tmp_path / "images").mkdir()
    picture(600, 200, 0).save(tmp_path / "images" / "0_0.png")
    row = {"id": 0, "image": "0_0.png", "caption": "x", "position": "center", "answer": "Yes"}
    write_rows(tmp_path / "probe.jsonl", [row, row | {"id": 1, "caption": "y", "image": "0_0.png", "position": "left"}])
    settings = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 64}

    def measured(name, change):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(content)))
        for number, study in enumerate((flow, compare)):
            assert study(folder, tmp_path, tmp_path / f"{number}.jsonl", "--overwrite") == 0

    measured(
        "processor_config.json", lambda old: old | settings | {"image_processor": old["image_processor"] | settings}
    )
    with pytest.raises(InputError, match="delete do_pan_and_scan from its tokenizer_config.json"):
        measured("tokenizer_config.json", lambda old: old | settings)
    with pytest.raises(InputError, match="delete do_pan_and_scan from its tokenizer_config.json"):
        compare(folder, tmp_path, tmp_path / "c.jsonl")
    measured("tokenizer_config.json", lambda old: {name: old[name] for name in old if name not in settings})


def test_the_same_command_twice_changes_nothing_and_crosses_processes(llava, probe, tmp_path):
    for _ in range(2):
        assert flow(llava, probe, tmp_path / "a", "--limit", 2, "--position_balance", "true") == 0
    pickle.dumps(information_flow.study(information_flow.BENCHMARKS["probe"]))  # loader processes may be spawned


def test_attention_that_is_no_number_is_an_error(llava, probe, tmp_path):
    model, processor = load_model(llava, position_balance=True, dtype="float32")
    with torch.no_grad():
        model.model.language_model.layers[0].self_attn.q_proj.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    assert flow(tmp_path / "broken", probe, tmp_path / "a", "--limit", 2, "--position_balance", "true") == 1
    assert all("not finite" in row["error"] for row in read_rows(tmp_path / "a"))


def test_intervals_hold_captions_together_and_cover_the_truth():
    """20 captions of 9 near-copies: of 40 draws, the intervals hold the shape of the map without noise in most."""
    truth = np.arange(1, 37.0).reshape(6, 6)
    wanted = {name: values[0] for name, values in shape_numbers(truth[None]).items()}
    held = dict.fromkeys(wanted, 0)
    widths = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        captions = truth * np.exp(0.8 * rng.standard_normal((20, 6, 6)))
        scale = np.exp(0.5 * rng.standard_normal(20))
        shares = 0.1 * scale
        rows = [
            {"image": f"{c}_{k}.jpg", "position": "center", "image_share": shares[c]}
            for c in range(20)
            for k in range(9)
        ]
        found = describe(captions.repeat(9, axis=0), rows, 200, seed)
        for name in wanted:
            held[name] += found[name]["low"] <= wanted[name] <= found[name]["high"]
        widths.append((found["image_share"]["high"] - found["image_share"]["low"]) / 2)
    assert min(held.values()) >= 30, held
    expected = 1.96 * 10 * np.sqrt(np.exp(0.25) * (np.exp(0.25) - 1)) / np.sqrt(20)
    assert np.mean(widths) == pytest.approx(expected, rel=0.25), "half an interval, of 20 captions and not of 180 items"


def test_shape_numbers_of_known_maps():
    uniform, corner = np.ones((4, 6)), np.zeros((4, 6))
    corner[3, 5] = 2.0
    ramp = np.arange(24.0).reshape(4, 6)
    found = shape_numbers(np.stack([uniform, corner, ramp]))
    np.testing.assert_allclose(found["entropy"][:2], [1, 0], atol=1e-12)
    np.testing.assert_allclose(found["centre_x"][:2], [0.5, 5.5 / 6])
    np.testing.assert_allclose(found["centre_y"][:2], [0.5, 3.5 / 4])
    assert found["raster"][2] == pytest.approx(1)
    assert shape_numbers(ramp[None, ::-1, ::-1])["raster"][0] == pytest.approx(-1)


def test_laying_keeps_what_there_is_and_where():
    map_ = np.random.default_rng(0).random((5, 7))
    assert lay(map_, 3).sum() == pytest.approx(map_.sum())
    np.testing.assert_allclose(lay(lay(map_, 35), 5).sum(1), map_.sum(1))
    left = np.zeros((4, 4))
    left[:, 0] = 1
    np.testing.assert_allclose(lay(left, 3), np.outer([4 / 3] * 3, [1, 0, 0]))
    np.testing.assert_allclose(lay(np.eye(2), 3)[1, 1], 2 * (1 / 3) ** 2)


def planted(path, maps) -> None:
    rows = []
    for number, map_ in enumerate(maps):
        encoded = base64.b64encode(np.asarray(map_, np.float32).tobytes()).decode()
        shape = list(np.shape(map_))
        rows.append({"id": number, "flow": encoded, "shape": shape, "image_share": float(np.sum(map_) / len(map_))})
    write_rows(path, rows)


@pytest.mark.parametrize("layout", [scienceqa, crpe, hallusionbench], ids=lambda layout: layout.__name__)
def test_other_benchmarks_prompts_are_measured(tiny_folders, tmp_path, capsys, layout):
    answers = tmp_path / "flow.jsonl"
    parts = ["--benchmark", layout.__name__, "--model_path", tiny_folders["gemma3"], "--answers_file", answers]
    assert information_flow.main([str(part) for part in (*parts, *layout(tmp_path / "data"), "--num_workers", 0)]) == 0
    rows = read_rows(answers)
    assert len(rows) == {"scienceqa": 2, "crpe": 8, "hallusionbench": 6}[layout.__name__]
    assert ("2 items without exactly one picture" in capsys.readouterr().out) == (layout is hallusionbench)
    plots.main(["information_flow", "--results_file", str(answers), "--output_path", str(tmp_path / "f.png")])
    assert "normalised entropy" in capsys.readouterr().out


def test_items_of_one_picture_are_drawn_together():
    """ScienceQA calls every picture image.png."""
    rows = [{"image": f"{n}/image.png", "image_sha256": str(n)} for n in (1, 1, 2)]
    assert [drawn_with(row, place) for place, row in enumerate(rows)] == ["1", "1", "2"]
    assert drawn_with({"image": "7_3.jpg", "position": "center", "image_sha256": "x"}, 0) == "7"
    assert drawn_with({}, 5) == "5"


def test_report(tmp_path, capsys):
    ramp = np.arange(1, 37.0).reshape(1, 6, 6) / 1000
    planted(tmp_path / "off", [ramp, ramp, ramp])
    planted(tmp_path / "on", [np.full((1, 6, 6), 0.01)] * 3)
    files = [part for name in ("off", "on") for part in ("--results_file", str(tmp_path / name))]
    outputs = ["--output_path", str(tmp_path / "f.png"), "--output_json", str(tmp_path / "f.json")]
    plots.main(["information_flow", *files, *outputs])
    off, on = json.loads((tmp_path / "f.json").read_text())["runs"]
    assert off["raster"]["value"] == pytest.approx(1)
    assert on["raster"]["value"] is None, "a constant correlates with nothing"
    assert on["entropy"]["value"] == pytest.approx(1)
    assert off["image_share"]["value"] == pytest.approx(100 * ramp.sum(), abs=1e-3)
    assert [third["value"] for third in on["thirds"]] == pytest.approx([100 / 9] * 9, abs=1e-4)
    assert off["thirds"][0]["value"] < off["thirds"][8]["value"]
    assert (tmp_path / "f.png").stat().st_size > 10_000
    output = capsys.readouterr().out
    assert "normalised entropy" in output
    assert "entropy and raster correlation: basic intervals, which make up for noise and may lie beside the" in output
    assert "[]: 95% bootstrap intervals, 2000 resamples of captions (probe) or pictures (benchmarks), seed 0" in output


def test_one_caption_has_no_intervals_and_none_are_explained(tmp_path, capsys):
    planted(tmp_path / "a", [np.arange(1, 37.0).reshape(1, 6, 6) / 1000])
    plots.main(["information_flow", "--results_file", str(tmp_path / "a"), "--output_path", str(tmp_path / "f.png")])
    output = capsys.readouterr().out
    assert "normalised entropy" in output
    assert "interval" not in output
    assert "[]" not in output


def test_maps_of_several_grids_are_laid_onto_one(tmp_path, capsys):
    planted(tmp_path / "a", [np.full((1, 6, 6), 1 / 72), np.full((1, 3, 5), 1 / 30)])
    plots.main(["information_flow", "--results_file", str(tmp_path / "a"), "--output_path", str(tmp_path / "f.png")])
    assert "several patch grids, laid onto 24 x 24" in capsys.readouterr().out
    laid, was_laid = read_maps(read_rows(tmp_path / "a"), "a")
    assert was_laid
    np.testing.assert_allclose(laid.sum((2, 3)), 50, atol=1e-4)
