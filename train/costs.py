"""What a recipe costs: GPUs, memory by part and hours, computed from the released model's geometry, without weights.

    python train/costs.py --recipe qwen2_5_vl_lora --gpu H100-80GB

Nothing is estimated from a formula: the training step itself runs on tensors that have shapes but no values
(train/counting.py); docs/training.md says what is counted, assumed and left out. `--measure N` runs N real steps of
that size with random weights instead, with the flag off and on, on the GPU at hand.
"""

import argparse
import dataclasses
import json
import math
from pathlib import Path

from tqdm import tqdm

from data.files import write_atomic
from eval.heatmaps import check_suffix
from models.errors import ArgumentParser, InputError, run_script
from models.outside import read_json_object
from models.quiet import quiet_transformers
from models.reading import told_as
from train.budget import GB, GPUS, gpu_counts, hours, memory_by_part, read_zero
from train.cost_report import draw_memory, tables
from train.counting import Step, count_step, traced_model
from train.geometry import GEOMETRIES, batch_of, count_parameters, image_tokens, model_config
from train.measuring import measure
from train.settings import ROOT, Settings, read_recipe

# Assumptions, each with a flag. Samples: entries of blip_laion_cc_sbu_558k.json and llava_v1_5_mix665k.json as their
# authors state them (2181 steps of 256 and 5198 steps of 128); of the LoRA runs, the paper's 10,000.
SAMPLES = {"pretrain": 558_128, "finetune": 665_298, "lora": 10_000}
MEAN_TEXT = {"pretrain": 32, "finetune": 256, "lora": 256}  # tokens of a sample beside its image
LONGEST_CAPTION = 256  # of pretrain, whose captions never come near cutoff_len
IMAGE_SIZE = (480, 640)  # height and width in pixels, usual in COCO
UTILISATION = 0.4
RESERVED_GB = 4.0  # CUDA context, NCCL, kernels' workspaces, fragmentation
# The settings that costs depend on.
COST_KEYS = (
    *("stage", "model_path", "vision_tower", "language_model", "position_balance", "freeze_vision_tower"),
    *("lora_rank", "lora_dropout", "lora_target", "projector", "image_max_pixels", "cutoff_len", "num_epochs"),
    *(
        "global_batch_size",
        "per_device_batch_size",
        "bf16",
        "gradient_checkpointing",
        "attn_implementation",
        "deepspeed",
    ),
)
ZERO_3, OFFLOAD = "configs/deepspeed/zero3.json", "configs/deepspeed/zero3_offload.json"


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    if arguments.measure:
        for recipe, settings in recipes(arguments.recipe):
            config = model_config(settings, recipe, arguments.geometry)
            size = scaled(settings, arguments.image_size or IMAGE_SIZE)
            tokens = mean_tokens(image_tokens(config, size), settings, arguments)
            for line in measure(config, settings, tokens, size, arguments.measure, arguments.gpu):
                print(f"{recipe}: {line}")
        return 0
    for path in filter(None, [arguments.output_plot]):
        check_suffix(path)
    counted = read_counts(arguments) if arguments.counts else count_all(arguments)
    costs = [cost(entry, arguments) for entry in counted]
    print(tables(costs, arguments.gpu, arguments.utilisation, arguments.reserved_gb))
    if arguments.output_json:
        content = {"counts": counted, "gpu": arguments.gpu, "utilisation": arguments.utilisation, "costs": costs}
        write_atomic(arguments.output_json, json.dumps(content, indent=1) + "\n")
    if arguments.output_plot:
        draw_memory(costs, arguments.gpu, arguments.reserved_gb, arguments.output_plot)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, positive_int = parser.add_argument, positive(int)
    add("--recipe", nargs="+", default=["all"], help="names in configs/train, paths of .yaml files, or all")
    add("--geometry", choices=GEOMETRIES, help="the released model, where the recipe does not tell it")
    add("--gpu", choices=GPUS, default="H100-80GB", help="default: H100-80GB")
    add("--gpus", type=positive_int, help="default: the fewest that fit")
    add("--utilisation", type=positive(float, 1), default=UTILISATION, help=f"of the peak; assumed: {UTILISATION}")
    add("--reserved_gb", type=float, default=RESERVED_GB, help=f"for what is not counted; assumed: {RESERVED_GB}")
    add("--samples", type=positive_int, help=f"an epoch's; default by stage: {SAMPLES}")
    add("--mean_text", type=positive_int, help=f"tokens; assumed by stage: {MEAN_TEXT}")
    add("--longest_text", type=positive_int, help=f"tokens; default: up to cutoff_len; pretrain: {LONGEST_CAPTION}")
    add("--image_size", type=height_and_width, help="HEIGHTxWIDTH in pixels; assumed: 480x640")
    add("--counts", help="a file of --output_json: take its counts instead of counting anew")
    add("--output_json", help="write counts and costs there")
    add("--output_plot", help="draw memory by part there: .png, .pdf or .svg")
    add("--measure", type=positive_int, metavar="N", help="run N real steps with random weights")
    return parser.parse_args(argv)


def positive(kind: type, most: float = 1e15):
    def parse_positive(text: str):
        value = kind(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most {most:g}")
        return value

    parse_positive.__name__ = kind.__name__  # argparse names the type in its complaint
    return parse_positive


def height_and_width(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, like 480x640")
    return int(height), int(width)


def recipes(names: list[str]) -> list[tuple[str, Settings]]:
    """(name, settings) of each recipe. `all` are those in configs/train but for the tiny ones."""
    folder = ROOT / "configs" / "train"
    if names == ["all"]:
        paths = sorted(path for path in folder.glob("*.yaml") if not path.stem.startswith("tiny_"))
    else:
        paths = [Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml" for name in names]
    found = [(path.stem, Settings(**read_recipe(path))) for path in paths]
    for name, settings in found:
        if settings.per_device_batch_size < 1 or settings.global_batch_size % settings.per_device_batch_size:
            raise InputError(f"{name}: global_batch_size does not divide by per_device_batch_size; change one of them")
    if not found:
        raise InputError(f"{folder}: no recipe; give --recipe the path of one")
    return found


def scaled(settings: Settings, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width that the recipe's `image_max_pixels` leaves of an image."""
    height, width = image_size
    shrink = min(1.0, math.sqrt((settings.image_max_pixels or math.inf) / (height * width)))
    return round(height * shrink), round(width * shrink)


def mean_tokens(image: int, settings: Settings, arguments: argparse.Namespace) -> int:
    return min(image + (arguments.mean_text or MEAN_TEXT[settings.stage]), settings.cutoff_len)


def longest_tokens(image: int, settings: Settings, arguments: argparse.Namespace) -> int:
    text = arguments.longest_text or (LONGEST_CAPTION if settings.stage == "pretrain" else settings.cutoff_len)
    return min(image + text, settings.cutoff_len)


def count_all(arguments: argparse.Namespace) -> list[dict]:
    found = recipes(arguments.recipe)
    steps = sum(1 + len(variants(settings)) for _, settings in found)
    with quiet_transformers(), tqdm(total=steps, desc="steps counted") as progress:
        return [count(recipe, settings, arguments, progress) for recipe, settings in found]


def variants(settings: Settings) -> dict[str, dict]:
    """Name -> changed settings: the recipe as it is, and one knob turned in each of the others."""
    changes: dict[str, dict] = {"as is": {}}
    onoff = "off" if settings.gradient_checkpointing else "on"
    changes[f"checkpointing {onoff}"] = {"gradient_checkpointing": not settings.gradient_checkpointing}
    if settings.per_device_batch_size > 1:
        changes["batch 1"] = {"per_device_batch_size": 1}
    if settings.stage != "pretrain":
        changes["half cutoff"] = {"cutoff_len": settings.cutoff_len // 2}
    if settings.deepspeed is None or "zero3" not in settings.deepspeed:
        changes["ZeRO-3"] = {"deepspeed": ZERO_3}
    if settings.deepspeed is None or "offload" not in settings.deepspeed:
        changes["ZeRO-3 offload"] = {"deepspeed": OFFLOAD}
    return changes


def count(recipe: str, settings: Settings, arguments: argparse.Namespace, progress: tqdm) -> dict:
    """What does not depend on the kind and number of GPUs: weights, and steps of the longest and of mean length."""
    config = model_config(settings, recipe, arguments.geometry)
    model = traced_model(config, settings)
    size = scaled(settings, arguments.image_size or IMAGE_SIZE)
    image = image_tokens(config, size)
    weights = list(model.parameters())
    trained = [weight for weight in weights if weight.requires_grad]

    steps: dict[tuple, Step] = {}

    def step(changed: Settings, tokens: int) -> dict:
        rows = changed.per_device_batch_size
        alike = (rows, tokens, changed.gradient_checkpointing, changed.deepspeed is None)
        if alike not in steps:
            batch = batch_of(config, rows, tokens, size)
            steps[alike] = count_step(traced_model(config, changed), batch, changed)
        progress.update()
        return {"tokens": tokens, "rows": rows} | dataclasses.asdict(steps[alike])

    entry = {
        "recipe": recipe,
        "settings": {key: getattr(settings, key) for key in COST_KEYS},
        "parameters": count_parameters(model),
        "weights": {
            "all": sum(weight.numel() for weight in weights),
            "trained": sum(weight.numel() for weight in trained),
            "bytes": sum(weight.nbytes for weight in weights),
            "trained_bytes": sum(weight.nbytes for weight in trained),
            "hidden_size": config.get_text_config().hidden_size,
        },
        "image_size": size,
        "image_tokens": image,
        "samples": SAMPLES[settings.stage],
        "mean": step(settings, mean_tokens(image, settings, arguments)),
        "longest": {},
    }
    for name, change in variants(settings).items():
        changed = dataclasses.replace(settings, **change)
        entry["longest"][name] = step(changed, longest_tokens(image, changed, arguments))
    return entry


def read_counts(arguments: argparse.Namespace) -> list[dict]:
    """The counts in `--counts`, of the recipes named."""
    path = arguments.counts
    for name in ("geometry", "mean_text", "longest_text", "image_size"):
        if getattr(arguments, name):
            raise InputError(f"--{name} changes what is counted; leave out --counts")
    content = read_json_object(path, "--counts: give a file that --output_json wrote")
    with told_as(f"--counts {path}: not a file that --output_json wrote", ValueError, KeyError, TypeError):
        counted = content["counts"]
        counted = {entry["recipe"]: entry for entry in counted}
    names = list(counted) if arguments.recipe == ["all"] else arguments.recipe
    for name in names:
        if name not in counted:
            raise InputError(f"--counts {path}: no recipe {name}; there are {', '.join(counted)}")
    return [counted[name] for name in names]


def cost(entry: dict, arguments: argparse.Namespace) -> dict:
    """GPUs, memory (GB a GPU) and hours of a counted recipe."""
    settings = Settings(**entry["settings"])
    limit = GPUS[arguments.gpu][0] - arguments.reserved_gb

    def memory(changed: Settings, step: dict, gpus: int) -> dict[str, float]:
        counted = Step(step["activations"], step["flops"])
        parts = memory_by_part(entry["weights"], counted, read_zero(changed.deepspeed), gpus)
        return {part: size / GB for part, size in parts.items()}

    def fewest(changed: Settings, step: dict) -> tuple[int, bool]:
        numbers = [arguments.gpus] if arguments.gpus else gpu_counts(changed)
        for number in numbers:
            if sum(memory(changed, step, number).values()) <= limit:
                return number, True
        return numbers[-1], False

    longest = entry["longest"]["as is"]
    gpus, fits = fewest(settings, longest)
    samples = arguments.samples or entry["samples"]
    knobs = {}
    for name, change in variants(settings).items():
        changed = dataclasses.replace(settings, **change)
        number = max(n for n in gpu_counts(changed) if n <= max(gpus, 8)) if "ZeRO" in name else gpus
        knobs[name] = {"gpus": number, "gb": sum(memory(changed, entry["longest"][name], number).values())}
    flops = entry["mean"]["flops"] / entry["mean"]["rows"] * samples * settings.num_epochs
    return {
        "recipe": entry["recipe"],
        "gpus": gpus,
        "fits": fits,
        "parameters": entry["parameters"],
        "rows": longest["rows"],
        "tokens": longest["tokens"],
        "memory": memory(settings, longest, gpus),
        "mean_tokens": entry["mean"]["tokens"],
        "memory_at_mean": sum(memory(settings, entry["mean"], gpus).values()),
        "knobs": knobs,
        "flops": flops,
        "hours": hours(flops, gpus, arguments.gpu, arguments.utilisation),
    }


if __name__ == "__main__":
    run_script(main)
