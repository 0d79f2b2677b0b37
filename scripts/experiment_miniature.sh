#!/bin/sh
# The miniature's experiment: who answers worse where, trained or tested with and without BaPA. Writes docs/miniature.*.
#
#     sh scripts/experiment_miniature.sh
#
# Arms: a trained and tested with ordinary positions, b the same with BaPA switched on, c0 and c after LoRA with ordinary
# positions and with BaPA, d trained with BaPA. Trained arms lie in models/miniature/arms; an empty STORE, with CHECKPOINTS,
# RESULTS and DOCS of its own, trains them anew and keeps them there, many hours on a CPU. LoRA and measuring take hours,
# too; the same command goes on where it was. To share the work among machines or cores, give each its SEEDS and PAGE=no
# (on one machine start the others when the first measures: it draws the world) and let one write the page in the end.
set -eu
cd "$(dirname "$0")/.."

SEEDS=${SEEDS:-0 1 2}
GRIDS=${GRIDS:-3 4}             # cells a side; trained on 3
SIZES=${SIZES:-144 192}         # of the image, px; trained on 144 (the tower on both)
CAPTIONS=${CAPTIONS:-100}       # of a probe, each asked for in every cell, and as often in vain
FLOW_CAPTIONS=${FLOW_CAPTIONS:-20}        # in all their questions, for attention
MASKED_CAPTIONS=${MASKED_CAPTIONS:-3}     # in all their cells, covered by squares of half a cell
STORE=${STORE:-models/miniature/arms}
DATA=${DATA:-results/miniature/data}
CHECKPOINTS=${CHECKPOINTS:-checkpoints/miniature}
RESULTS=${RESULTS:-results/miniature}
DOCS=${DOCS:-docs}              # where the page comes, and miniature/ with what it is made of
PAGE=${PAGE:-yes}

# shellcheck source=scripts/environment.sh
. scripts/environment.sh

# have SEED POSITION_BALANCE ARM [--balanced]: a checkpoint of a kept arm, which is trained first if none is kept
have() {
    if [ ! -f "$STORE/$1-$3.json" ]; then
        SEED=$1 POSITION_BALANCE=$2 DATA=$DATA CHECKPOINTS=$CHECKPOINTS TOWER=models/miniature \
            sh scripts/train_miniature.sh
        python train/miniature_arms.py keep --checkpoints "$CHECKPOINTS" --store "$STORE" --seed "$1" --arm "$3"
    fi
    [ -f "$CHECKPOINTS/arm-$1-$3${4:+-balanced}/config.json" ] || python train/miniature_arms.py restore \
        --checkpoints "$CHECKPOINTS" --store "$STORE" --seed "$1" --arm "$3" ${4:+"$4"}
}

# adapt SEED POSITION_BALANCE NAME BASE: LoRA of the arm a, whose config.json says with which positions, merged
adapt() {
    adapter=$CHECKPOINTS/lora-$1-$3
    python train/sft.py --config configs/train/miniature/lora.yaml --resume auto --seed "$1" --position_balance "$2" \
        --model_path "$CHECKPOINTS/$4" --data "$RESULTS/lora_10k/llava.json" --image_folder "$DATA/images" \
        --output_dir "$adapter"
    [ -f "$adapter-merged/config.json" ] ||
        python train/merge_lora.py --model_path "$adapter" --save_model_path "$adapter-merged"
}

# measure SEED POSITION_BALANCE ARM MODEL
measure() {
    # shellcheck disable=SC2086 # grids and sizes are several
    python eval/miniature_measure.py --model_path "$CHECKPOINTS/$4" --position_balance "$2" --results_dir "$RESULTS" \
        --seed "$1" --arm "$3" --grids $GRIDS --sizes $SIZES --flow_captions "$FLOW_CAPTIONS" \
        --masked_captions "$MASKED_CAPTIONS"
}

[ -f "$DATA/manifest.json" ] || python data/build_miniature.py --output_dir "$DATA"
[ -f "$RESULTS/lora_10k/llava.json" ] || python data/sample_instructions.py --input "$DATA/instructions.json" \
    --image_folder "$DATA/images" --output_dir "$RESULTS/lora_10k"
for grid in $GRIDS; do
    python data/build_probe.py --source "$DATA/pictures/test" --num_captions "$CAPTIONS" --negatives 1.0 --grid "$grid" \
        --layout even --output_dir "$RESULTS/probe-$grid"
    python data/build_similarity.py --source "$DATA/pictures/test" --num_captions "$CAPTIONS" --grid "$grid" \
        --layout even --output_dir "$RESULTS/similarity-$grid"
done
for seed in $SEEDS; do
    have "$seed" false off
    measure "$seed" false a "arm-$seed-off"
    measure "$seed" true b "arm-$seed-off"
    adapt "$seed" false off "arm-$seed-off"
    measure "$seed" false c0 "lora-$seed-off-merged"
    have "$seed" false off --balanced
    adapt "$seed" true on "arm-$seed-off-balanced"
    measure "$seed" true c "lora-$seed-on-merged"
    have "$seed" true on
    measure "$seed" true d "arm-$seed-on"
    python eval/miniature_results.py --results_dir "$RESULTS" --checkpoints "$CHECKPOINTS" --store "$STORE" \
        --seed "$seed" --output "$DOCS/miniature/seed_$seed.json"
done
[ "$PAGE" = yes ] || exit 0
[ -f "$DOCS/miniature/findings.md" ] || echo "Not told yet: this is for $DOCS/miniature/findings.md to say." \
    > "$DOCS/miniature/findings.md"
python eval/miniature_page.py --results_dir "$DOCS/miniature" --findings "$DOCS/miniature/findings.md" \
    --output "$DOCS/miniature.md"
