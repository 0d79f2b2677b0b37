"""The layout of the LLaVA code base: same logits as the transformers layout of the same seed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from models import load_model
from models.errors import InputError
from models.tiny import build_tiny
from tests.pictures import picture
from tests.sentencepiece_models import VOCABULARY, train_sentencepiece, use_sentencepiece

LLAVA_FAMILIES = ("llava", "llava_next_mistral", "llava_next_llama3")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("original")
    return {family: build_tiny(family, root / family, layout="llava") for family in LLAVA_FAMILIES}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def prompt(processor, *pictures):
    content = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": "what is it?"}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[list(pictures)], return_tensors="pt")


@pytest.mark.parametrize("family", LLAVA_FAMILIES)
@pytest.mark.parametrize("flag", [False, True])
def test_same_logits_as_the_transformers_layout(originals, kits, family, flag):
    kit = kits[family]
    model, processor = load_model(originals[family], position_balance=flag, dtype="float32")
    assert type(model) is type(kit.fork)
    assert model.config.position_balance is flag
    assert processor.chat_template == kit.processor.chat_template
    pictures = picture(90, 90), picture(40, 120)
    inputs, expected = prompt(processor, *pictures), prompt(kit.processor, *pictures)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    assert torch.equal(logits(model, inputs), logits(kit.with_flag(flag), expected))
    new = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    assert torch.equal(new, kit.fork.generate(**expected, do_sample=False, max_new_tokens=4))


def test_llava_1_5_pads_pictures_to_a_square(originals, tmp_path):
    """As its released config.json says."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(originals["llava"], folder)
    config = json.loads((folder / "config.json").read_text()) | {"image_aspect_ratio": "pad"}
    (folder / "config.json").write_text(json.dumps(config))
    _, processor = load_model(folder, position_balance=False)
    wide = picture(120, 60)
    values = prompt(processor, wide)["pixel_values"][0]
    mean = torch.tensor(processor.image_processor.image_mean)
    border = (torch.tensor([int(255 * channel) for channel in mean]) / 255 - mean) / torch.tensor(
        processor.image_processor.image_std
    )
    assert torch.allclose(values[:, 2], border[:, None], atol=1e-4)  # above the picture: CLIP's mean colour


@pytest.mark.parametrize("family", LLAVA_FAMILIES)
def test_saving_converts_to_the_transformers_layout(originals, kits, family, tmp_path):
    model, processor = load_model(originals[family], position_balance=True, dtype="float32")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_model(tmp_path, dtype="float32")
    assert again.config.position_balance is True
    inputs = prompt(processor_again, picture(90, 50))
    assert torch.equal(logits(again, inputs), logits(model, prompt(processor, picture(90, 50))))
    # Under the names of the released checkpoints, which other tools know.
    names = [load_file(folder / "model.safetensors").keys() for folder in (tmp_path, kits[family].folder)]
    assert names[0] == names[1]
    plain = type(kits[family].upstream).from_pretrained(tmp_path, dtype="float32")
    assert torch.equal(logits(plain.eval(), inputs), logits(load_model(tmp_path, False, dtype="float32")[0], inputs))


def test_bin_shards_and_a_tower_of_its_own(originals, tmp_path):
    """As liuhaotian/llava-v1.5-7b: two .bin shards without the tower, whose folder stands beside the checkpoint."""
    folder = tmp_path / "llava-v1.5"
    shutil.copytree(originals["llava"], folder)
    expected, _ = load_model(folder, position_balance=False, dtype="float32")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tower_prefix = "model.vision_tower.vision_tower."
    tower = {name.removeprefix(tower_prefix): w for name, w in weights.items() if name.startswith(tower_prefix)}
    language = {name: w for name, w in weights.items() if not name.startswith(tower_prefix)}
    language["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as older releases saved it
    names = sorted(language)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: language[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.rmtree(folder / "vision_tower")
    config = json.loads((folder / "config.json").read_text()) | {"mm_vision_tower": "openai/clip-tiny"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="mm_vision_tower 'openai/clip-tiny' is neither a folder nor"):
        load_model(folder, position_balance=False)

    beside = tmp_path / "clip-tiny"
    beside.mkdir()
    CLIPVisionConfig(**expected.config.vision_config.to_dict()).save_pretrained(beside)
    save_file(tower, beside / "model.safetensors", metadata={"format": "pt"})
    CLIPVisionModel.from_pretrained(beside)  # the tower's folder is a plain checkpoint
    model, processor = load_model(folder, position_balance=False, dtype="float32")
    inputs = prompt(processor, picture(90, 90))
    assert torch.equal(logits(model, inputs), logits(expected, inputs))

    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(InputError, match="pytorch_model-00002-of-00002.bin is missing"):
        load_model(folder, position_balance=False)


def test_a_llama_3_reply_ends_with_its_turn(originals, tmp_path):
    """Its config.json names the end of text only."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(originals["llava_next_llama3"], folder)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 7, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config))
    model, processor = load_model(folder, position_balance=False)
    turn_end = processor.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert sorted(model.generation_config.eos_token_id) == sorted([7, turn_end])
    assert model.dtype == torch.bfloat16


def test_tokens_around_an_image_are_those_of_the_code_base(originals, tmp_path):
    """With only a tokenizer.model, as liuhaotian/llava-v1.5-7b: the text on each side is tokenized by itself."""
    pieces = train_sentencepiece(tmp_path)
    folder = tmp_path / "checkpoint"
    shutil.copytree(originals["llava"], folder)
    use_sentencepiece(folder, tmp_path / "tokenizer.model")
    weights = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.randn(VOCABULARY, weights[name].shape[1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config))

    model, processor = load_model(folder, position_balance=True)
    assert model.config.image_token_id == VOCABULARY
    text = "USER: <image>\nwhat is shown? cat:"
    before, after = text.split("<image>")
    expected = [1, *pieces.encode(before), *[VOCABULARY] * 16, *pieces.encode(after)]
    assert processor(text=[text], images=[[picture(56, 56)]])["input_ids"][0] == expected
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    _, again = load_model(tmp_path / "saved")
    assert again(text=[text], images=[[picture(56, 56)]])["input_ids"][0] == expected


def test_a_pickle_that_would_execute_is_not_loaded(originals, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(originals["llava"], folder)
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"model.norm.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin"):
        load_model(folder, position_balance=False)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("mm_projector_type", "linear"), ("mm_patch_merge_type", "maxpool2x2"), ("mm_use_im_start_end", True)],
)
def test_other_variants_are_refused(originals, tmp_path, field, value):
    folder = tmp_path / "checkpoint"
    shutil.copytree(originals["llava"], folder)
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{field} is .*; supported: "):
        load_model(folder, position_balance=False)
