"""Bad values by kind: files, numbers, names and checkpoints as they have come from people, disks and editors.

A kind is a dict: a short name -> the value. A function as a value writes the bad file, or spoils the copy, at a path.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

DEEP = "[" * 200_000
HUGE = "9" * 5_000


def text(content: str | bytes) -> Callable[[Path], None]:
    """A file with this content."""
    return lambda path: path.write_bytes(
        content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    )


def folder(path: Path) -> None:
    path.mkdir()


def missing(path: Path) -> None:
    """Nothing is there."""


def socket(path: Path) -> None:
    """A link that leads to itself."""
    path.symlink_to(path.name)


# Of any JSON, JSON-lines or YAML file: what is wrong with it before anybody looks at its fields.
UNREADABLE = {
    "missing": missing,
    "a folder": folder,
    "a link to itself": socket,
    "empty": text(""),
    "blank lines": text("\n \n\n"),
    "no JSON": text("hello: [world"),
    "cut short": text('{"id": "1", "image": "a.j'),
    "UTF-16": text('{"id": 1}\n'.encode("utf-16")),
    "no UTF-8": text(b'{"id": "\xff\xfe\xfa"}\n'),
    "zeros of a crashed disk": text(b"\0" * 512),
    "a picture": text(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(range(256))),
    "nested 200,000 deep": text(DEEP),
    "objects nested deep": text('{"a":' * 150 + "1" + "}" * 150),
    "a number of 5,000 digits": text(f'{{"id": {HUGE}}}'),
    "a key twice": text('{"id": 1, "id": 2}'),
    "half a character": text('{"id": "\\ud800", "image": "a.jpg"}'),
    "a string": text('"id"'),
    "a number": text("17"),
    "null": text("null"),
}

# Values of an option that is a positive number.
NUMBERS = {
    value or "nothing": value for value in ("", "x", "0", "-1", "1.5.1", "nan", "inf", "-inf", "1e999", HUGE, "½")
}
# Of one that may be 0.
NOT_NEGATIVE = {name: value for name, value in NUMBERS.items() if name != "0"}
CHOICES = {"nothing": "", "a word": "psychic", "a control character": "\x1b[31mred", "a line break": "a\nb"}

# Names of files to write.
OUTPUTS = {
    "nothing": "",
    "300 characters": "x" * 300,
    "below a file": "{world}/probe/probe.jsonl/x",
    "a folder": "{world}/probe",
    "a zero character": "a\0b",
}
# Names of files to read.
INPUTS = {
    "nothing": "",
    "300 characters": "x" * 300,
    "a zero character": "a\0b",
    "below a file": "{world}/probe/probe.jsonl/x",
    "a device": "/dev/null",
}
# Names of pictures, as data give them.
PICTURES = {
    "none": None,
    "a number": 17,
    "a list": ["a.jpg"],
    "nothing": "",
    "absolute": "/etc/passwd",
    "out of the folder": "../probe.jsonl",
    "out of it deeper in": "a/../../probe.jsonl",
    "300 characters": "x" * 300 + ".jpg",
    "a zero character": "a\0.jpg",
    "half a character": "\ud800.jpg",
}


def without(name: str) -> Callable[[Path], None]:
    """A checkpoint that lacks a file."""
    return lambda copy: (copy / name).unlink()


def cut(name: str, to: int = 100) -> Callable[[Path], None]:
    """A checkpoint with a file cut short, by a full disk or a broken download."""
    return lambda copy: (copy / name).write_bytes((copy / name).read_bytes()[:to])


def replaced(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda copy: text(content)(copy / name)


def config(**fields) -> Callable[[Path], None]:
    """A checkpoint with fields of config.json changed (...: removed)."""

    def change(copy: Path) -> None:
        values = json.loads((copy / "config.json").read_text()) | fields
        kept = {name: value for name, value in values.items() if value is not ...}
        (copy / "config.json").write_text(json.dumps(kept))

    return change


def part(name: str, **fields) -> Callable[[Path], None]:
    """A checkpoint with fields of a part of config.json changed."""

    def change(copy: Path) -> None:
        values = json.loads((copy / "config.json").read_text())
        config(**{name: values[name] | fields})(copy)

    return change


def emptied(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.mkdir()


def a_file(copy: Path) -> None:
    shutil.rmtree(copy)
    copy.write_text("{}")


def gone(copy: Path) -> None:
    shutil.rmtree(copy)


def adapter(**fields) -> Callable[[Path], None]:
    """A PEFT adapter's description in front of a checkpoint's files; "{here}" is the folder itself."""

    def change(copy: Path) -> None:
        given = {name: str(copy) if value == "{here}" else value for name, value in fields.items()}
        (copy / "adapter_config.json").write_text(json.dumps(given))

    return change


INDEX = "model.safetensors.index.json"


def indexed(content: str) -> Callable[[Path], None]:
    """A checkpoint whose weights are in shards, by an index with this content."""

    def change(copy: Path) -> None:
        (copy / "model.safetensors").rename(copy / "model-1-of-1.safetensors")
        (copy / INDEX).write_text(content)

    return change


# Copies of a tiny checkpoint, spoilt.
CHECKPOINTS = {
    "gone": gone,
    "an empty folder": emptied,
    "a file": a_file,
    "no config.json": without("config.json"),
    "config.json cut": cut("config.json"),
    "config.json empty": replaced("config.json", ""),
    "config.json an array": replaced("config.json", "[1]"),
    "config.json nested deep": replaced("config.json", DEEP),
    "config.json of 5,000 digits": replaced("config.json", f'{{"model_type": {HUGE}}}'),
    "config.json in UTF-16": replaced("config.json", '{"a": 1}'.encode("utf-16")),
    "no model_type": config(model_type=...),
    "model_type null": config(model_type=None),
    "model_type a number": config(model_type=3),
    "model_type a list": config(model_type=["llava"]),
    "model_type unknown": config(model_type="psychic"),
    "model_type of text alone": config(model_type="llama"),
    "custom code": config(model_type="custom", auto_map={"AutoConfig": "configuration_x.X"}),
    "flag a word": config(position_balance="yes"),
    "flag a number": config(position_balance=1),
    "flag null": config(position_balance=None),
    "flag a list": config(position_balance=[True]),
    "flag in text_config": part("text_config", position_balance=True),
    "text_config a string": config(text_config="llama"),
    "text_config null": config(text_config=None),
    "text_config a list": config(text_config=[]),
    "vision_config a number": config(vision_config=1),
    "hidden_size a word": part("text_config", hidden_size="many"),
    "hidden_size negative": part("text_config", hidden_size=-64),
    "hidden_size too large": part("text_config", hidden_size=128),
    "layers too many": part("text_config", num_hidden_layers=9),
    "layers a half": part("text_config", num_hidden_layers=1.5),
    "heads 0": part("text_config", num_attention_heads=0),
    "rope_parameters a number": part("text_config", rope_parameters=3),
    "rope_type unknown": part("text_config", rope_parameters={"rope_type": "psychic", "rope_theta": 1e4}),
    "vocab_size 0": part("text_config", vocab_size=0),
    "image token another": config(image_token_index=7, image_token_id=7),
    "image token a word": config(image_token_index="<image>", image_token_id="<image>"),
    "patch_size 0": part("vision_config", patch_size=0),
    "dtype unknown": config(dtype="float7"),
    "quantised without its package": config(quantization_config={"quant_method": "awq", "bits": 4}),
    "quantised by nothing known": config(quantization_config={"quant_method": "psychic"}),
    "quantised by a string": config(quantization_config="awq"),
    "no weights": without("model.safetensors"),
    "weights empty": replaced("model.safetensors", b""),
    "weights cut": cut("model.safetensors", 5_000),
    "weights of text": replaced("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    "weights with a lying header": replaced("model.safetensors", (1 << 62).to_bytes(8, "little") + b"{}"),
    "index of nothing": indexed("{}"),
    "index not JSON": indexed("<html>"),
    "index of a number": indexed('{"weight_map": 3}'),
    "index of numbers": indexed('{"weight_map": {"a": 3}}'),
    "index of missing shards": indexed('{"metadata": {}, "weight_map": {"lm_head.weight": "model-1.safetensors"}}'),
    "index of foreign places": indexed('{"metadata": {}, "weight_map": {"lm_head.weight": "../../x.safetensors"}}'),
    "generation_config cut": cut("generation_config.json", 20),
    "generation_config an array": replaced("generation_config.json", "[]"),
    "no tokenizer": lambda copy: [path.unlink() for path in copy.glob("tokenizer*")],
    "tokenizer cut": cut("tokenizer.json"),
    "tokenizer empty": replaced("tokenizer.json", "{}"),
    "tokenizer_config cut": cut("tokenizer_config.json", 30),
    "tokenizer_config an array": replaced("tokenizer_config.json", "[]"),
    "processor cut": cut("processor_config.json", 30),
    "processor an array": replaced("processor_config.json", "[]"),
    "processor unknown": replaced("processor_config.json", '{"image_processor": {"image_processor_type": "Psychic"}}'),
    "adapter_config cut": replaced("adapter_config.json", '{"peft_ty'),
    "adapter of nothing": adapter(),
    "adapter of itself": adapter(base_model_name_or_path="{here}", peft_type="LORA"),
    "adapter of a number": adapter(base_model_name_or_path=3, peft_type="LORA"),
    "adapter of a long name": adapter(base_model_name_or_path="x" * 300, peft_type="LORA"),
    "adapter of a zero character": adapter(base_model_name_or_path="a\0b", peft_type="LORA"),
}
