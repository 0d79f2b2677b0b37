# Sourced by the training scripts: train RECIPE on all GPUs of this node, or of several nodes, or on the CPU.
#
# launch RECIPE [arguments of train/sft.py]: a file, or a name in configs/train. Relative paths are relative to the top
# of the repository, from wherever a script is called.

NUM_PROCESSES=${NUM_PROCESSES:-}           # on this node; left out: one for each visible GPU, or one on the CPU
NNODES=${NNODES:-1}                        # nodes
NODE_RANK=${NODE_RANK:-0}                  # of this node, from 0
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}      # of node 0
MASTER_PORT=${MASTER_PORT:-29500}
ACCELERATE_CONFIG=${ACCELERATE_CONFIG:-}   # a file of accelerate's, instead of torchrun: configs/accelerate/fsdp2.yaml

launch() {
    recipe=$1
    shift
    case $recipe in *.yaml | *.yml) ;; *) recipe=configs/train/$recipe.yaml ;; esac
    [ -n "$NUM_PROCESSES" ] || NUM_PROCESSES=$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')
    if [ -n "$ACCELERATE_CONFIG" ]; then
        exec accelerate launch --config_file "$ACCELERATE_CONFIG" --num_machines "$NNODES" --machine_rank "$NODE_RANK" \
            --num_processes $((NNODES * NUM_PROCESSES)) --main_process_ip "$MASTER_ADDR" \
            --main_process_port "$MASTER_PORT" train/sft.py --config "$recipe" "$@"
    elif [ $((NNODES * NUM_PROCESSES)) -gt 1 ]; then
        exec torchrun --nnodes "$NNODES" --node_rank "$NODE_RANK" --nproc_per_node "$NUM_PROCESSES" \
            --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" train/sft.py --config "$recipe" "$@"
    else
        exec python train/sft.py --config "$recipe" "$@"
    fi
}
