#!/usr/bin/env bash
# A real Slurm on this machine, without systemd: two nodes with two made-up GPUs each, loopback only.
#
#   slurm.sh up FOLDER      start it, with all state in FOLDER; prints `ready`
#   slurm.sh down FOLDER    cancel its jobs and stop what was started
#
# Needs root and the packages slurmctld, slurmd, slurm-client, munge (.ci/run installs them).
set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

ACTION=$1
BASE=$(realpath -m "$2")
HOST=$(hostname -s)
PORT=16917
NODES=(n1 n2)
export SLURM_CONF=$BASE/slurm.conf

fail() { echo "slurm.sh: $*" >&2; exit 1; }

until_true() { # until_true WHAT COMMAND...: wait up to a minute
    local what=$1 end=$((SECONDS + 60)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { tail -n 5 "$BASE"/*.log >&2; fail "waited in vain for $what"; }
        sleep 0.2
    done
}

nodes_idle() { [ "$(sinfo -h -N -t idle -o '%N %T' | grep -cv '[*~#]')" = ${#NODES[@]} ]; }

start_munge() {
    if munge -n </dev/null >/dev/null 2>&1; then return; fi
    if [ ! -s /etc/munge/munge.key ]; then
        install -d -o munge -g munge -m 700 /etc/munge
        install -o munge -g munge -m 400 <(head -c 1024 /dev/urandom) /etc/munge/munge.key
    fi
    install -d -o munge -g munge -m 755 /run/munge
    install -d -o munge -g munge -m 711 /var/lib/munge
    install -d -o munge -g munge -m 700 /var/log/munge
    runuser -u munge -- /usr/sbin/munged
    touch "$BASE/munged.ours"
    until_true munged munge -n
}

write_config() {
    local i node
    for i in 0 1; do # a GPU must be a device; major 120 is for local use, and nothing opens it
        [ -c "$BASE/gpu$i" ] || mknod -m 666 "$BASE/gpu$i" c 120 "$i"
    done
    echo "NodeName=$(IFS=,; echo "${NODES[*]}") Name=gpu File=$BASE/gpu[0-1]" >"$BASE/gres.conf"
    echo "CgroupMountpoint=/sys/fs/cgroup" >"$BASE/cgroup.conf" # unused, but may not be empty
    cat >"$SLURM_CONF" <<EOF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$BASE/state
SlurmdSpoolDir=$BASE/spool.%n
SlurmctldPidFile=$BASE/slurmctld.pid
SlurmdPidFile=$BASE/slurmd.%n.pid
SlurmctldLogFile=$BASE/slurmctld.log
SlurmdLogFile=$BASE/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=300
KillWait=5
ReturnToService=2
JobRequeue=0
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
EOF
    for i in "${!NODES[@]}"; do
        node=${NODES[$i]}
        mkdir -p "$BASE/spool.$node"
        echo "NodeName=$node NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 1 + i)) CPUs=4 RealMemory=40000 Gres=gpu:2 State=UNKNOWN" >>"$SLURM_CONF"
    done
    echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$SLURM_CONF"
    # Job steps start without SLURM_CONF and look here.
    mkdir -p /etc/slurm
    for i in slurm gres cgroup; do
        [ ! -e "/etc/slurm/$i.conf" ] || [ -L "/etc/slurm/$i.conf" ] || fail "/etc/slurm/$i.conf is there and is not ours"
        ln -sfn "$BASE/$i.conf" "/etc/slurm/$i.conf"
    done
}

up() {
    [ "$(id -u)" = 0 ] || fail "must be root"
    mkdir -p "$BASE/state"
    start_munge
    write_config
    slurmctld -i
    until_true slurmctld scontrol ping
    for node in "${NODES[@]}"; do slurmd -N "$node"; done
    until_true "the nodes" nodes_idle
    echo ready
}

stop_pid() {
    local pid; [ -s "$1" ] && pid=$(cat "$1") || return 0
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
}

down() {
    squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel || true
    for node in "${NODES[@]}"; do stop_pid "$BASE/slurmd.$node.pid"; done
    stop_pid "$BASE/slurmctld.pid"
    [ ! -e "$BASE/munged.ours" ] || stop_pid /run/munge/munged.pid
    # With a configuration but no controller every snakemake would wait 9 s for an answer.
    for i in slurm gres cgroup; do
        [ "$(readlink "/etc/slurm/$i.conf")" != "$BASE/$i.conf" ] || rm "/etc/slurm/$i.conf"
    done
}

"$ACTION"
