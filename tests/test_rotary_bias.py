"""eval/rotary_bias.py against figures computed elsewhere, hand computations and the forks with their weights."""

import json
import shutil
import subprocess
import sys
from math import cos, dist, pi
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

from eval import rotary_bias
from eval.rotary_kernel import measure, rotations
from eval.rotary_prompt import CANVAS
from models.errors import InputError
from models.modeling_llava import LlavaConfig
from models.modeling_qwen2_5_vl import Qwen2_5_VLConfig
from models.outline import rotary_embedding
from models.tiny import FAMILIES, build_tiny

SIDE, TEXT = 24, 64  # of the figures in TABLE
WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
# RKD in hundredths, a 24 x 24 image and 64 text tokens; computed in plain NumPy when the schemes were compared.
TABLE = {
    "llava": {"raster": 9.07, "v2pe64": 4.94, "v2pe16": 2.90, "mca": 2.86, "cca": 2.35, "shared": 0},
    "qwen2_5_vl": {"raster": 6.70, "v2pe64": 3.91, "v2pe16": 2.63, "mca": 2.65, "cca": 2.26, "mrope": 1.00,
                   "circle": 2.60, "shared": 0},
    "qwen3_vl": {"raster": 6.06, "v2pe64": 3.71, "v2pe16": 2.57, "mca": 2.59, "cca": 2.21, "mrope": 2.63,
                 "circle": 3.16, "shared": 0},
}  # fmt: skip
# Config files in the form in which the checkpoints are released.
LLAVA = {
    "model_type": "llava",
    "text_config": {"model_type": "llama"},
    "vision_config": {"model_type": "clip_vision_model"},
}
QWEN = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
}
GEMMA = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 48,
        "head_dim": 256,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}


def config_folder(folder: Path, config: dict) -> Path:
    """A checkpoint's folder that holds config.json and nothing else."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"position_balance": True} | config))
    return folder


def run(folder: Path, output: Path, *more) -> dict:
    """The numbers that the script writes."""
    rotary_bias.main(["--model_path", str(folder), "--output_json", str(output), *map(str, more)])
    return json.loads(output.read_text())


def numbers(results: dict, name: str) -> list[tuple[float, float]]:
    return [(one["off"][name], one["on"][name]) for one in results["found"]]


def positions_of(scheme: str) -> tuple[np.ndarray, np.ndarray]:
    """(3, 576) positions of the image and (3, 64) of the text behind it."""
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    to_edge = np.minimum(row, SIDE - 1 - row), np.minimum(column, SIDE - 1 - column)
    if scheme == "mrope":
        image, after = np.stack([0 * row, row, column]), SIDE
    elif scheme == "circle":
        angle = np.arctan2(row - (SIDE - 1) / 2, column - (SIDE - 1) / 2)
        angle = 2 * pi * (angle - angle.min()) / np.ptp(angle) / 2 + pi * (row * SIDE + column) / SIDE**2
        u, v = np.array([0, 1, -1]) / 2**0.5, np.array([2, -1, -1]) / 6**0.5
        image = 10 * (np.outer(u, np.cos(angle)) + np.outer(v, np.sin(angle)))
        after = image.max() + 1
    else:
        image, after = {
            "raster": (row * SIDE + column, SIDE**2),
            "v2pe64": ((row * SIDE + column + 1) / 9, 65),  # 576 tokens over 64 positions
            "v2pe16": ((row * SIDE + column + 1) / 36, 17),
            "mca": (sum(to_edge), SIDE - 1),
            "cca": (np.minimum(*to_edge), SIDE // 2),
            "shared": (0 * row, 1),
        }[scheme]
        image = np.stack([image] * 3)
    return image, np.stack([after + np.arange(TEXT)] * 3)


@pytest.mark.parametrize(("rotary", "scheme"), [(name, scheme) for name in TABLE for scheme in TABLE[name]])
def test_the_table_of_schemes(rotary, scheme):
    modules = {
        "llava": lambda: rotary_embedding(LlavaConfig()),
        "qwen2_5_vl": lambda: rotary_embedding(Qwen2_5_VLConfig(text_config=QWEN)),
        "qwen3_vl": lambda: Qwen3VLTextRotaryEmbedding(Qwen3VLTextConfig(
            head_dim=128,
            rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]})),
    }  # fmt: skip
    positions = torch.tensor(np.hstack(positions_of(scheme)))[:, None]
    positions = positions[0] if rotary == "llava" else positions
    vectors = rotations(modules[rotary](), positions, None, 128)
    patches = torch.arange(SIDE**2).view(SIDE, SIDE)
    kernel = measure(vectors, positions, patches, slice(SIDE**2, None))
    assert 100 * kernel.rkd.mean() == pytest.approx(TABLE[rotary][scheme], abs=0.005001)


def test_the_script_reproduces_the_table(tmp_path):
    """From config.json alone: 9.07 of raster, 1.00 of chunked M-RoPE, 0 of BaPA; PTD of raster is a quarter of 576."""
    for config, off in ((LLAVA, 9.07), (QWEN, 1.00)):
        folder = config_folder(tmp_path / config["model_type"], config)
        results = run(folder, tmp_path / "r.json", "--grid", "24x24")
        assert numbers(results, "rkd") == [(pytest.approx(off, abs=0.005), 0)]
        assert numbers(results, "ptd")[0][1] == 0
        assert np.shape(results["found"][0]["off"]["kernel"]) == (24, 24)
        assert len(results["found"][0]["off"]["rkd_by_text_token"]) == 64
        if config is LLAVA:
            assert numbers(results, "ptd")[0][0] == 144


def by_hand(rows: int, columns: int, text: int, rotation: list[tuple[float, int]], axes) -> tuple[float, float]:
    """(RKD in hundredths, PTD) of raster or, with three axes, M-RoPE: plain loops over (frequency, axis) pairs."""
    patches = [(0, r, c) if axes == 3 else (r * columns + c,) for r in range(rows) for c in range(columns)]
    after = max(rows, columns) if axes == 3 else rows * columns
    spreads, deviations = [], []
    for t in range(text):
        word = (after + t,) * axes
        kernel = [fmean(cos(f * (word[axis] - patch[axis])) for f, axis in rotation) for patch in patches]
        spreads.append(pstdev(kernel))
        distances = [dist(word, patch) for patch in patches]
        deviations.append(fmean(abs(one - fmean(distances)) for one in distances))
    return 100 * fmean(spreads), fmean(deviations)


def frequencies(theta: float, dim: int) -> list[float]:
    return [theta ** (-2 * k / dim) for k in range(dim // 2)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_against_hand_computation(tiny_folders, tmp_path, family):
    """Heads of 16; a grid that is not square, which the checkpoints do not have of themselves."""
    results = run(tiny_folders[family], tmp_path / "r.json", "--grid", "3x5", "--text_tokens", 70)
    found = {one["layer_type"]: (one["off"]["rkd"], one["off"]["ptd"]) for one in results["found"]}
    if family == "gemma3":
        local, globally = frequencies(1e4, 16), frequencies(1e6, 16)
        wanted = {"sliding_attention": [(f, 0) for f in local], "full_attention": [(f, 0) for f in globally]}
    elif family == "qwen2_5_vl":
        wanted = {None: list(zip(frequencies(1e6, 16), [0] * 2 + [1] * 3 + [2] * 3, strict=True))}
    else:
        wanted = {None: [(f, 0) for f in frequencies(1e4, 16)]}
    axes = 3 if family == "qwen2_5_vl" else 1
    assert found == {name: pytest.approx(by_hand(3, 5, 70, rotation, axes), abs=2e-5)
                     for name, rotation in wanted.items()}  # fmt: skip
    assert all(on == 0 for name in ("rkd", "ptd") for _, on in numbers(results, name))
    assert results["image_tokens"] == 15


def test_released_gemma3_scales_its_global_layers_only(tmp_path):
    results = run(config_folder(tmp_path / "gemma", GEMMA), tmp_path / "r.json", "--grid", "4x4", "--text_tokens", 9)
    whole, local = results["found"]
    assert (whole["layer_type"], whole["layers"]) == ("full_attention", 8)
    assert (local["layer_type"], local["layers"]) == ("sliding_attention", 40)
    for one, theta, factor in ((whole, 1e6, 8), (local, 1e4, 1)):
        rotation = [(f / factor, 0) for f in frequencies(theta, 256)]
        assert one["off"]["rkd"] == pytest.approx(by_hand(4, 4, 9, rotation, 1)[0], abs=2e-5)
        assert one["rope"]["rope_theta"] == theta


def scaled(folder: Path, rope: dict, **text) -> Path:
    text = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1} | text
    return config_folder(folder, LLAVA | {"text_config": text | {"rope_parameters": {"rope_theta": 1e4} | rope}})


def test_scalings_of_the_rotation(tmp_path):
    """Linear; dynamic beyond the trained length, which depends on the flag's own positions; yarn, whose factor on
    cosines is divided out; and half a head that is not rotated at all."""
    plain = frequencies(1e4, 16)
    grid = ("--grid", "4x4", "--text_tokens", 9)  # 25 tokens off, 10 on
    folder = scaled(tmp_path / "linear", {"rope_type": "linear", "factor": 4.0})
    off = numbers(run(folder, tmp_path / "r.json", *grid), "rkd")[0][0]
    assert off == pytest.approx(by_hand(4, 4, 9, [(f / 4, 0) for f in plain], 1)[0], abs=2e-5)

    dynamic = {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 10}
    folder = scaled(tmp_path / "dynamic", dynamic, max_position_embeddings=10)
    found = run(folder, tmp_path / "r.json", *grid)["found"][0]
    stretched = frequencies(1e4 * (2 * 25 / 10 - 1) ** (16 / 14), 16)
    assert found["off"]["rkd"] == pytest.approx(by_hand(4, 4, 9, [(f, 0) for f in stretched], 1)[0], abs=2e-5)
    shared = fmean(cos(f * (1 + t)) for f in plain for t in range(9))
    np.testing.assert_allclose(found["on"]["kernel"], shared, atol=2e-6)

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    folder = scaled(tmp_path / "yarn", yarn, max_position_embeddings=256)
    module = rotary_embedding(LlavaConfig.from_pretrained(folder))
    assert module.attention_scaling > 1.1
    off = numbers(run(folder, tmp_path / "r.json", *grid), "rkd")[0][0]
    assert off == pytest.approx(by_hand(4, 4, 9, [(f, 0) for f in module.inv_freq.tolist()], 1)[0], abs=2e-5)

    folder = scaled(tmp_path / "phi", {"rope_type": "default", "partial_rotary_factor": 0.5}, model_type="phi")
    off = numbers(run(folder, tmp_path / "r.json", *grid), "rkd")[0][0]
    half = [(f, 0) for f in frequencies(1e4, 8)]
    assert off == pytest.approx(by_hand(4, 4, 9, half + [(0.0, 0)] * 4, 1)[0], abs=2e-5)

    # Cosines of half the head's size, each for two dimensions.
    folder = scaled(tmp_path / "gpt_oss", {"rope_type": "default"}, model_type="gpt_oss", head_dim=16)
    off = numbers(run(folder, tmp_path / "r.json", *grid), "rkd")[0][0]
    assert off == pytest.approx(by_hand(4, 4, 9, [(f, 0) for f in plain], 1)[0], abs=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_without_weights_gives_what_the_loaded_model_does(tiny_folders, kits, tmp_path, family):
    """The default grid is a real canvas's, and the kernel that of the loaded fork's own positions and rotation."""
    folder = Path(shutil.copytree(tiny_folders[family], tmp_path / family, ignore=shutil.ignore_patterns(*WEIGHTS)))
    assert not list(folder.glob("*.safetensors"))
    picture = tmp_path / "r.png"
    results = run(folder, tmp_path / "r.json", "--output_path", picture, "--text_tokens", 5)
    assert picture.stat().st_size > 10_000
    assert results["canvas"] == CANVAS
    kit = kits[family]
    inner = kit.fork.model
    inputs = kit.inputs((Image.new("RGB", (CANVAS, CANVAS)), "abcdefgh"))
    image = (inputs["input_ids"][0] == kit.image_token_id).nonzero()[:, 0]
    assert results["image_tokens"] == len(image)
    assert len(results["found"]) == 2 if family in ("llava_next_mistral", "llava_next_llama3", "gemma3") else 1
    for flag, one in ((flag, one) for flag in ("off", "on") for one in results["found"]):
        kit.with_flag(flag == "on")
        places = image[inner.patch_tokens(view=one["view"], **inputs)[0]].flatten()
        positions = inner.prompt_position_ids(**inputs)
        layer_type = (one["layer_type"],) if one["layer_type"] else ()
        cosines, sines = inner.language_model.rotary_emb(torch.zeros(1), positions, *layer_type)
        texts = torch.arange(int(image[-1]) + 1, int(image[-1]) + 6)
        kernel = sum(part[0, texts] @ part[0, places].T for part in (cosines, sines)) / cosines.shape[-1]
        np.testing.assert_allclose(np.ravel(one[flag]["kernel"]), kernel.mean(0), atol=2e-6)
        assert one[flag]["rkd"] == pytest.approx(100 * float(kernel.std(1, correction=0).mean()), abs=1e-4)


def test_original_layout_and_adapter(tiny_folders, tmp_path):
    expected = run(tiny_folders["llava"], tmp_path / "r.json")["found"]
    original = build_tiny("llava", tmp_path / "original", layout="llava")
    folder = shutil.copytree(original, tmp_path / "bare", ignore=shutil.ignore_patterns(*WEIGHTS))
    assert run(folder, tmp_path / "r.json")["found"] == expected
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    assert run(adapter, tmp_path / "r.json")["found"] == expected
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "none")}))
    with pytest.raises(InputError, match="adapter: its base cannot be loaded: .*none: no such folder"):
        run(adapter, tmp_path / "r.json")


def test_per_token_distance_of_the_papers_example():
    """Nine image and five text tokens (arXiv 2505.16416): 2.22 in reading order, 0 with a shared position."""
    patches, texts = torch.arange(9).view(3, 3), slice(9, None)
    raster, shared = torch.arange(14)[None], torch.tensor([[0] * 9 + [1, 2, 3, 4, 5]])
    found = [measure(np.zeros((14, 2)), positions, patches, texts).ptd.mean() for positions in (raster, shared)]
    assert found == [pytest.approx(2.22, abs=0.005), 0]


def test_what_is_printed_and_drawn(tiny_folders, tmp_path, capsys):
    folder, picture = tiny_folders["llava_next_mistral"], tmp_path / "r.svg"
    run(folder, tmp_path / "r.json", "--output_path", picture)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == "layers patches RKD off RKD on PTD off PTD on".split()
    assert [line.split("  ")[0] for line in lines[3:5]] == ["base view", "tiles"]
    assert lines[4].endswith("0.00")
    first = picture.read_bytes()
    run(folder, tmp_path / "r.json", "--output_path", picture)
    assert picture.read_bytes() == first
    run(folder, tmp_path / "r.json", "--grid", "1x1", "--output_path", picture)  # nothing to disperse


@pytest.mark.parametrize("grid", ["24", "0x4", "4x-1", "2x2x2", "axb", "257x3", "4X4", "4 x 4", "१x२"])
def test_bad_grids(tiny_folders, tmp_path, grid):
    with pytest.raises(InputError, match="--grid: .* is not rows x columns of patches, 1 to 256 each, such as 24x24"):
        run(tiny_folders["llava"], tmp_path / "r.json", f"--grid={grid}")


def test_bad_input_is_one_line(tiny_folders, tmp_path):
    command = [sys.executable, rotary_bias.__file__, "--model_path", tiny_folders["llava"], "--text_tokens", "-3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: --text_tokens -3: give 1 to 1024\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--text_tokens", 0), "--text_tokens 0: give 1 to 1024"),
        (("--text_tokens", 9999), "--text_tokens 9999: give 1 to 1024"),
        (("--text_tokens", "many"), "--text_tokens: invalid int value"),
        (("--output_path", "r.jpg"), "r.jpg: a picture's name must end in"),
        (("--output_path", "same.png", "--output_json", "same.png"), "--output_json: same.png is also --output_path"),
        (("--output_json", "/proc/none/r.json"), "/proc/none/r.json: cannot be written"),
        (("--model_path", "no/such/folder"), "no/such/folder: no such folder"),
        (("--model_path", ""), "argument --model_path: is empty"),
    ],
)
def test_bad_arguments(tiny_folders, tmp_path, more, message):
    with pytest.raises(InputError, match=message):
        run(tiny_folders["llava"], tmp_path / "r.json", *more)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "blip-2"}, "patches of a 'blip-2' are not known here; supported: llava, "),
        ({"model_type": ["llava"]}, "are not known here"),
        (LLAVA | {"text_config": {"model_type": "gpt2"}}, "its language model, a gpt2, has no rotary positions"),
        (LLAVA | {"text_config": {"model_type": "opt"}}, "its language model, a opt, has no rotary positions"),
        (LLAVA | {"text_config": {"model_type": "llama4_text"}}, "a rotation without cosines and sines"),
        (LLAVA | {"text_config": {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1.0}}}, "config.json: "),
        (LLAVA | {"text_config": {"model_type": "llama", "hidden_size": "wide"}}, "config.json: cannot be read"),
        (LLAVA | {"position_balance": "yes"}, 'write "position_balance": true or'),
    ],
)  # fmt: skip
def test_configs_that_will_not_do(tmp_path, config, message):
    with pytest.raises(InputError, match=message) as error:
        run(config_folder(tmp_path / "model", config), tmp_path / "r.json", "--grid", "4x4")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r.json").exists()


def test_a_model_without_a_patch_grid(tiny_folders, tmp_path):
    """A tower whose patches leave a hole; --grid goes round it."""
    folder = shutil.copytree(tiny_folders["llava"], tmp_path / "hole")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = "siglip_vision_model"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="config.json: no grid of patches is known; give --grid .*its grid has a hole"):
        run(folder, tmp_path / "r.json")
    assert run(folder, tmp_path / "r.json", "--grid", "4x4")["image_tokens"] == 16


def test_files_that_a_default_grid_needs(tiny_folders, tmp_path):
    folder = config_folder(tmp_path / "model", json.loads((tiny_folders["llava"] / "config.json").read_text()))
    with pytest.raises(InputError, match="tokenizer or image processor cannot be loaded"):
        run(folder, tmp_path / "r.json")
    assert run(folder, tmp_path / "r.json", "--grid", "2x3")["grid"] == [2, 3]
