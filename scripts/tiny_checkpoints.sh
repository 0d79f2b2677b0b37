#!/bin/sh
# Tiny checkpoints with random weights for the tiny_* recipes: all families, and the two parts of LLaVA from scratch.
#
#     sh scripts/tiny_checkpoints.sh
set -eu
cd "$(dirname "$0")/.."

CHECKPOINTS=${CHECKPOINTS:-checkpoints}   # where they are written; what is there stays

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# tiny NAME [arguments of models/tiny.py]
tiny() {
    folder=$CHECKPOINTS/tiny_$1
    shift
    [ -f "$folder/config.json" ] || python models/tiny.py --output_dir "$folder" "$@"
}
for family in llava llava_next_mistral llava_next_llama3 qwen2_5_vl gemma3; do
    tiny "$family" --family "$family"
done
tiny clip --family llava --part vision_tower
tiny vicuna --family llava --part language_model
