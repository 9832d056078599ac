#!/usr/bin/env bash
# Two hosts on one machine: `hosts.sh <arguments of mpirun>` runs mpirun over two network namespaces, each with a name, an address
# and two slots of its own, between which there is nothing but a veth pair. Without arguments it makes and removes them only.
# Exits with 77 where namespaces cannot be made.
#
#   host a  10.213.77.1 ── veth ── veth ── 10.213.77.2  host b
#   mpirun, ranks                          orted, ranks, started by `ip netns exec` in the place of ssh
set -euo pipefail
net=10.213.77
id=$$
host() { echo "bnw-$id-$1"; }
scratch=$(mktemp -d)

remove() {
  for h in a b; do
    # what a rank that was given up left behind would keep its namespace, unnamed
    ip netns pids "$(host "$h")" 2>/dev/null | xargs -r kill -KILL 2>/dev/null || true
    ip netns delete "$(host "$h")" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap remove EXIT

make_hosts() {
  ip netns add "$(host a)" &&
    ip netns add "$(host b)" &&
    ip link add "va$id" netns "$(host a)" type veth peer name "vb$id" netns "$(host b)" &&
    ip -n "$(host a)" address add $net.1/24 dev "va$id" &&
    ip -n "$(host b)" address add $net.2/24 dev "vb$id" &&
    for h in a b; do
      ip -n "$(host $h)" link set lo up && ip -n "$(host $h)" link set "v$h$id" up || return 1
    done &&
    ip netns exec "$(host a)" unshare --uts true
}
if ! why=$(make_hosts 2>&1); then
  echo "hosts.sh: no network namespaces can be made here: ${why:-it does not say why}" >&2
  exit 77
fi
[ $# -gt 0 ] || exit 0

# a shell on a host: its network, and a name of its own, by which Open MPI tells hosts apart
cat >"$scratch/on" <<END
#!/bin/sh
case \$1 in $net.2) host=$(host b) ;; *) host=$(host a) ;; esac
shift
exec ip netns exec \$host unshare --uts sh -c "hostname \$host; \$*"
END
chmod +x "$scratch/on"

status=0
"$scratch/on" $net.1 exec mpirun --allow-run-as-root --host $net.1:2,$net.2:2 --map-by node --mca mpi_yield_when_idle 1 \
  --mca plm_rsh_agent "$scratch/on" --mca oob_tcp_if_include $net.0/24 \
  --mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include $net.0/24 \
  "$(printf '%q ' "$@")" || status=$?
echo "hosts.sh: $(ip netns exec "$(host a)" cat "/sys/class/net/va$id/statistics/tx_bytes") bytes from host a to host b"
exit $status
