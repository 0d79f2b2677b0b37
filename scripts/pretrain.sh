#!/bin/sh
# LLaVA-1.5 from scratch, stage 1: the projector, on 558k captions.
#
#     sh scripts/pretrain.sh [arguments of train/sft.py]
#
# The same command goes on with a run that was killed. scripts/launch.sh has the variables for several GPUs and nodes.
set -eu
cd "$(dirname "$0")/.."

RECIPE=${RECIPE:-llava_1_5_pretrain}   # a file, or a name in configs/train
RESUME=${RESUME:-auto}   # none: refuse to enter a folder that holds a run

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
# shellcheck source=scripts/launch.sh
. scripts/launch.sh
launch "$RECIPE" --resume "$RESUME" "$@"
