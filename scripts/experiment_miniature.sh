#!/bin/sh
# The miniature's experiment: who answers worse where, trained or tested with and without BaPA. Writes docs/miniature.*.
#
#     sh scripts/experiment_miniature.sh
#
# Hours on a CPU; the same command goes on where it was. Arms: a trained and tested with ordinary positions, b the same
# with BaPA switched on, c0 and c after LoRA with ordinary positions and with BaPA, d trained with BaPA. To share the
# work among machines or cores, give each its SEEDS and PAGE=no, and let one write the page in the end.
set -eu
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-0 1 2}
GRIDS=${GRIDS:-3 4}             # cells a side; trained on 3
SIZES=${SIZES:-144 192}         # of the image, px; trained on 144 (the tower on both)
CAPTIONS=${CAPTIONS:-300}       # of a probe, each asked for in every cell, and as often in vain
DATA=${DATA:-results/miniature/data}
CHECKPOINTS=${CHECKPOINTS:-checkpoints/miniature}
RESULTS=${RESULTS:-results/miniature}
PAGE=${PAGE:-yes}

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# probe MODEL_PATH POSITION_BALANCE SEED ARM: the arm's answers for every grid and image size
probe() {
    for size in $SIZES; do
        sized=$1-$size
        [ -f "$sized/config.json" ] || python models/resize.py --model_path "$1" --image_size "$size" --output_dir "$sized"
        for grid in $GRIDS; do
            folder=$RESULTS/probe-$grid
            python eval/probe.py --model_path "$sized" --position_balance "$2" --max_new_tokens 3 \
                --eval_file "$folder/probe.jsonl" --img_path "$folder/images" \
                --answers_file "$RESULTS/answers/$3/${grid}x$grid-$size/$4.jsonl"
        done
    done
}

# adapt SEED POSITION_BALANCE NAME: LoRA of the arm a, merged
adapt() {
    adapter=$CHECKPOINTS/lora-$1-$3
    python train/sft.py --config configs/train/miniature/lora.yaml --resume auto --seed "$1" --position_balance "$2" \
        --model_path "$CHECKPOINTS/finetune-$1-off" --data "$RESULTS/lora_10k/llava.json" \
        --image_folder "$DATA/images" --output_dir "$adapter"
    [ -f "$adapter-merged/config.json" ] ||
        python train/merge_lora.py --model_path "$adapter" --save_model_path "$adapter-merged"
}

for seed in $SEEDS; do
    for flag in false true; do
        SEED=$seed POSITION_BALANCE=$flag DATA=$DATA CHECKPOINTS=$CHECKPOINTS sh scripts/train_miniature.sh
    done
done
[ -f "$RESULTS/lora_10k/llava.json" ] || python data/sample_instructions.py --input "$DATA/instructions.json" \
    --image_folder "$DATA/images" --output_dir "$RESULTS/lora_10k"
for grid in $GRIDS; do
    python data/build_probe.py --source "$DATA/pictures/test" --num_captions "$CAPTIONS" --negatives 1.0 --grid "$grid" \
        --output_dir "$RESULTS/probe-$grid"
done
for seed in $SEEDS; do
    adapt "$seed" false off
    adapt "$seed" true on
    probe "$CHECKPOINTS/finetune-$seed-off" false "$seed" a
    probe "$CHECKPOINTS/finetune-$seed-off" true "$seed" b
    probe "$CHECKPOINTS/lora-$seed-off-merged" false "$seed" c0
    probe "$CHECKPOINTS/lora-$seed-on-merged" true "$seed" c
    probe "$CHECKPOINTS/finetune-$seed-on" true "$seed" d
done
[ "$PAGE" = yes ] || exit 0
python eval/miniature_results.py --answers_dir "$RESULTS/answers" --checkpoints "$CHECKPOINTS" \
    --output docs/miniature.json
python eval/miniature_page.py --results_file docs/miniature.json --output docs/miniature.md
