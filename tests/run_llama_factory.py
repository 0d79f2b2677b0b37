"""Train and merge tiny checkpoints with LLaMA-Factory itself, by the shipped YAMLs, and check what came out.

    python tests/run_llama_factory.py

Not part of the test suite: it runs in the environment of docs/llama_factory.md, on the CPU, in a few minutes. For
each of the four families, with the flag off and on: the first loss that LLaMA-Factory reports is that of this
repository's model on LLaMA-Factory's own batch; the adapter holds the language model's linear layers and nothing else;
adapter, its checkpoints and the merged checkpoint carry the flag; vision tower and projector are bit-equal after
merging; merged and adapted model give the same logits. Then the same run in two processes, started both ways.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.utils.logging import disable_progress_bar

from models import load_model
from models.errors import ArgumentParser, run_script
from models.fingerprint import base_identity
from models.tiny import build_tiny
from train.llama_factory import read_settings

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT / "data" / "samples" / "photos"
SCRIPT = ROOT / "train" / "llama_factory.py"
YAML_FAMILIES = {
    "llava_1_5": "llava",
    "llava_1_6_mistral": "llava_next_mistral",
    "qwen2_5_vl": "qwen2_5_vl",
    "gemma3": "gemma3",
}
SAMPLES, STEPS = 4, 3
# What makes a recipe small: every step sees all samples, so that losses do not depend on their order.
SMALL = {
    "dataset": f"llava_instruct_{SAMPLES}",
    "media_dir": str(PHOTOS),
    "max_steps": STEPS,
    "per_device_train_batch_size": SAMPLES,
    "gradient_accumulation_steps": 1,
    "preprocessing_num_workers": 1,
    "dataloader_num_workers": 0,
    "bf16": "false",
    "use_cpu": "true",
    "logging_steps": 1,
    "save_steps": 2,
    "save_total_limit": 2,
    "lora_dropout": 0.0,
    "warmup_ratio": 0.0,
}


def write_data(folder: Path) -> None:
    """A data set by data/sample_instructions.py, of the bundled photos; one sample has none.

    The answers are of one length: LLaMA-Factory averages over the batches of processes, whatever their tokens.
    """
    lines = (PHOTOS / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:SAMPLES]
    samples = []
    for number, row in enumerate(map(json.loads, lines)):
        question, image = "What is this?" + " Please look again." * number, {"image": row["image"]}
        if number == 1:
            image = {}
        turns = [("human", "<image>\n" * len(image) + question), ("gpt", row["caption"][:40])]
        turns = [{"from": speaker, "value": value} for speaker, value in turns]
        samples.append({"id": number, **image, "conversations": turns})
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "instructions.json"
    source.write_text(json.dumps(samples))
    options = ["--num_samples", str(SAMPLES), "--include_text_only", "--output_dir", str(folder / "data")]
    script = str(ROOT / "data" / "sample_instructions.py")
    run([sys.executable, script, "--input", str(source), "--image_folder", str(PHOTOS), *options])


def run(command: list[str], expected: int = 0, **environment: str) -> str:
    """Run a command; its output, or SystemExit with it if the status is another than `expected`."""
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, cwd=ROOT)
    if result.returncode != expected:
        raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}\nstatus {result.returncode}")
    return result.stdout + result.stderr


def recipe(name: str, action: str) -> str:
    return str(ROOT / "configs" / "llama_factory" / f"{name}_{action}.yaml")


def words(settings: dict) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items()]


def losses(output_dir: Path) -> list[float]:
    history = json.loads((output_dir / "trainer_state.json").read_text())["log_history"]
    return [row["loss"] for row in history if "loss" in row]


def factory_batch(yaml: str, overrides: list[str]) -> dict[str, torch.Tensor]:
    """All samples as LLaMA-Factory's own template, tokenizer and collator give them, without positions."""
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(read_settings(yaml, overrides))
    parts = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a sample
        data = get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)["train_dataset"]
    collate = SFTDataCollatorWith4DAttentionMask(template=template, pad_to_multiple_of=8, **parts)
    return dict(collate([dict(data[index]) for index in range(len(data))]))


def loss_here(folder: Path, batch: dict[str, torch.Tensor]) -> float:
    """Mean loss over all supervised tokens of LLaMA-Factory's batch, by the model that `load_model` gives."""
    model, _ = load_model(folder, dtype="float32")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if model.config.model_type == "qwen2_5_vl":
        # Upstream's positions need to be told where images are; the fork's, with the flag on, do not.
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).long()
    with torch.no_grad():
        logits = model(**inputs).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten()).item()


def expect(condition: bool, message: str) -> None:
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def flag_of(folder: Path):
    return json.loads((folder / "config.json").read_text()).get("position_balance")


def check_adapter(adapter: Path, base: Path, flag: bool) -> int:
    """The modules that were trained, which must be all linear layers of the language model's blocks; their number."""
    model, _ = load_model(base)
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    expected = {name for name in linear if re.match(r"model\.language_model\.layers\.\d+\.", name)}
    weights = load_file(adapter / "adapter_model.safetensors")
    name_of = {key: re.sub(r"^base_model\.model\.|\.lora_[AB]\.weight$", "", key) for key in weights}
    expect(set(name_of.values()) == expected, f"{adapter}: trained {sorted(set(name_of.values()) ^ expected)}")
    blocks = model.config.text_config.num_hidden_layers
    expect(len(weights) == 2 * 7 * blocks, f"{adapter}: {len(weights)} tensors for {blocks} blocks")
    untrained = [key for key, weight in weights.items() if "lora_B" in key and not weight.any()]
    expect(not untrained, f"{adapter}: {untrained} never moved")
    for folder in (adapter, *adapter.glob("checkpoint-*")):
        expect(flag_of(folder) is flag, f"{folder}: the flag is {flag_of(folder)}")
        training = json.loads((folder / "training.json").read_text())
        expect(training["base"]["files"] == base_identity(base), f"{folder}: training.json has another base")
    expect(len(list(adapter.glob("checkpoint-*"))) == 2, f"{adapter}: checkpoints are missing")
    return len(expected)


def check_merged(merged: Path, adapter: Path, base: Path, flag: bool) -> float:
    """Only the language model's blocks differ from the base, and logits are the adapted model's; their difference."""
    expect(flag_of(merged) is flag, f"{merged}: the flag is {flag_of(merged)}")
    before, after = (load_model(folder, dtype="float32")[0].state_dict() for folder in (base, merged))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    expect(bool(changed), f"{merged}: is the base")
    expect(all("language_model.layers." in name for name in changed), f"{merged}: {sorted(changed)} changed")
    logits = []
    for folder in (adapter, merged):
        model, processor = load_model(folder, dtype="float32")
        expect(model.config.position_balance is flag, f"{folder}: loaded with the other flag")
        content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
        messages = [{"role": "user", "content": content}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        with Image.open(PHOTOS / "cat.jpg") as picture:
            inputs = processor(text=[text], images=[picture], return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    return (logits[0] - logits[1]).abs().max().item()


def check_recipe(name: str, family: str, folder: Path) -> None:
    """One family with the flag off and on: train, export, and all checks; prints a line for each."""
    first = {}
    for flag in (False, True):
        place = folder / f"{name}_{'on' if flag else 'off'}"
        base, adapter, merged = place / "base", place / "adapter", place / "merged"
        build_tiny(family, base)
        config = base / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"position_balance": flag}))
        overrides = {"model_name_or_path": base, "dataset_dir": folder / "data", "output_dir": adapter} | SMALL
        run([sys.executable, str(SCRIPT), "train", recipe(name, "train"), *words(overrides)])
        modules = check_adapter(adapter, base, flag)
        batch = factory_batch(recipe(name, "train"), words(overrides | {"output_dir": place / "unused"}))
        here, there = loss_here(base, batch), losses(adapter)
        expect(len(there) == STEPS, f"{adapter}: {len(there)} losses")
        expect(abs(here - there[0]) < 1e-5, f"{name}, flag {flag}: loss {there[0]}, ours {here}")
        first[flag] = there[0]
        paths = {"model_name_or_path": base, "adapter_name_or_path": adapter, "export_dir": merged}
        run([sys.executable, str(SCRIPT), "export", recipe(name, "merge"), *words(paths), "infer_dtype=float32"])
        difference = check_merged(merged, adapter, base, flag)
        expect(difference < 1e-5, f"{merged}: logits differ by {difference}")
        shown = " ".join(f"{loss:.5f}" for loss in there)
        print(
            f"{name:18} flag {'on ' if flag else 'off'}  losses {shown}  by load_model {here - there[0]:+.0e}  "
            f"{modules} modules  merged against adapter {difference:.0e}",
            flush=True,
        )
    expect(abs(first[False] - first[True]) > 5e-5, f"{name}: the flag changes nothing: {first}")
    other = folder / f"{name}_off" / "base"
    arguments = [f"model_name_or_path={other}", f"adapter_name_or_path={adapter}", f"export_dir={folder}/never"]
    said = run([sys.executable, str(SCRIPT), "export", recipe(name, "merge"), *arguments], expected=2)
    expect("trained with position_balance true" in said and not (folder / "never").exists(), said)


def check_mistakes(folder: Path) -> None:
    """Bad input that only LLaMA-Factory's own keys show is one line and exit status 2, and nothing is written."""
    given = [f"model_name_or_path={folder}/gemma3_on/base", f"output_dir={folder}/never"]
    mistakes = {
        "learning_rat=1": "has no key learning_rat; did you mean learning_rate?",
        "output_dir=": "no output_dir",
        "packing=true": "packing: position_balance is on",
        f"model_name_or_path={folder}/absent": "no such folder",
    }
    for mistake, message in mistakes.items():
        command = [sys.executable, str(SCRIPT), "train", recipe("gemma3", "train"), *given, mistake]
        said = [line for line in run(command, expected=2).splitlines() if "error: " in line]
        expect(len(said) == 1 and message in said[0], f"{mistake}: {said}")
    expect(not (folder / "never").exists(), f"{folder}/never was written")


def check_processes(folder: Path) -> None:
    """Two processes with half the batch each: the same losses, started by torchrun and by the script itself."""
    place = folder / "qwen2_5_vl_on"
    small = SMALL | {"per_device_train_batch_size": SAMPLES // 2, "ddp_backend": "gloo"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ways = {
        "torchrun": (torchrun, {}),
        "by itself": ([sys.executable], {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}),
    }
    alone = losses(place / "adapter")
    for way, (launcher, environment) in ways.items():
        output_dir = place / way.replace(" ", "_")
        overrides = {"model_name_or_path": place / "base", "dataset_dir": folder / "data", "output_dir": output_dir}
        command = [*launcher, str(SCRIPT), "train", recipe("qwen2_5_vl", "train"), *words(overrides | small)]
        said = run(command, LLAMAFACTORY_VERBOSITY="INFO", **environment)
        expect("world size: 2" in said, f"not two processes: {said}")
        check_adapter(output_dir, place / "base", True)
        difference = max(abs(a - b) for a, b in zip(alone, losses(output_dir), strict=True))
        expect(difference < 1e-5, f"two processes, {way}: {losses(output_dir)}, one: {alone}")
        print(
            f"qwen2_5_vl         flag on   two processes, {way}: losses differ from one by {difference:.1e}", flush=True
        )


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--keep", metavar="FOLDER", help="leave everything there, a new folder, to look at")
    arguments = parser.parse_args(argv)
    os.environ |= {"DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1", "LLAMAFACTORY_VERBOSITY": "ERROR"}
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    disable_progress_bar()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="llama_factory."))
    try:
        write_data(folder)
        for name, family in YAML_FAMILIES.items():
            check_recipe(name, family, folder)
        check_mistakes(folder)
        check_processes(folder)
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    print("all checks passed")
    return 0


if __name__ == "__main__":
    run_script(main)
