#!/bin/sh
# LoRA on 10,000 instruction samples.
#
#     sh scripts/finetune_lora.sh [recipe] [arguments of train/sft.py]
#
# The recipe is a file or a name in configs/train: qwen2_5_vl_lora, llava_1_5_lora, llava_1_6_mistral_lora,
# llama3_llava_next_lora, gemma3_lora, or one of their tiny_* twins. The same command goes on with a run that was
# killed. scripts/launch.sh has the variables for several GPUs and nodes.
set -eu
cd "$(dirname "$0")/.."

RECIPE=${RECIPE:-qwen2_5_vl_lora}
RESUME=${RESUME:-auto}   # none: refuse to enter a folder that holds a run
case ${1:-} in '' | --*) ;; *) RECIPE=$1 && shift ;; esac

# shellcheck source=scripts/environment.sh
. scripts/environment.sh
# shellcheck source=scripts/launch.sh
. scripts/launch.sh
launch "$RECIPE" --resume "$RESUME" "$@"
