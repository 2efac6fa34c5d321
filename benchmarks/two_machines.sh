#!/usr/bin/env bash
# Trains on two "machines": network namespaces with a host name each, joined by a virtual cable. Then
# again, and the cable is cut after an epoch: the ranks of both have to end, with the reason, within a
# minute.
#
#   sudo PYTHON=python benchmarks/two_machines.sh DATA.yaml     needs root, ip and unshare; no GPU
set -euo pipefail
data=$1
python=${PYTHON:-python3}
folder=$(mktemp -d)
a=yolodata-a$$ b=yolodata-b$$
trap 'ip netns del $a; ip netns del $b; rm -rf "$folder"' EXIT
ip netns add "$a"; ip netns add "$b"
ip link add cable netns "$a" type veth peer name cable netns "$b"
ip -n "$a" addr add 10.77.0.1/24 dev cable; ip -n "$b" addr add 10.77.0.2/24 dev cable
for space in "$a" "$b"; do ip -n "$space" link set lo up; ip -n "$space" link set cable up; done

printf '127.0.0.1 localhost\n10.77.0.1 machine-a\n10.77.0.2 machine-b\n' >"$folder/hosts"

node() {  # name, namespace, address, run
  ip netns exec "$2" unshare --uts --mount sh -c \
    'hostname "$0"; mount --bind "$1" /etc/hosts; shift; exec "$@"' "$1" "$folder/hosts" env \
    GLOO_SOCKET_IFNAME=cable OMP_NUM_THREADS=1 "$python" -m torch.distributed.run \
    --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint=10.77.0.1:29500 \
    --rdzv-id="$4" --local-addr="$3" -m yolodata.train model=yolo26n.yaml data="$data" device=cpu \
    imgsz=64 batch=8 epochs="$epochs" amp=False plots=False verbose=False workers=0 \
    project="$folder" name="$4" resume=auto >"$folder/$4-$1.log" 2>&1
}

both() {  # run
  node machine-a "$a" 10.77.0.1 "$1" & first=$!
  node machine-b "$b" 10.77.0.2 "$1" & second=$!
}

epochs=1 both whole
wait $first; wait $second
echo "whole: both machines ended with 0"

epochs=50 both cut
until grep -qs "2/50" "$folder/cut-machine-a.log"; do sleep 0.2; done
ip -n "$a" link set cable down
cut=$(date +%s)
# torchrun on the side without the rendezvous waits for it for ever; its rank is what has to be gone.
ranks() { pgrep -af -- "-m yolodata.train .*project=$folder name=cut" | grep -v torch.distributed.run; }
while ranks >"$folder/left"; do
  [ $(($(date +%s) - cut)) -gt 60 ] && { echo "cut: still there after 60 s:"; cat "$folder/left"; exit 1; }
  sleep 0.5
done
echo "cut: all ranks were gone after $(($(date +%s) - cut)) s"
grep -ho "yolodata: rank.*" "$folder"/cut-*.log | sort -u
pkill -KILL -f -- "torch.distributed.run .*project=$folder"
