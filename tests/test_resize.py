"""models/resize.py: the same weights for larger images."""

import pytest
import torch
from PIL import Image

from models import load_model
from models.errors import InputError
from models.resize import main, resize


@pytest.mark.parametrize("factor", [0.5, 1, 1.5])
def test_features_are_those_of_upstreams_interpolation(tiny_folders, tmp_path, factor):
    small, _ = load_model(tiny_folders["llava"], dtype="float32")
    vision = small.config.vision_config
    size = int(factor * vision.image_size)
    resize(tiny_folders["llava"], size, tmp_path / "other")
    large, processor = load_model(tmp_path / "other", dtype="float32")
    inputs = processor(text="<image>\nWhere?", images=Image.new("RGB", (100, 90), "red"), return_tensors="pt")
    assert inputs["pixel_values"].shape[-2:] == (size, size)
    assert int((inputs["input_ids"] == large.config.image_token_id).sum()) == (size // vision.patch_size) ** 2
    with torch.no_grad():
        wanted = small.model.vision_tower(inputs["pixel_values"], interpolate_pos_encoding=True).last_hidden_state
        found = large.model.vision_tower(inputs["pixel_values"]).last_hidden_state
        assert torch.allclose(found, wanted, atol=1e-5)
        assert torch.isfinite(large(**inputs).logits).all()
    for name, weight in small.state_dict().items():
        if "position_embedding" not in name:
            assert torch.equal(weight, large.state_dict()[name]), name


def test_the_flag_goes_along(tiny_folders, tmp_path):
    model, processor = load_model(tiny_folders["llava"], position_balance=True)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "on")
    main(["--model_path", str(tmp_path / "on"), "--image_size", "84", "--output_dir", str(tmp_path / "large")])
    assert load_model(tmp_path / "large")[0].config.position_balance is True


@pytest.mark.parametrize(
    ("family", "size", "told"),
    [
        ("llava", 45, "--image_size 45: must be a multiple of the patches' 14 px"),
        ("llava", 0, "--image_size 0: must be a multiple"),
        ("llava_next_mistral", 84, "is not a LLaVA-1.5 with a CLIP tower"),
        ("gemma3", 84, "is not a LLaVA-1.5 with a CLIP tower"),
    ],
)
def test_what_cannot_be_resized(tiny_folders, tmp_path, family, size, told):
    with pytest.raises(InputError) as error:
        resize(tiny_folders[family], size, tmp_path / "out")
    assert told in str(error.value)
    assert not (tmp_path / "out").exists()
