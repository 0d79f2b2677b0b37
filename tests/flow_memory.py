"""Measure what eval/information_flow.py takes of memory beside the weights, by layers and items.

    python tests/flow_memory.py --layers 2 4 --items 1 4

Not a part of the tests. A LLaVA-NeXT with the width, heads and tiles of Llama3-LLaVA-NeXT-8B, random weights and a few
layers (tower and MLPs are narrow, which saves time and holds no attention) is asked about the probe's canvas of 840 px,
a prompt of 2,928 image tokens and text, in float32 on the CPU. Each row is a process of its own: the peak of its
resident memory from the first prompt on, less what the loaded model took. `plain` does not look at attention; `maps
kept` is a forward pass of eager attention with output_attentions. Linux alone tells a process's peak in this way.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from data.grid import cell_names
from models.errors import ArgumentParser, run_script
from models.load import FORKS
from models.processors import image_processor_class
from models.tiny import CLIP, llava_next_llama3
from tests.probe_runs import write_rows
from train.geometry import GEOMETRIES

CANVAS, VIEW, PATCH, NARROW = 840, 336, 14, 2048
TOKENS = 576 + 48 * 49  # of the canvas
WAYS = ("flow", "plain", "maps kept")


def build(folder: Path, layers: int) -> Path:
    """A checkpoint with `layers` of the released model's layers and a byte tokenizer."""
    model_type, values = GEOMETRIES["llama3_llava_next_8b"]
    _, small, processor = llava_next_llama3()
    kept = {"vocab_size": small.text_config.vocab_size, "num_hidden_layers": layers, "max_position_embeddings": 8192}
    kept["intermediate_size"] = NARROW
    pinpoints = FORKS[model_type].config_class().image_grid_pinpoints
    config = FORKS[model_type].config_class(
        vision_config=CLIP | {"image_size": VIEW, "patch_size": PATCH},
        text_config=values["text_config"] | kept,
        image_token_index=small.image_token_id,
        image_grid_pinpoints=pinpoints,
        position_balance=True,
    )
    model = FORKS[model_type](config)
    model.save_pretrained(folder)
    size = {"height": VIEW, "width": VIEW}
    processor.image_processor = image_processor_class("llava_next", "LlavaNextImageProcessor")(
        size={"shortest_edge": VIEW}, crop_size=size, image_grid_pinpoints=pinpoints
    )
    processor.save_pretrained(folder)
    return folder


def write_canvases(folder: Path, items: int) -> None:
    (folder / "images").mkdir()
    rows = []
    for item in range(items):
        Image.effect_noise((CANVAS, CANVAS), 60 + item).convert("RGB").save(folder / "images" / f"0_{item}.png")
        row = {"id": item, "image": f"0_{item}.png", "caption": "a red bus in front of a house", "answer": "Yes"}
        rows.append(row | {"position": cell_names(3)[item % 9]})
    write_rows(folder / "probe.jsonl", rows)


def of_process(field: str) -> float:
    """Resident memory of this process in GB: VmRSS, now; VmHWM, its peak."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e9


def measure(way: str, model: Path, probe: Path) -> None:
    """Run the study in this process and print its peak."""
    from eval import attention_flow, information_flow

    honest = attention_flow.recording

    @contextlib.contextmanager
    def watched(loaded):
        for weight in loaded.parameters():
            weight.sum()  # read from disk, or it would be counted below
        before = of_process("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
        with honest(loaded) as recorder:
            text = loaded.config.get_text_config()
            if way == "plain":
                recorder.attend = None
                text._attn_implementation = "sdpa"
            if way == "maps kept":
                text._attn_implementation = "eager"
                inner = loaded.model
                forward = inner.forward
                inner.forward = lambda **inputs: forward(**inputs, output_attentions=True)
            if way != "flow":
                recorder.ask = lambda asked: setattr(recorder, "found", [{0: torch.zeros(len(k))} for _, k in asked])
            yield recorder
        if way == "flow":
            assert [len(patches) for _, patches in recorder.asked] == [TOKENS]
        print(f"\npeak {of_process('VmHWM') - before:.2f}", file=sys.stderr)

    attention_flow.recording = watched
    files = ["--eval_file", probe / "probe.jsonl", "--img_path", probe / "images", "--answers_file", probe / "a.jsonl"]
    more = ["--model_path", model, "--batch_size", 1, "--num_workers", 0, "--overwrite", "--device", "cpu"]
    information_flow.main([str(part) for part in (*files, *more)])


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--items", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--one", nargs=3, metavar=("WAY", "MODEL", "PROBE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        measure(arguments.one[0], *map(Path, arguments.one[1:]))
        return
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory() as folder:
            model = build(Path(folder) / "model", layers)
            for items in arguments.items:
                probe = Path(folder) / str(items)
                probe.mkdir()
                write_canvases(probe, items)
                for way in arguments.ways:
                    command = [sys.executable, __file__, "--one", way, model, probe]
                    done = subprocess.run(command, capture_output=True, text=True)
                    peak = [line for line in done.stderr.splitlines() if line.startswith("peak ")]
                    found = f"{peak[-1].split()[1]} GB" if peak else f"exit status {done.returncode}\n{done.stderr}"
                    print(f"{way}, {layers} layers, {items} items: {found}", flush=True)


if __name__ == "__main__":
    run_script(main)
