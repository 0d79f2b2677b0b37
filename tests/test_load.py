"""Loading, the flag, saving, adapters, Auto classes, and what bad checkpoints are told."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from models import load_model, reading
from models.errors import InputError
from models.processors import finish_processor
from models.tiny import build_tiny
from tests.conftest import UPSTREAM
from tests.pictures import picture

PICTURE = picture(70, 50)


def edited(folder, copy, **fields):
    """A copy of a checkpoint with fields of config.json changed (None: removed)."""
    shutil.copytree(folder, copy)
    edit_json(copy / "config.json", **fields)
    return copy


def edit_json(file, **fields):
    config = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("flag", [True, False])
def test_the_flag_in_config_json_decides(kit, tmp_path, flag, caplog):
    folder = edited(kit.folder, tmp_path / "checkpoint", position_balance=flag)
    model, processor = load_model(folder, dtype="float32")
    assert model.config.position_balance is flag
    assert not model.training
    assert processor.tokenizer.padding_side == "left"
    assert not caplog.records
    inputs = kit.inputs((PICTURE, "what?"))
    assert torch.equal(logits(model, inputs), logits(kit.with_flag(flag), inputs))
    other, _ = load_model(folder, position_balance=not flag, dtype="float32")
    assert other.config.position_balance is not flag


def test_an_absent_flag_is_false_with_one_notice(tiny_folders, tmp_path, caplog):
    folder = edited(tiny_folders["llava"], tmp_path / "checkpoint", position_balance=...)
    with caplog.at_level(logging.WARNING):
        model, _ = load_model(folder)
    assert model.config.position_balance is False
    assert [record.message for record in caplog.records] == [
        f'{folder}/config.json has no "position_balance": running the original model (false)'
    ]


@pytest.mark.parametrize(("value", "shown"), [("yes", '"yes"'), (1, "1"), (None, "null"), ("true", '"true"')])
def test_a_flag_that_is_no_boolean(tiny_folders, tmp_path, value, shown):
    folder = edited(tiny_folders["llava"], tmp_path / "checkpoint", position_balance=value)
    for override in (None, True):
        with pytest.raises(InputError) as raised:
            load_model(folder, position_balance=override)
        assert str(raised.value) == (
            f'{folder}/config.json: "position_balance" is {shown}; '
            'write "position_balance": true or "position_balance": false'
        )
    with pytest.raises(InputError, match="pass True, False or None"):
        load_model(tiny_folders["llava"], position_balance="true")


@pytest.mark.parametrize("flag", [True, False])
def test_saved_models_load_here_and_in_plain_transformers(kit, tmp_path, flag):
    model = kit.with_flag(flag)
    model.save_pretrained(tmp_path)
    kit.processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    upstream_class = UPSTREAM[config["model_type"]]
    assert config["position_balance"] is flag
    assert config["architectures"] == [upstream_class.__name__]

    kit.upstream.save_pretrained(tmp_path / "upstream")
    saved, upstream_saved = (load_file(path / "model.safetensors") for path in (tmp_path, tmp_path / "upstream"))
    assert saved.keys() == upstream_saved.keys()

    inputs = kit.inputs((PICTURE, "what?"))
    again, processor = load_model(tmp_path, dtype="float32")
    assert again.config.position_balance is flag
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert processor.chat_template == kit.processor.chat_template
    plain, report = upstream_class.from_pretrained(tmp_path, dtype="float32", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert torch.equal(logits(plain.eval(), inputs), logits(kit.upstream, inputs))


def test_adapters(kit, tmp_path):
    """An adapter folder is a model path: its base, its weights, its flag."""
    base, _ = load_model(kit.folder, position_balance=False, dtype="float32")
    targets = r".*language_model.*\.(q_proj|v_proj)"
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    edit_json(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=str(kit.folder))
    inputs = kit.inputs((PICTURE, "what?"))
    loaded, processor = load_model(tmp_path / "adapter", dtype="float32")
    assert torch.equal(logits(loaded, inputs), logits(adapted, inputs))
    assert (logits(loaded, inputs) - logits(kit.with_flag(False), inputs)).abs().max() > 1e-3
    assert processor.tokenizer.padding_side == "left"
    # The flag that the adapter was trained with stands in its own folder; an argument overrides it.
    (tmp_path / "adapter" / "config.json").write_text('{"position_balance": true}')
    balanced, _ = load_model(tmp_path / "adapter", dtype="float32")
    assert balanced.config.position_balance is True
    base.config.position_balance = True
    assert torch.equal(logits(balanced, inputs), logits(adapted, inputs))
    assert load_model(tmp_path / "adapter", position_balance=False)[0].config.position_balance is False


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
def test_adapters_of_older_releases(tiny_folders, tmp_path, family):
    """transformers up to 4.51 (LLaMA-Factory's of that time) named the language model's layers otherwise."""
    base, _ = load_model(tiny_folders[family], position_balance=False, dtype="float32")
    targets = r".*language_model.*\.(q_proj|v_proj)"
    get_peft_model(base, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).save_pretrained(tmp_path)
    edit_json(tmp_path / "adapter_config.json", base_model_name_or_path=str(tiny_folders[family]))
    expected = load_model(tmp_path, dtype="float32")[0].state_dict()
    file = tmp_path / "adapter_model.safetensors"
    new, old = (
        "base_model.model.model.language_model.layers.",
        {
            "qwen2_5_vl": "base_model.model.model.layers.",
        }.get(family, "base_model.model.language_model.model.layers."),
    )
    weights = load_file(file)
    assert all(name.startswith(new) for name in weights)
    save_file({old + name.removeprefix(new): weight for name, weight in weights.items()}, file)
    loaded = load_model(tmp_path, dtype="float32")[0].state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_adapters_that_do_not_fit(tiny_folders, tmp_path):
    base, _ = load_model(tiny_folders["llava"], position_balance=False)
    get_peft_model(base, LoraConfig(r=4, target_modules=r".*language_model.*q_proj")).save_pretrained(tmp_path)
    settings, file = tmp_path / "adapter_config.json", tmp_path / "adapter_model.safetensors"
    edit_json(settings, base_model_name_or_path=str(tiny_folders["llava"]))
    weights = load_file(file)
    first = min(weights)
    save_file({name: weight for name, weight in weights.items() if name != first}, file)
    with pytest.raises(InputError, match="1 missing adapter weights"):
        load_model(tmp_path)
    save_file(weights | {"base_model.model.model.language_model.norm.lora_A.weight": torch.ones(4, 4)}, file)
    with pytest.raises(InputError, match="1 unexpected adapter weights"):
        load_model(tmp_path)
    save_file(weights, file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="the adapter cannot be put on"):
        load_model(tmp_path)
    save_file({name: weight[..., :1].contiguous() for name, weight in weights.items()}, file)
    with pytest.raises(InputError, match="the adapter cannot be put on"):
        load_model(tmp_path)
    for base, message in ((None, "no base_model"), (str(tmp_path), "is this folder"), ("absent", "its base cannot")):
        edit_json(settings, base_model_name_or_path=base)
        with pytest.raises(InputError, match=message):
            load_model(tmp_path)


def test_hub_ids(tiny_folders, tmp_path):
    """From the hub's cache, offline: both layouts and an adapter, whose base is a hub id too."""
    base, _ = load_model(tiny_folders["llava"], position_balance=False)
    get_peft_model(base, LoraConfig(r=4, target_modules=r".*language_model.*q_proj")).save_pretrained(tmp_path / "a")
    edit_json(tmp_path / "a" / "adapter_config.json", base_model_name_or_path="org/base")
    original = build_tiny("llava", tmp_path / "o", layout="llava")
    for name, folder in (("base", tiny_folders["llava"]), ("adapter", tmp_path / "a"), ("original", original)):
        repository = tmp_path / "cache" / f"models--org--{name}"
        shutil.copytree(folder, repository / "snapshots" / "0123abcd")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0123abcd")
    code = """
from models import load_model
for name in ("base", "original", "adapter"):
    model, processor = load_model(f"org/{name}", position_balance=True)
    print(type(model).__name__, model.config.position_balance, bool(processor.chat_template))
try:
    load_model("org/absent")
except ValueError as error:
    print(error)
"""
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        "LlavaForConditionalGeneration True True",
        "LlavaForConditionalGeneration True True",
        "PeftModel True True",
        "org/absent: no such folder, and the hub cannot be reached for this id",
    ], result.stderr


def test_auto_classes_after_registration(tiny_folders, tmp_path):
    """In a process of its own: registration is global."""
    picture(80, 40).save(tmp_path / "picture.png")
    folders = {family: str(tiny_folders[family]) for family in ("llava", "qwen2_5_vl", "gemma3")}
    code = f"""
import transformers
folders, before = {folders!r}, transformers.AutoModelForImageTextToText
def module(auto, folder):
    return type(auto.from_pretrained(folder)).__module__
assert all(module(before, folder).startswith("transformers.") for folder in folders.values())
from models import register_auto_classes
assert all(module(before, folder).startswith("transformers.") for folder in folders.values())
register_auto_classes()
from models.processors import load_processor  # without torchvision, AutoProcessor cannot load Qwen2.5-VL's
content = [dict(type="image", path={str(tmp_path / "picture.png")!r}), dict(type="text", text="what?")]
for family, folder in folders.items():
    assert module(before, folder).startswith("models."), family
    assert module(transformers.AutoModelForMultimodalLM, folder) == module(before, folder)
    processor = load_processor(folder, before.from_pretrained(folder).config) if family == "qwen2_5_vl" else None
    pipe = transformers.pipeline("image-text-to-text", model=folder, processor=processor)
    assert type(pipe.model).__module__.startswith("models."), family
    print(pipe(text=[dict(role="user", content=content)], max_new_tokens=3, return_full_text=False)[0])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("generated_text") == len(folders)


def test_importing_the_package_loads_nothing_heavy():
    code = "import models, sys; assert not {'torch', 'transformers'} & set(sys.modules); from models import load_model"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_model_without_a_fork(tmp_path, tiny_folders):
    """Flag off: transformers' own class. Flag on: the supported families are listed."""
    folder = edited(tiny_folders["llava"], tmp_path / "checkpoint", model_type="vipllava", position_balance=True)
    with pytest.raises(InputError, match="supported: llava, llava_next, qwen2_5_vl, gemma3"):
        load_model(folder)
    with pytest.raises(InputError, match="missing weights"):  # a class was found; these weights are not its own
        load_model(folder, position_balance=False)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5000])


def as_bin(folder, content):
    without_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(content)


def one_missing(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("multi_modal_projector.linear_1.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def one_too_many(folder):
    weights = load_file(folder / "model.safetensors") | {"language_model.model.extra.weight": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def one_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors") | {"multi_modal_projector.linear_1.weight": torch.ones(2, 2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json: a list, not a JSON object"),
        (without_weights, "weights cannot be read"),
        (truncated, "weights cannot be read"),
        (one_missing, "1 missing weights .first: model.multi_modal_projector.linear_1.weight"),
        (one_too_many, "1 unexpected weights .first: model.language_model.extra.weight"),
        (one_of_another_shape, "1 mismatched weights .first: .*linear_1.weight"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be loaded|image token"),
        (lambda folder: (folder / "processor_config.json").unlink(), "image processor cannot be loaded"),
        (lambda folder: edit_json(folder / "config.json", image_token_index=5), "not of one checkpoint"),
        (lambda folder: edit_json(folder / "config.json", text_config={"model_type": "nosuch"}), "config.json: cannot"),
        (lambda folder: edit_json(folder / "config.json", image_token_index="x"), "config.json: cannot be read"),
        (lambda folder: edit_json(folder / "config.json", model_type=["llava"]), "config.json"),
        (lambda folder: as_bin(folder, b""), "weights cannot be read"),
        (lambda folder: as_bin(folder, b"PK not a zip"), "weights cannot be read"),
    ],
)
def test_broken_checkpoints(tiny_folders, tmp_path, spoil, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_folders["llava"], folder)
    spoil(folder)
    with pytest.raises(InputError, match=message) as raised:
        load_model(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_paths_that_are_no_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent", "no/such-model", "absent", tmp_path, tmp_path / "file", ""):
        with pytest.raises(InputError):
            load_model(path)


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(reading, "hf_hub_download", lambda *args, **kwargs: pytest.fail("asked the hub"))
    for path in ("checkpoints/tiny-lava", "./absent", "../absent", "~/absent", "absent", "/absent/x", "a/b/c"):
        with pytest.raises(InputError, match="no such folder"):
            load_model(path)


def test_hub_arguments_reach_every_reader(monkeypatch):
    asked = []

    def record(path, name, **arguments):
        asked.append((name, arguments))
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(reading, "hf_hub_download", record)
    with pytest.raises(InputError, match="hub cannot be reached"):
        load_model("owner/name", revision="abc", cache_dir="there", dtype="float32")
    where = {"revision": "abc", "cache_dir": "there"}
    assert asked == [("adapter_config.json", where), ("config.json", where)]
    with pytest.raises(InputError, match="subfolder: load_model sets it itself"):
        load_model("owner/name", subfolder="x")


def test_sampling_values_without_sampling_do_not_hinder_saving(tiny_folders, tmp_path):
    """As Vicuna's generation_config.json has them; transformers 5.17 would refuse to write that model."""
    folder = edited(tiny_folders["llava"], tmp_path / "checkpoint")
    edit_json(folder / "generation_config.json", temperature=0.9, top_p=0.6)
    load_model(folder, position_balance=False)[0].save_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(("token", "kept"), [("<|im_start|>", True), ("<|start_header_id|>", True), ("<x>", False)])
def test_the_template_of_another_conversation_is_kept(kits, tmp_path, token, kept):
    """LLaVA with a language model that no released checkpoint of its family has: its own template is the right one."""
    kit = kits["llava"]
    kit.processor.save_pretrained(tmp_path)
    processor = type(kit.processor).from_pretrained(tmp_path)
    processor.tokenizer.add_tokens([token], special_tokens=True)
    processor.chat_template = "its own"
    finish_processor(processor, kit.fork.config, "checkpoint")
    assert (processor.chat_template == "its own") is kept


def test_a_template_of_the_tokenizer_will_do(kits, tmp_path):
    kit = kits["qwen2_5_vl"]
    kit.processor.save_pretrained(tmp_path)
    processor = type(kit.processor).from_pretrained(tmp_path)
    processor.tokenizer.chat_template, processor.chat_template = "the tokenizer's", None
    assert finish_processor(processor, kit.fork.config, "checkpoint").chat_template == "the tokenizer's"
    processor.tokenizer.chat_template = processor.chat_template = None
    with pytest.raises(InputError, match="checkpoint: no chat template"):
        finish_processor(processor, kit.fork.config, "checkpoint")


def test_a_tower_of_unknown_token_count_is_refused_only_with_the_flag(tiny_folders, tmp_path):
    vision = {"model_type": "pixtral", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = edited(tiny_folders["llava"], tmp_path / "checkpoint", vision_config=vision)
    with pytest.raises(InputError, match="vision tower 'pixtral' is not one of"):
        load_model(folder, position_balance=True)
    with pytest.raises(InputError, match="weights"):
        load_model(folder, position_balance=False)


@pytest.mark.parametrize("content", ['{"repetition_penalty": 1.05, "do_sam', "[1]", "", '{"compile_config": 3}'])
def test_a_broken_generation_config_is_not_passed_over(kit, tmp_path, content):
    """transformers would generate without the settings of the checkpoint, without a word."""
    folder = shutil.copytree(kit.folder, tmp_path / "checkpoint")
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match=r"generation_config\.json: "):
        load_model(folder)


@pytest.mark.parametrize("choice", ["bogus", "flash_attention_2", "flash_attention_3", "", 3])
def test_an_attention_that_cannot_be_had(tiny_folders, choice):
    """(FlashAttention is not installed where the tests run.)"""
    with pytest.raises(InputError, match=rf"attn_implementation={choice!r}: cannot be used here; choose sdpa or eager"):
        load_model(tiny_folders["llava"], attn_implementation=choice)


def test_a_quantised_checkpoint_without_its_package(tiny_folders, tmp_path):
    settings = {"quant_method": "awq", "bits": 4}
    folder = edited(tiny_folders["llava"], tmp_path / "awq", quantization_config=settings)
    with pytest.raises(InputError, match="a package that is not installed here|cannot be read"):
        load_model(folder)


@pytest.mark.parametrize("of", ["config", "tokenizer", "tokenizer of the LLaVA code base"])
def test_custom_code_is_never_run_nor_asked_about(tiny_folders, tmp_path, of):
    """transformers would ask "run the custom code? [y/N]" on a terminal."""
    folder = tmp_path / "custom"
    if of == "config":
        custom = {"AutoConfig": "custom.Custom"}
        edited(tiny_folders["llava"], folder, model_type="custom", auto_map=custom)
    else:
        layout = "transformers" if of == "tokenizer" else "llava"
        build_tiny("llava", folder, layout=layout)
        own = {"tokenizer_class": "CustomTokenizer", "auto_map": {"AutoTokenizer": ["custom.Custom", None]}}
        edit_json(folder / "tokenizer_config.json", **own)
    (folder / "custom.py").write_text("raise SystemExit('custom code ran')")
    code = f"from models import load_model; load_model({str(folder)!r}, position_balance=False); print('loaded')"
    main, terminal = os.openpty()
    os.write(main, b"y\n")
    result = subprocess.run([sys.executable, "-c", code], stdin=terminal, capture_output=True, text=True, timeout=100)
    os.close(main), os.close(terminal)
    assert "[y/N]" not in result.stdout + result.stderr
    assert "custom code ran" not in result.stderr
    assert result.stdout == "loaded\n" or "InputError" in result.stderr.splitlines()[-1]
