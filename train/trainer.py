"""transformers' Trainer with what it lacks here: our batches, an exact resume, and a stop that says why."""

import json
import math
import time
from pathlib import Path

import torch
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.processing_utils import ProcessorMixin

from data.files import write_atomic, writing
from models.errors import InputError, ignore_interrupts
from models.load import without_adapter
from models.packed import packed_inputs
from train import run_folder
from train.batches import ProcessBatches
from train.encode import IGNORED
from train.loss_curve import draw_loss_curve
from train.settings import Settings
from train.stages import parameter_groups

UNREADABLE, BAD_BATCH = "unreadable.jsonl", "bad_batch.json"


class SftTrainer(Trainer):
    """Trains a fork, or a PEFT model of one, on `samples` in the order of `batches`.

    Differences from upstream's class (transformers 5.17.0, trainer.py), each where it is made: the order of the data;
    the projector's learning rate; packed rows; the loss of a big batch also for the families that say they cannot
    (`accepts_loss_kwargs`); checkpoints that say when they are whole; loading one's weights (upstream leaves a
    vision-language model as it is, because the names on disk are not those in memory).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args,
        settings: Settings,
        samples,
        batches: ProcessBatches,
        collator,
        processor: ProcessorMixin,
    ):
        super().__init__(model=model, args=args, train_dataset=samples, data_collator=collator)
        self.settings, self.batches, self.processor = settings, batches, processor
        self.folder = Path(settings.output_dir)
        self.model_accepts_loss_kwargs = True  # all our families' losses take num_items_in_batch
        self.unreadable = 0
        self.tokens, self.since = 0, time.perf_counter()
        self.names: list[str] = []
        self.add_callback(SetEpoch(batches))

    @property
    def fork(self) -> torch.nn.Module:
        """The model without PEFT's wrapper."""
        return without_adapter(self.model)

    def _prepare_for_training(self, *args, **kwargs):
        """Upstream's, and a look at what it made: accelerate falls back to other engines without a word."""
        prepared = super()._prepare_for_training(*args, **kwargs)
        engine = type(self.model_wrapped).__name__
        wanted = ("DeepSpeedEngine",) if self.settings.deepspeed else ("DistributedDataParallel", "FSDP")
        if (self.settings.deepspeed or self.args.world_size > 1) and not engine.startswith(wanted):
            raise RuntimeError(f"accelerate made a {engine} where {' or '.join(wanted)} is meant; unset ACCELERATE_*")
        return prepared

    def get_train_dataloader(self) -> DataLoader:
        """Not prepared by accelerate: `batches` already are this process's own."""
        workers = self.settings.num_workers
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=workers,
            worker_init_fn=ignore_interrupts,
            pin_memory=not self.args.use_cpu,
            persistent_workers=workers > 0,
        )

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            kind, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            decayed = set(self.get_decay_parameter_names(self.model))
            self.optimizer = kind(parameter_groups(self.model, self.settings, decayed), **arguments)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of one update, and how many tokens of all processes are supervised in them."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        bad = [one for batch in batches for one in batch.pop("bad")]
        # (A packed row has no mask, and no padding.)
        tokens = sum(int(batch.get("attention_mask", torch.ones_like(batch["labels"])).sum()) for batch in batches)
        found = self.accelerator.gather(torch.tensor([[len(bad), tokens]], device=device))
        self.tokens += int(found[:, 1].sum())
        if int(found[:, 0].sum()):
            self._count_unreadable(bad)
        return batches, None if items is None else items.clamp(min=1)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        self.names = inputs.pop("names")
        lengths = inputs.pop("lengths", None)
        labels = inputs.pop("labels")
        if lengths is not None:
            inputs = packed_inputs(self.fork, inputs, lengths)
        inputs |= supervised_only(labels)
        if self.fork.config.get_text_config()._attn_implementation == "sdpa":
            inputs |= causality_alone(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._require_finite("loss", loss.item())
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None:
            self._require_finite("gradients' norm", float(norm))
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        """Stop, before the update, on a value that would spoil the weights."""
        if math.isfinite(value):
            return
        path, step = self.folder / BAD_BATCH, self.state.global_step + 1
        batch = {"step": step, "process": self.args.process_index, what: str(value), "samples": self.names}
        write_atomic(path, json.dumps(batch, indent=2, ensure_ascii=False) + "\n")
        raise InputError(
            f"the {what} is {value} at step {step}; its samples are in {path}; look at them, or lower learning_rate "
            "(the last whole checkpoint is kept: --resume auto)"
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            now = time.perf_counter()
            logs["seconds"] = round(now - self.since, 3)
            logs["tokens_per_second"] = round(self.tokens / (now - self.since), 1)
            self.tokens, self.since = 0, now
            if self.is_world_process_zero():
                run_folder.append_log(self.folder, {"step": self.state.global_step} | logs)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs) -> int:
        return 0  # upstream's estimate knows nothing of images; train/costs.py counts

    def _count_unreadable(self, bad: list[tuple[str, str]]) -> None:
        """List samples that could not be read, and stop past `max_bad_samples`; called by all processes together."""
        everywhere = [bad]
        if self.args.world_size > 1:
            everywhere = [None] * self.args.world_size
            torch.distributed.all_gather_object(everywhere, bad)
        lines = [{"sample": name, "reason": reason} for part in everywhere for name, reason in part]
        path = self.folder / UNREADABLE
        if self.is_world_process_zero():
            with writing(path, run_folder.KEPT), open(path, "a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        self.unreadable += len(lines)
        if self.unreadable > self.settings.max_bad_samples:
            raise InputError(
                f"{self.unreadable} images could not be decoded, more than max_bad_samples "
                f"{self.settings.max_bad_samples}; they are in {path}"
            )

    def _save_checkpoint(self, model, trial) -> None:
        checkpoint = self.folder / f"checkpoint-{self.state.global_step}"
        with writing(checkpoint, run_folder.KEPT):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes parts of its own
        if self.is_world_process_zero():
            run_folder.mark_whole(checkpoint, self.settings.save_total_limit, self.args.world_size)
            draw_loss_curve(self.folder, self.folder / run_folder.CURVE)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """The model (or adapter, with the whole config.json that bears the flag) and its processor."""
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        if isinstance(self.model, PeftModel):
            self.fork.config.save_pretrained(output_dir)
        self.processor.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """An adapter is put onto the model; a whole model was loaded from the checkpoint in the first place."""
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    @staticmethod
    def step_of(checkpoint: Path | None) -> int:
        """The update after which a checkpoint was written; 0 without one."""
        return 0 if checkpoint is None else int(checkpoint.name.split("-")[1])

    @staticmethod
    def is_complete(checkpoint: Path) -> bool:
        """Whether a checkpoint is that of the last update. (Upstream would go on by one.)"""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        return state.global_step >= state.max_steps


def supervised_only(labels: torch.LongTensor) -> dict:
    """Arguments of forward that give the loss of `labels`, (batch, seq), from the logits that it needs.

    Most tokens are an image's or the prompt's; with a vocabulary of 152,000, their logits would be most of the memory.
    """
    shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:]
    needed = (shifted != IGNORED).any(0).nonzero()[:, 0]
    return {"labels": labels, "shift_labels": shifted[:, needed], "logits_to_keep": needed, "use_cache": False}


def causality_alone(inputs: dict) -> dict:
    """A mask without padding, (batch, seq), for rows that are padded on the right; nothing for a packed row.

    No token sees what is behind it, and no label counts there. Told so, sdpa takes its causal kernel, which skips half
    of the map; of a mask with padding it computes and reads all of it. (FlashAttention cuts padding out by the mask.)
    """
    mask = inputs.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        return {}
    return {"attention_mask": torch.ones_like(mask)}


class SetEpoch(TrainerCallback):
    """Tells the batches which epoch begins; upstream's and accelerate's own ways miss a resumed one."""

    def __init__(self, batches: ProcessBatches):
        self.batches = batches

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.batches.epoch = int(state.epoch or 0)
