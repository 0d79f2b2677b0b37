#!/bin/sh
# Tiny checkpoints with random weights for the tiny_* recipes: all families, and the two parts of LLaVA from scratch.
#
#     sh scripts/tiny_checkpoints.sh
set -eu
cd "$(dirname "$0")/.."

CHECKPOINTS=${CHECKPOINTS:-checkpoints}   # where they are written; what is there stays

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# In one process: of each alone, starting would take the most.
python - "$CHECKPOINTS" << 'END'
import sys
from pathlib import Path

from models import tiny
from models.errors import run_script

FAMILIES = ("llava", "llava_next_mistral", "llava_next_llama3", "qwen2_5_vl", "gemma3")
PARTS = {"clip": "vision_tower", "vicuna": "language_model"}


def main():
    wanted = {family: ["--family", family] for family in FAMILIES}
    wanted |= {name: ["--family", "llava", "--part", part] for name, part in PARTS.items()}
    for name, words in wanted.items():
        folder = Path(sys.argv[1]) / f"tiny_{name}"
        if not (folder / "config.json").is_file():
            tiny.main([*words, "--output_dir", str(folder)])


run_script(main)
END
