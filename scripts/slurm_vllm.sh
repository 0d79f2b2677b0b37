#!/bin/sh
# One vLLM across the nodes of a SLURM job: starts Ray on all of them, then runs a command on the first.
#
#     sbatch --nodes 2 --gpus-per-node 8 scripts/slurm_vllm.sh vllm serve MODEL --tensor-parallel-size 8 \
#         --pipeline-parallel-size 2 --distributed-executor-backend ray
#
# The environment with vLLM (docs/vllm.md) and Ray (pip install ray) must be active, on a file system that all nodes see.
#SBATCH --job-name=bapa-vllm
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
set -eu

RAY_PORT=${RAY_PORT:-6379}
SECONDS_TO_JOIN=${SECONDS_TO_JOIN:-300}   # for the nodes to find each other

if [ $# -eq 0 ]; then
    echo "error: give the command that the first node is to run" >&2
    exit 2
fi
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | cut -d ' ' -f 1)

srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap \
    ray start --head --node-ip-address "$address" --port "$RAY_PORT" --block &
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes "$((SLURM_JOB_NUM_NODES - 1))" --ntasks-per-node 1 --exclude "$head" --overlap \
        sh -c "until ray start --address $address:$RAY_PORT --block; do sleep 2; done" &
fi

# vLLM places its workers on the nodes that are there when it starts.
wait_for_nodes='
import sys, time, ray
count, seconds = map(int, sys.argv[1:])
ray.init(address="auto", log_to_driver=False)
end = time.time() + seconds
while sum(node["Alive"] for node in ray.nodes()) < count:
    if time.time() > end:
        sys.exit(f"error: {len(ray.nodes())} of {count} nodes joined Ray in {seconds} s")
    time.sleep(1)
'
on_head() {
    srun --nodes 1 --ntasks 1 --nodelist "$head" --overlap env RAY_ADDRESS="$address:$RAY_PORT" "$@"
}
status=0
on_head sh -c "until ray status > /dev/null 2>&1; do sleep 1; done"
on_head python -c "$wait_for_nodes" "$SLURM_JOB_NUM_NODES" "$SECONDS_TO_JOIN" && on_head "$@" || status=$?
on_head ray stop > /dev/null 2>&1 || true
exit "$status"
