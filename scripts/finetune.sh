#!/bin/sh
# LLaVA-1.5 from scratch, stage 2: language model and projector, on the 665k mix.
#
#     sh scripts/finetune.sh [arguments of train/sft.py]
#
# The same command goes on with a run that was killed. scripts/launch.sh has the variables for several GPUs and nodes.
set -eu
cd "$(dirname "$0")/.."

RECIPE=${RECIPE:-llava_1_5_finetune}   # a file, or a name in configs/train
RESUME=${RESUME:-auto}   # none: refuse to enter a folder that holds a run

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
# shellcheck source=scripts/launch.sh
. scripts/launch.sh
launch "$RECIPE" --resume "$RESUME" "$@"
