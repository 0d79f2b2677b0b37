"""Merge a LoRA adapter into its base: one checkpoint, with processor, chat template and flag, checked after saving.

    python train/merge_lora.py --model_path results/lora --save_model_path checkpoints/merged

The base is the one that adapter_config.json names, or --model_base: a folder or hub id, in either layout that
models/load.py reads. Merging is done in float32 (4 bytes of memory a parameter) and rounded once. What is saved is in
the transformers layout and appears whole or not at all, after three checks: logits on a drawn picture are the same
merged as apart; the weights read back are those that were merged, bit for bit; and the logits with them are the same
but for the rounding. Exit status 1 if they are not, 2 for bad input.
"""

import argparse
import collections
import gc
import hashlib
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image, ImageDraw
from transformers import PreTrainedModel

from models import load_model
from models.errors import ArgumentParser, InputError, run_script
from models.fingerprint import base_identity
from models.load import load_adapter, stated_flag
from models.reading import read_json, told_as
from models.writing import check_new, new_folder

# Largest difference of logits, as a part of their range: of merging in float32, and after rounding the weights (twice
# what was seen on models of random weights, 2 and 28 layers deep).
MERGED = 1e-4
ROUNDED = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 2e-2}
COMPARED = 16  # tokens: those of a whole prompt would be gigabytes
SHARD_SIZE = "5GB"


class MergeDiffersError(Exception):
    """What was merged and saved does not compute what base and adapter do."""


def merge(model_path: str, save_model_path: str, model_base: str | None, force: bool, dtype: str) -> None:
    """Merge, save and check; MergeDiffersError if the check fails, InputError for bad input: both leave no output."""
    check_new(save_model_path, "--save_model_path")
    adapter = read_json(model_path, "adapter_config.json")
    if adapter.get("peft_type") != "LORA":
        raise InputError(f"{model_path}/adapter_config.json: peft_type {adapter.get('peft_type')!r}; supported: LORA")
    training = read_json(model_path, "training.json", required=False)
    trained_on = (training or {}).get("base")
    trained_on = trained_on if isinstance(trained_on, dict) else {}
    named = adapter.get("base_model_name_or_path")
    base = model_base or named
    if not isinstance(base, str) or not base:
        raise InputError(f"{model_path}/adapter_config.json: no base_model_name_or_path; name the base by --model_base")
    revision = trained_on.get("revision") or adapter.get("revision") if base == named else None
    check_is_base(base, revision)
    flag = agreed_flag(model_path, base, revision, force)
    # A hub id's files are there only after loading.
    if Path(base).is_dir():
        check_same_base(model_path, base, revision, trained_on, force)
    arguments = {} if dtype == "auto" else {"dtype": dtype}
    adapter |= {"base_model_name_or_path": base, "revision": revision}
    model, processor = load_adapter(model_path, adapter, flag, arguments, {})
    if not Path(base).is_dir():
        check_same_base(model_path, base, revision, trained_on, force)

    check_untied(model_path, model)
    saved_dtype, model = model.dtype, model.float()
    expected = logits(model, processor)
    with model.disable_adapter():
        effect = largest(logits(model, processor) - expected)
    with told_as("the adapter cannot be merged", ValueError):
        model = model.merge_and_unload(progressbar=True, safe_merge=True)
    check(logits(model, processor), expected, MERGED, "merging")
    with new_folder(save_model_path, "--save_model_path") as folder:
        written = save(model, processor, saved_dtype, folder)
        if training is not None:
            (folder / "training.json").write_text(json.dumps(training, indent=2, ensure_ascii=False) + "\n", "utf-8")
        del model
        gc.collect()  # a PEFT model is in cycles, and there is room for one copy of the weights
        difference = check_saved(folder, written, expected)
    print(f"{save_model_path}: {model_path} merged into {base}, position_balance {json.dumps(bool(flag))}")
    print(
        f"largest difference of a logit, read back in {short(saved_dtype)}: {difference:.2g} "
        f"(the adapter changes them by up to {effect:.2g})"
    )


def check_is_base(base: str, revision: str | None) -> None:
    """InputError unless `base` is a checkpoint and no adapter."""
    try:
        if read_json(base, "adapter_config.json", required=False, revision=revision) is not None:
            raise InputError(f"{base}: an adapter itself; merge it first")
        read_json(base, "config.json", revision=revision)
    except InputError as error:
        raise InputError(f"{error} (as the base; --model_base names another)") from None


def agreed_flag(model_path: str, base: str, revision: str | None, force: bool) -> bool | None:
    """The adapter's flag, else the base's; InputError where files state another than the adapter was trained with."""
    stated = {
        f"{model_path}/training.json": stated_flag(model_path, "training.json"),
        f"{model_path}/config.json": stated_flag(model_path),
        f"{base}/config.json": stated_flag(base, revision=revision),
    }
    known = [(file, flag) for file, flag in stated.items() if flag is not None]
    for file, flag in known[1:]:
        first, trained = known[0]
        if flag != trained:
            refuse(
                f"{file}: position_balance is {json.dumps(flag)}, but {json.dumps(trained)} in {first}: "
                "the adapter was trained that way; make them agree",
                force,
            )
    own = stated[f"{model_path}/config.json"]
    return known[0][1] if known and own is None else own


def check_untied(model_path: str, model: PeftModel) -> None:
    """InputError if a layer that the adapter changes shares its weight with another, which merging would change too."""
    owners = collections.Counter(id(module._parameters.get("weight")) for module in model.modules())
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and owners[id(module.get_base_layer().weight)] > 1:
            layer = name.removeprefix("base_model.model.")
            raise InputError(
                f"{model_path}: adapts {layer}, whose weight is tied to another layer's (tie_word_embeddings): "
                "it cannot be merged; use the adapter's folder as --model_path"
            )


def check_same_base(model_path: str, base: str, revision: str | None, trained_on: dict, force: bool) -> None:
    """InputError if the base is another than training.json says; a notice if it does not say."""
    expected = trained_on.get("files")
    if not isinstance(expected, dict) or not expected:
        notice(f"{model_path}: no training.json that tells which base it was trained on; {base} cannot be verified")
        return
    found = base_identity(base, revision)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            how = "is missing" if name not in found else "is not"
            refuse(
                f"{base}/{name}: {how} what {model_path} was trained on ({trained_on.get('path')}); "
                "name that base by --model_base",
                force,
            )
            return


def refuse(reason: str, force: bool) -> None:
    """InputError, or with --force a warning."""
    if not force:
        raise InputError(f"{reason}, or merge all the same by --force")
    notice(f"{reason} (--force: merged all the same)")


def notice(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def save(model: PreTrainedModel, processor, dtype: torch.dtype, folder: Path) -> dict[str, str]:
    """Round the weights to `dtype`, in place, and save both; returns `digests` of what was to be written."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    processor.save_pretrained(folder)
    return digests(model)


def check_saved(folder: Path, written: dict[str, str], expected: torch.Tensor) -> float:
    """Largest difference from `expected` logits of the checkpoint in `folder`; MergeDiffersError if it is not right.

    `written`: `digests` of the weights that were to be written.
    """
    try:
        model, processor = load_model(folder)
    except InputError as error:
        raise MergeDiffersError(f"the merged checkpoint cannot be read back ({error})") from None
    found = digests(model)
    wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    if wrong:
        raise MergeDiffersError(f"{len(wrong)} weights read back are not those that were merged (first: {wrong[0]})")
    dtype = model.dtype
    return check(logits(model.float(), processor), expected, ROUNDED[dtype], f"saving in {short(dtype)}")


def check(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> float:
    """Largest difference of two tensors; MergeDiffersError beyond `tolerance`, a part of the range of `expected`."""
    difference, allowed = largest(found - expected), tolerance * (expected.max() - expected.min()).item()
    if not difference <= allowed:  # so that nan fails
        raise MergeDiffersError(f"{what} changes a logit by {difference:.3g} (allowed: {allowed:.3g})")
    return difference


def largest(values: torch.Tensor) -> float:
    return values.abs().max().item()


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def digests(model: torch.nn.Module) -> dict[str, str]:
    """Name -> hash of each weight's bytes."""
    return {
        name: hashlib.sha256(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()).hexdigest()
        for name, weight in model.state_dict().items()
    }


def logits(model: torch.nn.Module, processor) -> torch.Tensor:
    """(COMPARED, vocabulary), float32: of the end of a fixed question about a drawn picture."""
    picture = Image.linear_gradient("L").resize((280, 224)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((30, 40, 130, 140), fill="red", outline="blue", width=9)
    content = [{"type": "image"}, {"type": "text", "text": "What is drawn in this picture, and where?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=[text], images=[[picture]], return_tensors="pt").to(model.device, model.dtype)
    with torch.inference_mode():
        return model(**inputs, logits_to_keep=COMPARED).logits[0].float().cpu()


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--model_path", required=True, help="the adapter: a folder or hub id")
    add("--save_model_path", required=True, help="an empty or new folder")
    add("--model_base", help="the base: a folder or hub id (default: as adapter_config.json says)")
    add("--force", action="store_true", help="merge also into another base, or with another flag, than trained on")
    add(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="of the merged weights (default: auto: the base's)",
    )
    try:
        merge(**vars(parser.parse_args(argv)))
    except MergeDiffersError as error:
        print(f"error: {error}; nothing is saved", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
