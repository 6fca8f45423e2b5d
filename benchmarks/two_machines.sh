#!/usr/bin/env bash
# Train on two machines and on one, and compare the weights, as root: bash benchmarks/two_machines.sh [folder]
# The machines are network namespaces, joined by one cable, with a cache each; only the saved directory is shared.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${1:-runs/two_machines}
mkdir -p "$OUT"
export PYTHONPATH=. HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
clean() { ip netns del bertorch-0 2>/dev/null || true; ip netns del bertorch-1 2>/dev/null || true; }
trap clean EXIT
clean
for node in 0 1; do ip netns add bertorch-$node; ip -n bertorch-$node link set lo up; done
ip link add cable-0 netns bertorch-0 type veth peer name cable-1 netns bertorch-1
for node in 0 1; do
    ip -n bertorch-$node addr add 10.77.0.$((node + 1))/24 dev cable-$node
    ip -n bertorch-$node link set cable-$node up
done

FLAGS="--train_data_file data/reviews/train.tsv --dev_data_file data/reviews/dev.tsv --label_file data/reviews/labels.txt
    --pretrained_model_name_or_path models/bertorch-tiny-zh --learning_rate 5e-4 --epochs 2 --batch_size 8 --device cpu
    --save_steps 20 --eval_steps 20"
torchrun --standalone --nproc_per_node 2 run_classifier.py $FLAGS --overwrite --saved_dir "$OUT/one" 2>"$OUT/one.log"

train() { # node, further flags of torchrun
    local node=$1; shift
    GLOO_SOCKET_IFNAME=cable-$node BERTORCH_CACHE="$OUT/cache-$node" ip netns exec bertorch-$node \
        torchrun --nnodes 2 --nproc_per_node 1 "$@" run_classifier.py $FLAGS --resume --saved_dir "$OUT/two" \
        2>"$OUT/two-$node.log"
}
rm -rf "$OUT/two" "$OUT"/cache-*
for node in 0 1; do train $node --node_rank $node --master_addr 10.77.0.1 --master_port 29500 & done
wait
compare() {
    python - "$OUT/one/model.safetensors" "$OUT/$1/model.safetensors" "$2" <<'EOF'
import sys
import torch
from safetensors.torch import load_file
one, two = (load_file(path) for path in sys.argv[1:3])
equal = one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
print(f"{sys.argv[3]}: the weights are {'equal, bit for bit' if equal else 'DIFFERENT'}")
sys.exit(not equal)
EOF
}
compare two "two machines beside two processes on one"

# Again, elastic: a process of each machine is killed in turn; torchrun starts both again, which resume.
rm -rf "$OUT/two"
for node in 0 1; do
    train $node --rdzv_backend c10d --rdzv_endpoint 10.77.0.1:29501 --rdzv_id 1 --max-restarts 3 \
        --rdzv_conf is_host=$((1 - node)) --local_addr 10.77.0.$((node + 1)) &
done
for step in 20 60; do
    until [ -d "$OUT/two/training_state/step-000000$step" ]; do sleep 0.05; [ -n "$(jobs -r)" ] || exit 1; done
    pid=$(pgrep -f -- "-u run_classifier.py .*--saved_dir $OUT/two" | sed -n "$((step / 40 + 1))p")
    kill -9 "$pid"
done
wait
grep -ho "resumed from.*" "$OUT"/two-?.log
compare two "two machines, a process of each killed"
