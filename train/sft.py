"""Train a checkpoint of the zoo on instruction data: LoRA, full tuning, or LLaVA-1.5 from its parts.

    python train/sft.py --config configs/train/tiny_llava_1_5_lora.yaml --output_dir runs/tiny

A recipe sets everything; a flag behind it changes one key. Several GPUs: start it with torchrun, deepspeed or
accelerate launch (scripts/*.sh do). A killed run goes on with `--resume auto`, as if it had not been killed.
"""

import atexit
import contextlib
import dataclasses
import importlib.util
import os
import re
import sys
from pathlib import Path

import torch
import yaml
from peft import PeftModel
from transformers import TrainingArguments, set_seed
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torch_tf32_available

from eval.processes import Processes
from models import load_model
from models.assemble import assemble_llava
from models.errors import InputError, run_script
from models.fingerprint import base_identity
from models.processors import set_aspect_ratio
from models.provenance import provenance, versions
from train import run_folder
from train.batches import ProcessBatches, plan_epoch
from train.collate import Collator
from train.dataset import Samples, prepare
from train.encode import IGNORED, Encoder
from train.loss_curve import draw_loss_curve
from train.memory import told_out_of_memory
from train.publish import publish
from train.settings import Settings, check_settings, find_file, parse_settings
from train.stages import lora_config, trainable_model
from train.trainer import SftTrainer

TIMEOUT = 7 * 24 * 3600  # seconds; one process may prepare data for long, and the launcher ends all when one fails


def main(argv: list[str] | None = None) -> None:
    settings = parse_settings(__doc__, argv)
    processes = Processes()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(processes.local_rank)
    with processes.joined("nccl" if on_gpu else "gloo"), contextlib.ExitStack() as held:
        processes.by_first(lambda: check(settings, processes))
        folder = Path(settings.output_dir)
        processes.by_first(lambda: held.enter_context(run_folder.lock_folder(folder)))
        if processes.rank == 0:
            held.enter_context(run_folder.undone_if_refused(settings))
        train(settings, processes, folder)
    if processes.count > 1 or settings.deepspeed:
        leave()


def train(settings: Settings, processes: Processes, folder: Path) -> None:
    """One run, from its locked folder to its published model; every process calls it."""
    checkpoint = processes.by_first(lambda: run_folder.open_folder(settings))
    if run_folder.is_finished(folder):
        say(processes, f"{folder}: finished already; nothing to do")
        return
    if checkpoint is not None and settings.deepspeed:
        processes.by_first(lambda: run_folder.check_processes(checkpoint, processes.count))
    say(processes, "# settings\n" + yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False))

    # Model. (A part of DeepSpeed hooks into from_pretrained from here on, so what one process loads alone comes first.)
    base = processes.by_first(lambda: base_path(settings))
    arguments = training_arguments(settings, processes)
    model, processor = load(settings, base, checkpoint)
    base_files = processes.by_first(lambda: base_identity(base, commit_of(model)))
    say(processes, f"{base}: position_balance is {str(model.config.position_balance).lower()}")

    # Data.
    encoder = Encoder(
        processor,
        plain=settings.stage == "pretrain",
        image_max_pixels=settings.image_max_pixels,
        llama_factory=settings.template == "llama_factory",
    )
    processes.by_first(lambda: prepare(settings, encoder, folder / "data"))
    samples = Samples(folder / "data", encoder)
    processes.by_first(lambda: run_folder.check_data(folder, samples.digest()))
    say(processes, describe(samples, processor))
    batches = ProcessBatches(planner(settings, samples), processes.rank, processes.count)
    collator = Collator(encoder.blank(), processor.tokenizer.pad_token_id, settings.packing)

    # Training.
    training = {
        "settings": dataclasses.asdict(settings),
        "position_balance": model.config.position_balance,
        "base": {"path": base, "revision": commit_of(model), "files": base_files},
        "versions": versions(),
        "provenance": provenance(),
    }
    set_seed(settings.seed)  # not earlier: loading draws random numbers, and not as many under ZeRO-3
    model = trainable_model(model, settings)
    with told_out_of_memory(settings):
        trainer = SftTrainer(model, arguments, settings, samples, batches, collator, processor)
        if checkpoint is None or not trainer.is_complete(checkpoint):
            processes.by_first(lambda: run_folder.cut_log(folder, trainer.step_of(checkpoint)))
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    # The result.
    dtype = torch.bfloat16 if settings.bf16 and settings.stage != "lora" else None
    processes.by_first(lambda: draw_loss_curve(folder, folder / run_folder.CURVE))
    processes.by_first(lambda: publish(run_folder.whole_checkpoints(folder)[-1], folder, training, dtype))
    say(processes, f"{folder}: the trained {'adapter' if settings.stage == 'lora' else 'model'}; loss curve: loss.png")


def leave() -> None:
    """End this process, successfully, without the interpreter's own way out.

    That aborts now and then after several processes, or DeepSpeed, have trained, in threads of torch's or DeepSpeed's
    that are still there ("terminate called without an active exception"), and the launcher would call a finished run
    failed.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def say(processes: Processes, text: str) -> None:
    if processes.rank == 0:
        print(text, flush=True)


def check(settings: Settings, processes: Processes) -> None:
    """InputError for settings that do not go together, and for what they ask for that is not there."""
    check_settings(settings, processes.count)
    if settings.model_path and Path(settings.model_path).resolve() == Path(settings.output_dir).resolve():
        raise InputError(f"output_dir {settings.output_dir}: is model_path, too; name another folder")
    wanted = {"deepspeed": settings.deepspeed, settings.report_to: settings.report_to != "none"}
    for package, asked in wanted.items():
        if asked and importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is asked for but not installed; pip install {package}, or leave it out")
    if settings.deepspeed and not find_file(settings.deepspeed).is_file():
        raise InputError(
            f"deepspeed: {settings.deepspeed}: no such file; there are configs/deepspeed/zero2.json, zero3.json"
        )
    for name in settings.data:
        if not Path(name).is_file():
            raise InputError(f"data: {name}: no such file; README, 'Training', says where to get the data")
    for name in settings.image_folder:
        if not Path(name).is_dir():
            raise InputError(f"image_folder: {name}: no such folder; give the one that the images' paths start from")


def base_path(settings: Settings) -> str:
    """The checkpoint to train: as given, or assembled from its parts in the run's folder."""
    if settings.model_path:
        path = Path(settings.model_path)
        return str(path.resolve()) if path.is_dir() else settings.model_path
    assembled = Path(settings.output_dir).resolve() / "assembled"
    if not (assembled / "config.json").is_file():
        assemble_llava(
            settings.vision_tower,
            settings.language_model,
            assembled,
            position_balance=bool(settings.position_balance),
            image_aspect_ratio=settings.image_aspect_ratio or "pad",
            seed=settings.seed,
            dtype="bfloat16" if settings.bf16 else "float32",
        )
    return str(assembled)


def load(settings: Settings, base: str, checkpoint: Path | None) -> tuple[torch.nn.Module, ProcessorMixin]:
    """The model to train and its processor.

    A resumed run loads all weights but LoRA's from its checkpoint, where those that are trained lie in float32.
    Otherwise they come as the checkpoint has them, and trainable_model() casts.
    """
    whole = checkpoint is not None and settings.stage != "lora"
    dtype = "bfloat16" if settings.bf16 else "float32"
    if not settings.deepspeed:
        dtype = "float32" if whole else "auto"
    attention = {"attn_implementation": settings.attn_implementation} if settings.attn_implementation else {}
    path = str(checkpoint) if whole else base
    model, processor = load_model(path, settings.position_balance, dtype=dtype, **attention)
    if isinstance(model, PeftModel):
        raise InputError(f"model_path: {path} is an adapter; merge it (train/merge_lora.py) and train the result")
    if settings.stage == "lora":
        lora_config(model, settings)  # refuses targets that the model has not, before hours of preparing data
    set_aspect_ratio(processor, settings.image_aspect_ratio)
    return model, processor


def commit_of(model: torch.nn.Module) -> str | None:
    """The hub's commit that a model was loaded from; None for a folder."""
    return getattr(model.config, "_commit_hash", None)


def training_arguments(settings: Settings, processes: Processes) -> TrainingArguments:
    """transformers' arguments. With DeepSpeed, models that are loaded from here on are partitioned (ZeRO-3)."""
    on_gpu = torch.cuda.is_available()
    if settings.deepspeed and processes.count == 1:
        # What a launcher would say; without it accelerate takes no engine, and DeepSpeed looks for MPI.
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        for name, value in alone.items():
            os.environ.setdefault(name, value)
    arguments = TrainingArguments(
        output_dir=settings.output_dir,
        num_train_epochs=settings.num_epochs,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_batch_size,
        gradient_accumulation_steps=settings.global_batch_size // (settings.per_device_batch_size * processes.count),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler,
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused" if on_gpu and not settings.deepspeed else "adamw_torch",
        seed=settings.seed,
        bf16=settings.bf16,
        tf32=settings.tf32 if is_torch_tf32_available() else None,
        deepspeed=str(find_file(settings.deepspeed)) if settings.deepspeed else None,
        # A tower's last layers, behind the one whose features are taken, never get a gradient.
        ddp_find_unused_parameters=not settings.freeze_vision_tower and settings.stage == "finetune",
        ddp_backend=None if processes.count == 1 else "nccl" if on_gpu else "gloo",
        ddp_timeout=TIMEOUT,
        use_cpu=not on_gpu,
        logging_steps=settings.logging_steps,
        logging_nan_inf_filter=False,  # SftTrainer stops instead
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=None,  # run_folder.mark_whole deletes, once the next checkpoint is whole
        report_to=settings.report_to,
        remove_unused_columns=False,
        use_cache=True,  # of the saved config; each forward of training goes without
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs without a launcher would be torch's DataParallel
    if not on_gpu:
        arguments._setup_devices = torch.device("cpu")  # accelerate's "cpu:0" is no place for torch.load
    if settings.deepspeed:
        import deepspeed

        # Or zero.Init takes the world to be one process: accelerate joins torch's group only.
        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo")
    return arguments


def planner(settings: Settings, samples: Samples):
    """Epoch -> its steps (train/batches.py)."""
    sizes = [int((samples.files == file).sum()) for file in range(len(settings.data))]

    def plan(epoch: int):
        return plan_epoch(
            epoch,
            samples.lengths,
            samples.has_image,
            sizes=sizes,
            weights=settings.data_weights,
            seed=settings.seed,
            step_rows=settings.global_batch_size,
            batch_rows=settings.per_device_batch_size,
            group=settings.group_by == "modality_length",
            capacity=settings.cutoff_len if settings.packing else None,
        )

    return plan


def describe(samples: Samples, processor: ProcessorMixin) -> str:
    """What the data set holds, and its first sample as the model gets it, the supervised part marked."""
    lengths = samples.lengths
    left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(samples.dropped.items())) or "none"
    text = (
        f"# data\n{len(samples)} samples ({int(samples.has_image.sum())} with images), {int(lengths.sum())} tokens, "
        f"mean {lengths.mean():.0f}, longest {lengths.max()}; left out: {left_out}\n"
    )
    sample = next((samples[i] for i in range(min(len(samples), 10)) if "labels" in samples[i]), None)
    return text if sample is None else text + f"# a sample, supervised in >>> <<<\n{show_sample(sample, processor)}\n"


def show_sample(sample: dict, processor: ProcessorMixin) -> str:
    """The decoded tokens of an encoded sample; runs of one image token are counted, supervised runs marked."""
    shown, supervised = [], sample["labels"] != IGNORED
    edges = [0, *(supervised.diff().nonzero()[:, 0] + 1).tolist(), len(supervised)]
    for start, end in zip(edges, edges[1:], strict=False):
        part = processor.tokenizer.decode(sample["input_ids"][start:end])
        part = re.sub(r"(<[^<>\s]{3,}>)\1{3,}", lambda run: f"{run[1]}*{len(run[0]) // len(run[1])}", part)
        shown.append(f">>>{part}<<<" if supervised[start] else part)
    return "".join(shown)


if __name__ == "__main__":
    run_script(main)
