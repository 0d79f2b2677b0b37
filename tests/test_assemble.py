"""LLaVA made of a vision tower and a language model: their weights, a fresh projector, a complete checkpoint."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
)

from models import assemble_llava, load_model
from models.assemble import main
from models.errors import InputError
from models.tiny import build_tiny, llama_tokenizer, tokenizer_of_bytes
from tests.pictures import picture
from tests.sentencepiece_models import VOCABULARY, train_sentencepiece, use_sentencepiece

PROJECTOR = "multi_modal_projector."


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The two parts of the tiny LLaVA; tests must not write there."""
    root = tmp_path_factory.mktemp("parts")
    return [build_tiny("llava", root / part, part=part) for part in ("vision_tower", "language_model")]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def edit_json(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def prompt(processor, words="what is it?"):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return processor(text=[text], images=[[picture(90, 60)]], return_tensors="pt")


def test_parts_of_the_tiny_llava_make_it_again(parts, kits, tmp_path):
    """All but the projector."""
    kit = kits["llava"]
    folder = assemble_llava(*parts, tmp_path / "out", image_aspect_ratio="square", dtype="float32")
    new, whole = weights_of(folder), weights_of(kit.folder)
    assert new.keys() == whole.keys()
    different = {name for name in new if not torch.equal(new[name], whole[name])}
    assert different == {name for name in new if name.startswith(PROJECTOR)}
    model, processor = load_model(folder, position_balance=True, dtype="float32")
    model.model.multi_modal_projector.load_state_dict(kit.fork.model.multi_modal_projector.state_dict())
    inputs, expected = prompt(processor), prompt(kit.processor)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, kit.with_flag(True)(**expected).logits)


def test_the_tower_of_a_llava(parts, tmp_path):
    """A whole model in the tower's place: its tower, with its mean and deviation, and nothing else of it."""
    donor = assemble_llava(*parts, tmp_path / "donor", dtype="float32")
    edit_json(
        donor / "processor_config.json",
        image_processor=json.loads((donor / "processor_config.json").read_text())["image_processor"]
        | {"image_mean": [0.1, 0.2, 0.3]},
    )
    new = assemble_llava(donor, parts[1], tmp_path / "out", seed=1, dtype="float32")
    weights, whole = weights_of(new), weights_of(donor)
    assert {name for name in weights if not torch.equal(weights[name], whole[name])} == {
        f"{PROJECTOR}linear_{number}.{name}" for number in (1, 2) for name in ("weight", "bias")
    }
    assert list(load_model(new)[1].image_processor.image_mean) == [0.1, 0.2, 0.3]


def test_the_checkpoint_is_complete(parts, kits, tmp_path, capsys):
    command = ["--vision_tower", parts[0], "--language_model", parts[1], "--output_dir", tmp_path / "out"]
    assert main([str(word) for word in (*command, "--position_balance", "true", "--seed", 3)]) == 0
    assert "position_balance true" in capsys.readouterr().out
    new, whole = weights_of(tmp_path / "out"), weights_of(kits["llava"].folder)
    torch.manual_seed(3)
    first, second = torch.nn.Linear(32, 64), torch.nn.Linear(64, 64)
    whole |= {
        f"{PROJECTOR}linear_{number}.{name}": tensor
        for number, layer in ((1, first), (2, second))
        for name, tensor in layer.state_dict().items()
    }
    for name, tensor in whole.items():
        end = -1 if name.endswith(("embed_tokens.weight", "lm_head.weight")) else None  # without the row of <image>
        assert torch.equal(new[name][:end], tensor[:end].bfloat16()), name
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["position_balance"] is True
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    assert str(parts[0].parent) not in json.dumps(config)
    model, processor = load_model(tmp_path / "out")
    assert model.config.position_balance is True
    assert model.dtype == torch.bfloat16
    assert processor.image_processor.do_pad
    inputs = prompt(processor).to(torch.bfloat16)
    assert (inputs["input_ids"] == config["image_token_index"]).sum() == 16
    assert model.generate(**inputs, max_new_tokens=3, do_sample=False).shape[1] > inputs["input_ids"].shape[1]
    plain, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]
    assert plain.config.image_token_id == config["image_token_index"]


def test_pixels_are_scaled_as_the_tower_says(parts, tmp_path):
    tower = shutil.copytree(parts[0], tmp_path / "tower")
    edit_json(tower / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    _, processor = load_model(assemble_llava(tower, parts[1], tmp_path / "out"))
    assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(processor.image_processor.image_std) == [0.4, 0.5, 0.6]


def test_as_published(parts, tmp_path):
    """CLIP with its text model; Vicuna's .bin shards with old buffers, sampling values and only a tokenizer.model."""
    clip, vicuna = tmp_path / "clip", shutil.copytree(parts[1], tmp_path / "vicuna")
    vision = CLIPVisionConfig.from_pretrained(parts[0]).to_dict()
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = CLIPModel(CLIPConfig(text_config=text | {"vocab_size": 9}, vision_config=vision, projection_dim=8))
    whole.save_pretrained(clip)
    train_sentencepiece(tmp_path)
    use_sentencepiece(vicuna, tmp_path / "tokenizer.model")
    weights = weights_of(vicuna)
    (vicuna / "model.safetensors").unlink()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.randn(VOCABULARY, 64)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    names, weight_map = sorted(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, vicuna / file)
        weight_map |= dict.fromkeys(part, file)
    (vicuna / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    edit_json(vicuna / "config.json", vocab_size=VOCABULARY, torch_dtype="float16", dtype=None)
    edit_json(vicuna / "generation_config.json", temperature=0.9, top_p=0.6, max_length=4096)

    model, processor = load_model(assemble_llava(clip, vicuna, tmp_path / "out", dtype="float16"))
    assert model.dtype == torch.float16
    tower = whole.vision_model.state_dict()
    assert all(torch.equal(w, tower[name].half()) for name, w in model.model.vision_tower.state_dict().items())
    rows = model.lm_head.weight
    assert torch.equal(rows[:-1], weights["lm_head.weight"].half())
    assert torch.allclose(rows[-1], rows[:-1].float().mean(0).half())
    assert model.config.image_token_id == VOCABULARY
    assert processor.tokenizer.pad_token == "<unk>"
    pieces = train_sentencepiece(tmp_path)
    expected = [1, *pieces.encode("USER: "), *[VOCABULARY] * 16, *pieces.encode("\nwhat? cat:")]
    assert processor(text=["USER: <image>\nwhat? cat:"], images=[[picture(56, 56)]])["input_ids"][0] == expected


def test_other_language_models(parts, tmp_path):
    """Mistral with tied embeddings, and Llama with Llama 3's tokens: each with its own conversation."""
    text = json.loads((parts[1] / "config.json").read_text())
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config = MistralConfig(**{name: text[name] for name in names}, num_key_value_heads=2, tie_word_embeddings=True)
    mistral = MistralForCausalLM(config)
    mistral.save_pretrained(tmp_path / "mistral")
    llama_tokenizer().save_pretrained(tmp_path / "mistral")
    model, processor = load_model(assemble_llava(parts[0], tmp_path / "mistral", tmp_path / "a", dtype="float32"))
    assert processor.chat_template.startswith("{#- [INST]")
    assert model.config.text_config.model_type == "mistral"
    assert model.config.tie_word_embeddings
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model.lm_head.weight[:-1], mistral.lm_head.weight)

    llama = shutil.copytree(parts[1], tmp_path / "llama")
    turns = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer = tokenizer_of_bytes("<|begin_of_text|>", "<|eot_id|>", "<pad>", turns)
    tokenizer.save_pretrained(llama)
    edit_json(llama / "generation_config.json", eos_token_id=7)
    model, processor = load_model(assemble_llava(parts[0], llama, tmp_path / "b"))
    assert "<|start_header_id|>" in processor.chat_template
    assert sorted(model.generation_config.eos_token_id) == sorted([7, tokenizer.convert_tokens_to_ids("<|eot_id|>")])


def test_bad_parts_are_named_and_nothing_is_written(parts, tmp_path, tiny_folders):
    tower, language = parts
    broken = shutil.copytree(language, tmp_path / "broken")
    save_file({name: w for name, w in weights_of(language).items() if "norm" not in name}, broken / "model.safetensors")
    towerless = shutil.copytree(tower, tmp_path / "towerless")
    save_file({"embeddings.class_embedding": torch.ones(32)}, towerless / "model.safetensors")
    mute, odd = (shutil.copytree(language, tmp_path / name) for name in ("mute", "odd"))
    (mute / "tokenizer.json").unlink()
    tokenizer_of_bytes(None, "<|im_end|>", "<pad>", ("<|im_start|>",)).save_pretrained(odd)
    shallow = shutil.copytree(tower, tmp_path / "shallow")
    edit_json(shallow / "config.json", num_hidden_layers=0)
    for one, other, message in (
        (tmp_path / "none", language, "none: no such folder"),
        (tower, tmp_path / "none", "none: no such folder"),
        (language, language, "'llama' is not a CLIP vision tower"),
        (tower, tower, "'clip_vision_model' is not a language model"),
        (tower, tiny_folders["qwen2_5_vl"], "'qwen2_5_vl' is not a language model"),
        (tower, broken, "broken: 5 missing weights"),
        (towerless, language, "missing weights of the vision tower"),
        (tower, mute, "no readable tokenizer"),
        (tower, odd, "neither </s> nor Llama 3's tokens"),
        (shallow, language, "mm_vision_select_layer is -2, but the vision tower has 0 layers"),
    ):
        with pytest.raises(InputError, match=message) as error:
            assemble_llava(one, other, tmp_path / "out")
        assert "\n" not in str(error.value)
    for values, message in (
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"image_aspect_ratio": "anyres"}, "choose one of pad, square"),
        ({"position_balance": 1}, "position_balance=1"),
        ({"output_dir": tower}, "not an empty folder"),
    ):
        with pytest.raises(InputError, match=message):
            assemble_llava(tower, language, **{"output_dir": tmp_path / "out"} | values)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
