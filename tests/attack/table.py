"""Nineteen commands with arguments that work, and bad values for their options: (command, option, kind of value)."""

from collections.abc import Iterator
from typing import NamedTuple

from data import build_probe, build_similarity, sample_instructions
from eval import information_flow, metrics, perception, plots, pope, probe, report, rotary_bias, score, similarity
from models import assemble, resize, tiny
from tests.attack import values
from train import costs, merge_lora, sft


class Attack(NamedTuple):
    """One command line. `value` is a string for `option`, or a function that writes a bad file or spoils a copy."""

    command: str
    option: str
    name: str
    value: object
    copies: str | None = None  # what of the world `value` spoils a copy of

    def __str__(self) -> str:
        return f"{self.command} {self.option}: {self.name}"


RUN = {"--model_path": "{world}/qwen2_5_vl", "--num_workers": "0", "--device": "cpu"}
ASKED = RUN | {"--max_new_tokens": "1", "--answers_file": "{out}/answers.jsonl"}
PROBE = {"--eval_file": "{world}/probe/probe.jsonl", "--img_path": "{world}/probe/images"}
SIMILARITY = {
    "--eval_file": "{world}/similarity/similarity.jsonl",
    "--img_path": "{world}/similarity/images",
    "--answers_file": "{out}/answers.jsonl",
}
BUILD = {"--source": "{world}/source", "--num_captions": "2", "--output_dir": "{out}/build", "--workers": "1"}
SAMPLE = {
    "--input": "{world}/samples.json",
    "--image_folder": "{world}/source",
    "--output_dir": "{out}/sample",
    "--num_samples": "2",
}
TRAIN = {
    "--config": "{world}/lora.yaml",
    "--model_path": "{world}/llava",
    "--data": "{world}/samples.json",
    "--image_folder": "{world}/source",
    "--output_dir": "{out}/run",
    "--max_steps": "1",
}
# Command -> (main, arguments that work, words in front of them).
COMMANDS = {
    "probe": (probe.main, ASKED | PROBE, []),
    "pope": (
        pope.main,
        ASKED | {"--eval_file": "{world}/coco_pope_random.json", "--img_path": "{world}/source"},
        [],
    ),
    "perception": (perception.main, RUN | PROBE | {"--output_dir": "{out}/maps", "--num_captions": "1"}, []),
    "similarity": (similarity.main, RUN | SIMILARITY, []),
    "information_flow": (information_flow.main, RUN | PROBE | {"--answers_file": "{out}/answers.jsonl"}, []),
    "rotary_bias": (
        rotary_bias.main,
        {"--model_path": "{world}/qwen2_5_vl", "--output_json": "{out}/bias.json"},
        [],
    ),
    "metrics": (metrics.main, {"--results_file": "{world}/answers.jsonl", "--output_json": "{out}/metrics.json"}, []),
    "score": (score.main, {"--answers_file": "{world}/answers.jsonl", "--output_json": "{out}/score.json"}, ["pope"]),
    "plots": (
        plots.main,
        {"--results_file": "{world}/answers.jsonl", "--output_path": "{out}/x.png"},
        ["similarity"],
    ),
    "report": (report.main, {"--results_dir": "{world}", "--output": "{out}/report.html"}, []),
    "build_probe": (build_probe.main, BUILD, []),
    "build_similarity": (build_similarity.main, BUILD, []),
    "sample_instructions": (sample_instructions.main, SAMPLE, []),
    "sft": (sft.main, TRAIN, []),
    "merge_lora": (
        merge_lora.main,
        {"--model_path": "{world}/adapter", "--save_model_path": "{out}/merged"},
        [],
    ),
    "costs": (costs.main, {"--recipe": "{world}/lora.yaml", "--output_json": "{out}/costs.json"}, []),
    "tiny": (tiny.main, {"--family": "llava", "--output_dir": "{out}/tiny"}, []),
    "assemble": (
        assemble.main,
        {"--vision_tower": "{world}/llava", "--language_model": "{world}/llava", "--output_dir": "{out}/assembled"},
        [],
    ),
    "resize": (
        resize.main,
        {"--model_path": "{world}/llava", "--image_size": "112", "--output_dir": "{out}/resized"},
        [],
    ),
}

# (commands, options, kind): each command gets each value of the kind for each option.
OPTIONS = [
    ("probe", "--max_new_tokens --batch_size", values.NUMBERS),
    ("probe", "--limit --min_pixels --max_pixels", values.NUMBERS),
    ("probe", "--num_workers", values.NOT_NEGATIVE),
    ("probe", "--dtype --device --attn_implementation --engine --position_balance", values.CHOICES),
    ("perception", "--num_captions --mask_size", values.NUMBERS),
    ("perception", "--mask_color --target", values.CHOICES),
    ("similarity", "--pooling --readout", values.CHOICES),
    ("information_flow", "--from --view --benchmark", values.CHOICES),
    ("rotary_bias", "--grid --text_tokens", values.NUMBERS),
    ("metrics score report", "--bootstrap", values.NUMBERS),
    ("metrics", "--scorer", values.CHOICES),
    ("report", "--examples", values.NOT_NEGATIVE),
    ("build_probe", "--num_captions --grid --min_side --workers --canvas", values.NUMBERS),
    ("build_probe", "--negatives", values.NOT_NEGATIVE),
    ("sample_instructions", "--num_samples", values.NUMBERS),
    ("sft", "--learning_rate --global_batch_size --cutoff_len --lora_rank --num_epochs", values.NUMBERS),
    ("sft", "--warmup_ratio --weight_decay --seed --lora_dropout", values.NOT_NEGATIVE),
    ("sft", "--stage --lr_scheduler --lora_target --attn_implementation --projector", values.CHOICES),
    ("costs", "--gpus --utilisation --samples", values.NUMBERS),
    ("resize", "--image_size", values.NUMBERS),
    ("tiny", "--family --layout --part", values.CHOICES),
    ("probe pope similarity information_flow", "--answers_file", values.OUTPUTS),
    ("perception build_probe sample_instructions sft tiny assemble resize", "--output_dir", values.OUTPUTS),
    ("merge_lora", "--save_model_path", values.OUTPUTS),
    ("metrics score costs", "--output_json", values.OUTPUTS),
    ("plots", "--output_path", values.OUTPUTS),
    ("report", "--output", values.OUTPUTS),
    ("probe perception similarity information_flow", "--eval_file --img_path", values.INPUTS),
    ("probe merge_lora rotary_bias sft resize", "--model_path", values.INPUTS),
    ("assemble", "--vision_tower --language_model", values.INPUTS),
    ("build_probe build_similarity", "--source", values.INPUTS),
    ("sample_instructions", "--input", values.INPUTS),
    ("sft", "--config --data", values.INPUTS),
    ("metrics plots", "--results_file", values.INPUTS),
]

# (commands, option): the option is given each of the files that cannot be read.
UNREADABLE = [
    ("probe pope similarity", "--eval_file"),
    ("metrics plots", "--results_file"),
    ("score", "--answers_file"),
    ("sample_instructions", "--input"),
    ("sft", "--data --config"),
]


def attacks() -> Iterator[Attack]:
    for commands, options, kind in OPTIONS:
        for command in commands.split():
            for option in options.split():
                for name, value in kind.items():
                    yield Attack(command, option, name, value)
    for commands, options in UNREADABLE:
        for command in commands.split():
            for option in options.split():
                for name, value in values.UNREADABLE.items():
                    yield Attack(command, option, name, value)
    for name, value in values.CHECKPOINTS.items():
        yield Attack("probe", "--model_path", name, value, copies="qwen2_5_vl")
        yield Attack("merge_lora", "--model_base", name, value, copies="llava")
