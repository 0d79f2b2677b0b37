#!/bin/sh
# Merge a LoRA adapter into its base: a checkpoint of its own, compared with the unmerged model before it is kept.
#
#     sh scripts/merge_lora.sh [arguments of train/merge_lora.py]
set -eu
cd "$(dirname "$0")/.."

MODEL_PATH=${MODEL_PATH:-checkpoints/qwen2_5_vl_lora}    # the adapter: output_dir of its training
MODEL_BASE=${MODEL_BASE:-}                               # its base; left out: the one that it was trained on
SAVE_MODEL_PATH=${SAVE_MODEL_PATH:-${MODEL_PATH%/}-merged}   # an empty or new folder

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
[ -z "$MODEL_BASE" ] || set -- --model_base "$MODEL_BASE" "$@"
exec python train/merge_lora.py --model_path "$MODEL_PATH" --save_model_path "$SAVE_MODEL_PATH" "$@"
