"""Prompts: the conversations that the LLaVA families were tuned on, to the letter."""

import json
import shutil

import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from eval import generate
from models import load_model
from models.errors import InputError
from models.processors import pixel_bounds, set_aspect_ratio, set_pixel_bounds
from tests.benchmark_runs import ask
from tests.pictures import picture

SYSTEM_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
SYSTEM_LLAMA3 = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
FIRST = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}
SECOND = {"role": "user", "content": "Sure?"}


def llama3(role, text):
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}"


@pytest.mark.parametrize(
    ("family", "one_turn", "two_turns"),
    [
        (
            "llava",
            SYSTEM_VICUNA + "USER: <image>\nWhat? ASSISTANT:",
            SYSTEM_VICUNA + "USER: <image>\nWhat? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT:",
        ),
        (
            "llava_next_mistral",
            "[INST] <image>\nWhat? [/INST]",
            "[INST] <image>\nWhat? [/INST] A cat. </s>[INST] Sure? [/INST]",
        ),
        (
            "llava_next_llama3",
            llama3("system", f"{SYSTEM_LLAMA3}<|eot_id|>")
            + llama3("user", "<image>\nWhat?<|eot_id|>")
            + llama3("assistant", ""),
            llama3("system", f"{SYSTEM_LLAMA3}<|eot_id|>")
            + llama3("user", "<image>\nWhat?<|eot_id|>")
            + llama3("assistant", "A cat.<|eot_id|>")
            + llama3("user", "Sure?<|eot_id|>")
            + llama3("assistant", ""),
        ),
    ],
)
def test_conversations(kits, family, one_turn, two_turns):
    def render(*messages):
        return kits[family].processor.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)

    assert render(FIRST) == one_turn
    assert render(FIRST, ANSWER, SECOND) == two_turns
    system = {"role": "system", "content": "Be brief."}
    assert "Be brief." in render(system, FIRST)
    assert SYSTEM_VICUNA not in render(system, FIRST)
    assert SYSTEM_LLAMA3 not in render(system, FIRST)


def test_the_tokenizer_starts_a_prompt_once(kit):
    tokenizer = kit.processor.tokenizer
    ids = kit.inputs((picture(60, 60), "What?"))["input_ids"][0].tolist()
    if tokenizer.bos_token_id is not None:
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
    whole = kit.processor.apply_chat_template(
        [{"role": "user", "content": "What?"}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert whole[0] == kit.inputs(("What?",))["input_ids"][0].tolist()


@pytest.mark.parametrize("post_processor", ["none", "twice", "end"])
def test_a_prompt_starts_with_the_first_token_whatever_the_files_say(kits, tmp_path, kit, post_processor):
    """Early files of Llama-3's tokenizer add no first token; nor may one be added twice, or an end."""
    folder = shutil.copytree(kit.folder, tmp_path / "base")
    written = json.loads((folder / "tokenizer.json").read_text())
    first, end = kit.processor.tokenizer.bos_token or "<|im_start|>", kit.processor.tokenizer.eos_token
    ids = dict(zip((first, end), kit.processor.tokenizer.convert_tokens_to_ids([first, end]), strict=True))
    shape = {"none": "$A", "twice": f"{first} {first} $A", "end": f"{first} $A {end}"}[post_processor]
    template = TemplateProcessing(single=shape, special_tokens=list(ids.items()))
    written["post_processor"] = json.loads(template.__getstate__())
    (folder / "tokenizer.json").write_text(json.dumps(written))
    processor = load_model(folder, position_balance=False)[1]
    (batch,) = processor(text=[kit.text("What?")])["input_ids"]
    assert batch == kit.inputs(("What?",))["input_ids"][0].tolist()
    starts = 0 if kit.family == "qwen2_5_vl" else 1
    assert (batch[0] == processor.tokenizer.bos_token_id, batch.count(ids[first])) == (bool(starts), starts or 3)
    processor.save_pretrained(tmp_path / "saved")
    assert type(processor).from_pretrained(tmp_path / "saved")(text=[kit.text("What?")])["input_ids"] == [batch]


@pytest.mark.parametrize("name", ["Qwen2_5_VLImageProcessor", "Qwen2_5_VLImageProcessorFast"])
def test_qwen_as_first_released(kits, tmp_path, name):
    """Until February 2025 its preprocessor_config.json named a class that transformers has not had since."""
    kit = kits["qwen2_5_vl"]
    folder = shutil.copytree(kit.folder, tmp_path / "base")
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").write_text(json.dumps(images | {"image_processor_type": name}))
    processor = load_model(folder, position_balance=False)[1]
    text, shown = kit.text(picture(90, 60), "What?"), [[picture(90, 60)]]
    found, expected = (each(text=[text], images=shown, return_tensors="pt") for each in (processor, kit.processor))
    assert torch.equal(found["input_ids"], expected["input_ids"])
    assert torch.equal(found["pixel_values"], expected["pixel_values"])
    assert processor.chat_template == kit.processor.chat_template
    processor.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())
    assert saved["image_processor"]["image_processor_type"].startswith("Qwen2VLImageProcessor")


def test_image_tokens_are_as_many_as_features(kit):
    """Any shape of picture: the processor's count is the model's."""
    for size in ((56, 56), (400, 30), (33, 500), (840, 840)):
        inputs = kit.inputs((picture(*size), "?"))
        kit.with_flag(True)(**inputs)  # upstream raises if the counts differ
        image_ids = kit.fork.model.image_ids(
            inputs["input_ids"], **({"image_sizes": inputs["image_sizes"]} if "image_sizes" in inputs else {})
        )
        assert image_ids.max() == 1  # one picture


def test_geometry_comes_from_the_model(kits, tmp_path):
    """Early conversions of LLaVA say nothing of patches; the count of image tokens would be wrong."""
    from models.processors import finish_processor

    kit = kits["llava"]
    kit.processor.save_pretrained(tmp_path)
    processor = type(kit.processor).from_pretrained(tmp_path)
    processor.patch_size = processor.vision_feature_select_strategy = None
    processor.num_additional_image_tokens = 0
    finish_processor(processor, kit.fork.config, "checkpoint")
    ids = processor(text=["<image>"], images=[[picture(9, 9)]])["input_ids"][0]
    assert ids.count(kit.image_token_id) == 16


def test_a_saved_qwen_keeps_its_part_on_videos(kits, tmp_path):
    """Also where torchvision is missing and no video can be processed: upstream's class does not load without it."""
    folder = shutil.copytree(kits["qwen2_5_vl"].folder, tmp_path / "base")
    settings = json.loads((folder / "processor_config.json").read_text())
    assert settings["video_processor"]["video_processor_type"] == "Qwen2VLVideoProcessor"
    settings["video_processor"]["max_frames"] = 99
    (folder / "processor_config.json").write_text(json.dumps(settings))
    load_model(folder)[1].save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())
    assert saved["video_processor"]["max_frames"] == 99
    assert saved["image_processor"] == settings["image_processor"]


def test_an_old_qwen_has_one_file_for_images_and_videos(kits, tmp_path):
    """As Qwen2.5-VL was released: preprocessor_config.json alone."""
    folder = shutil.copytree(kits["qwen2_5_vl"].folder, tmp_path / "base")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    old = settings["image_processor"] | {"max_pixels": 28 * 28 * 36, "min_pixels": 28 * 28}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    load_model(folder)[1].save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/processor_config.json").read_text())["video_processor"]
    assert saved["max_pixels"] == 28 * 28 * 36
    assert saved["video_processor_type"] == "Qwen2VLVideoProcessor"
    assert "image_processor_type" not in saved


def test_pixel_bounds_decide_how_many_tokens_a_picture_has(tiny_folders):
    _, processor = load_model(tiny_folders["qwen2_5_vl"])

    def tokens() -> int:
        text = processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)
        ids = processor(text=[text], images=[[picture(280, 280)]], return_tensors="pt")["input_ids"]
        return int((ids == processor.image_token_id).sum())

    set_pixel_bounds(processor, 784, 112 * 112, "x")
    assert (tokens(), pixel_bounds(processor)) == (16, (784, 112 * 112))
    set_pixel_bounds(processor, 168 * 168, 10**6, "x")
    assert tokens() == 100
    with pytest.raises(InputError, match="--max_pixels: at least 28224 and at most 28 pixels cannot be met"):
        set_pixel_bounds(processor, None, 28, "x")


def test_processors_of_one_size_have_no_pixel_bounds(kits):
    for family in ("llava", "llava_next_mistral", "gemma3"):
        assert pixel_bounds(kits[family].processor) is None
        with pytest.raises(InputError, match="--min_pixels: the image processor of x scales to sizes of its own"):
            set_pixel_bounds(kits[family].processor, 3136, None, "x")


def llava_pixels(image: Image.Image, side: int, pad: bool) -> torch.Tensor:
    """Pixels by LLaVA's `process_images`: `expand2square`, then CLIP's image processor; (3, side, side)."""
    clip = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    if pad:
        square = Image.new("RGB", (max(image.size),) * 2, tuple(int(255 * mean) for mean in clip.image_mean))
        square.paste(image, tuple((max(image.size) - length) // 2 for length in image.size))
        image = square
    return clip(images=[image], return_tensors="pt")["pixel_values"][0]


def coloured_ends() -> Image.Image:
    """A wide picture with a square of colour at each end, which cropping loses."""
    image = Image.new("RGB", (128, 64), "white")
    image.paste((255, 0, 0), (0, 0, 16, 64))
    image.paste((0, 0, 255), (112, 0, 128, 64))
    return image


@pytest.mark.parametrize(
    ("name", "given", "says", "ratio"),
    [
        ("pope", [], None, "pad"),  # one of LLaVA's published benchmarks
        ("pope", ["--image_aspect_ratio", "crop"], None, "crop"),
        ("pope", [], False, "crop"),  # a checkpoint that was trained so
        ("docvqa", [], None, "crop"),
        ("docvqa", [], True, "pad"),
        ("docvqa", ["--image_aspect_ratio", "pad"], None, "pad"),
        ("docvqa", ["--image_aspect_ratio", "crop"], True, "crop"),
    ],
)
def test_how_pictures_become_square(tiny_folders, tmp_path, monkeypatch, name, given, says, ratio):
    """By the option, else by the checkpoint, else by the benchmark; the manifest has it."""
    folder = tiny_folders["llava"]
    if says is not None:
        folder = shutil.copytree(folder, tmp_path / "model")
        settings = json.loads((folder / "processor_config.json").read_text())
        settings["image_processor"] |= {"image_processor_type": "LlavaImageProcessor", "do_pad": says}
        (folder / "processor_config.json").write_text(json.dumps(settings))
    coloured_ends().save(tmp_path / "a.png")
    if name == "pope":
        file, rows = "coco_pope_random.json", {"question_id": 1, "image": "a.png", "text": "Is it?", "label": "no"}
        (tmp_path / file).write_text(json.dumps(rows))
    else:
        file, rows = "val.json", {"questionId": 1, "question": "What?", "image": "a.png", "answers": ["a"]}
        (tmp_path / file).write_text(json.dumps({"data": [rows]}))
    seen = []
    prepare = generate.prepare
    monkeypatch.setattr(generate, "prepare", lambda *a: seen.append(prepare(*a)) or seen[-1])
    given = ["--eval_file", tmp_path / file, "--img_path", tmp_path, "--position_balance", "true", *given]
    assert ask(name, folder, tmp_path / "answers.jsonl", given) == 0
    assert json.loads((tmp_path / "answers.jsonl.manifest.json").read_text())["image_aspect_ratio"] == ratio
    (pixels,) = (batch.inputs["pixel_values"][0] for batch in seen)
    assert torch.allclose(pixels, llava_pixels(coloured_ends(), 56, ratio == "pad"), atol=2e-2)
    ends = (pixels[:, :, :4].mean((1, 2)), pixels[:, :, -4:].mean((1, 2)))
    assert torch.allclose(*ends, atol=0.1) == (ratio == "crop")


def test_other_families_have_no_aspect_ratio(kits):
    for family in set(kits) - {"llava"}:
        with pytest.raises(InputError, match="image_aspect_ratio: is for LLaVA-1.5"):
            set_aspect_ratio(kits[family].processor, "pad")
        set_aspect_ratio(kits[family].processor, None, "pad")
