"""models/resized_pixels.py against the sizes that image processors really make; thin pictures in runs and training."""

import copy

import pytest
from PIL import Image

from eval.generate import prepare
from models.processors import image_processor_class
from models.resized_pixels import MOST_PIXELS, most_pixels, too_many_pixels

SIDES = [(300, 200), (200, 300), (400, 7), (7, 400), (1, 90), (1500, 1500), (30, 30), (333, 332)]


def made_pixels(image_processor, picture: Image.Image) -> int:
    """The largest picture that comes out of the processor's steps before it crops, seen while it works."""
    watched, seen = copy.deepcopy(image_processor), []

    def watch(name: str) -> None:
        step = getattr(watched, name, None)

        def watching(*args, **kwargs):
            made = step(*args, **kwargs)
            seen.append(made.shape[-2] * made.shape[-1])
            return made

        if step is not None:
            setattr(watched, name, watching)

    for name in ("resize", "pad_to_square"):
        watch(name)
    watched(images=[picture], return_tensors="pt")
    return max(seen)


@pytest.mark.parametrize("sides", SIDES)
def test_no_step_of_any_family_makes_more(kit, sides):
    processor = kit.processor.image_processor
    foreseen, made = most_pixels(processor, *sides), made_pixels(processor, Image.new("RGB", sides))
    assert made <= foreseen
    if kit.family in ("llava", "gemma3"):
        assert made == foreseen


@pytest.mark.parametrize("sides", SIDES)
def test_the_padding_of_original_llava_counts(sides):
    settings = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}, "do_pad": True}
    processor = image_processor_class("llava", "LlavaImageProcessor")(**settings)
    assert made_pixels(processor, Image.new("RGB", sides)) == most_pixels(processor, *sides)


@pytest.fixture
def as_released(kit):
    """The kit's processor; LLaVA-1.5's with the released side, 336 px."""
    processor = copy.deepcopy(kit.processor)
    if kit.family == "llava":
        processor.image_processor.size = {"shortest_edge": 336}
    return processor


@pytest.mark.parametrize("sides", [(20_000, 1), (1, 20_000)])
def test_a_thin_picture_is_an_error_or_small(kit, as_released, tmp_path, sides):
    """Of every family: 27 GB were asked for before."""
    Image.new("RGB", sides, "red").save(tmp_path / "rule.png")
    Image.new("RGB", (200, 100), "blue").save(tmp_path / "plain.png")

    def prompt(name: str) -> list[dict]:
        return [
            {"role": "user", "content": [{"type": "image", "path": tmp_path / name}, {"type": "text", "text": "q"}]}
        ]

    batch = prepare(as_released, [(0, prompt("rule.png")), (1, prompt("plain.png"))])
    assert batch.indices[-1] == 1
    if kit.family == "llava":
        size = f"{sides[0]} x {sides[1]} px"
        assert batch.errors[0].startswith(
            f"rule.png: too thin: of {size} the checkpoint's image processor makes 2,257,920,000"
        )
        assert "crop or scale it" in batch.errors[0]
    if kit.family == "qwen2_5_vl":
        assert "aspect ratio" in batch.errors[0]


def test_the_bound_is_what_pillow_opens():
    settings = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    processor = image_processor_class("llava", "LlavaImageProcessor")(**settings)
    ratio = MOST_PIXELS // 336**2
    assert too_many_pixels(processor, ratio * 10, 10) is None
    assert too_many_pixels(processor, 10, ratio * 10 + 10).startswith("too thin")
    padding = image_processor_class("llava", "LlavaImageProcessor")(**settings, do_pad=True)
    assert too_many_pixels(padding, 12_000, 9_000) is None  # a telephone's
    assert too_many_pixels(padding, 14_000, 9_000).startswith("too large")
