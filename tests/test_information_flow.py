"""eval/information_flow.py against eager attention's own weights, and its report on planted maps."""

import base64
import json

import numpy as np
import pytest
import torch

from eval import information_flow, plots
from eval.flow_report import read_maps, shape_numbers
from eval.map_grid import lay
from models import load_model
from models.errors import InputError
from models.tiny import FAMILIES
from tests.probe_runs import read_rows, write_rows
from tests.test_similarity import picture_of


def flow(model, probe, answers, *more) -> int:
    paths = ("--model_path", model, "--eval_file", probe / "probe.jsonl", "--img_path", probe / "images")
    command = (*paths, "--answers_file", answers, "--num_workers", 0, *more)
    return information_flow.main([str(part) for part in command])


def maps_of(path) -> np.ndarray:
    """(items, layers, rows, columns), shares of all attention."""
    return read_maps(read_rows(path), str(path))[0] / 100


@pytest.mark.parametrize("position_balance", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_weights_of_eager_attention(kits, probe, tmp_path, family, position_balance):
    """Three prompts of unequal length in one batch, against each alone through transformers' own output_attentions."""
    kit, answers = kits[family], tmp_path / "a.jsonl"
    flag = str(position_balance).lower()
    assert flow(kit.folder, probe, answers, "--limit", 3, "--per_layer", "--position_balance", flag) == 0
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
        np.testing.assert_allclose(stored, expected.numpy()[:, grid], atol=1e-6)
        assert row["image_share"] == pytest.approx(float(stored.sum((1, 2)).mean()), abs=1e-5)


def test_the_last_token_and_the_mean_over_layers(llava, probe, tmp_path):
    for name, more in {"last": ("--from", "last_token"), "text": (), "layers": ("--per_layer",)}.items():
        assert flow(llava, probe, tmp_path / name, "--limit", 3, *more, "--position_balance", "false") == 0
    text, layers, last = (maps_of(tmp_path / name) for name in ("text", "layers", "last"))
    np.testing.assert_allclose(text[:, 0], layers.mean(1), atol=1e-6)
    assert np.abs(text - last).max() > 1e-4
    with pytest.raises(InputError, match="answers of another run"):
        flow(llava, probe, tmp_path / "last", "--limit", 3, "--position_balance", "false")


def test_the_tiles_of_llava_next_are_those_of_the_unpadded_canvas(tiny_folders, probe, tmp_path):
    folder = tiny_folders["llava_next_mistral"]
    more = ("--limit", 6, "--position_balance", "true")
    assert flow(folder, probe, tmp_path / "base", *more) == 0
    assert flow(folder, probe, tmp_path / "tiles", *more, "--view", "tiles") == 0
    base, tiles = ([row["shape"][1:] for row in read_rows(tmp_path / name)] for name in ("base", "tiles"))
    assert len({tuple(shape) for shape in base}) == 1 < len({tuple(shape) for shape in tiles})
    for row, (rows, columns) in zip(read_rows(tmp_path / "tiles"), tiles, strict=True):
        width, height = picture_of(probe, row).size
        assert (rows > columns) == (height > width)


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


def test_other_attention_is_switched_with_a_notice(llava, probe, tmp_path, capsys):
    assert flow(llava, probe, tmp_path / "a", "--limit", 2, "--position_balance", "true") == 0
    more = ("--attn_implementation", "eager", "--position_balance", "true")
    assert flow(llava, probe, tmp_path / "b", "--limit", 2, *more) == 0
    assert "attention switched to sdpa" in capsys.readouterr().err
    np.testing.assert_allclose(maps_of(tmp_path / "a"), maps_of(tmp_path / "b"), atol=1e-7)


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
    assert "normalised entropy" in capsys.readouterr().out


def test_maps_of_several_grids_are_laid_onto_one(tmp_path, capsys):
    planted(tmp_path / "a", [np.full((1, 6, 6), 1 / 72), np.full((1, 3, 5), 1 / 30)])
    plots.main(["information_flow", "--results_file", str(tmp_path / "a"), "--output_path", str(tmp_path / "f.png")])
    assert "several patch grids, laid onto 24 x 24" in capsys.readouterr().out
    laid, was_laid = read_maps(read_rows(tmp_path / "a"), "a")
    assert was_laid
    np.testing.assert_allclose(laid.sum((2, 3)), 50, atol=1e-4)
