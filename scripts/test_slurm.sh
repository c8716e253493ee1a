#!/bin/bash
# One compression by a real Slurm: starts munged, slurmctld and slurmd on this host's loopback, with
# a configuration and ports of their own, submits scripts/slurm/compress.sbatch as an array of three
# tasks, kills one worker while it holds a lease, and compares the file with that of one process.
# About three minutes, most of them waiting for the dead worker's lease to end.
#
# usage: test_slurm.sh UPG
#   Needs root (slurmd does) and Debian's slurm-wlm and munge (setup.sh --slurm). Exit code 77 where
#   it cannot start; what it printed says why.
set -euo pipefail

skip() {
    echo "test_slurm: skipped: $*"
    exit 77
}

upg=$(realpath "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
for program in munged slurmctld slurmd sbatch squeue scontrol; do
    command -v $program >/dev/null || skip "$program is not installed (setup.sh --slurm)"
done
[ "$(id -u)" = 0 ] || skip "slurmd needs root"

work=$(mktemp -d "${TMPDIR:-/tmp}/upg-slurm-XXXXXX")
pids=()
finish() {
    code=$?
    [ $code = 0 ] || [ $code = 77 ] || tail -n 15 "$work"/*.log "$work"/task-*.out || true
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT

host=$(hostname -s)
port=$((20000 + $$ % 20000))
chmod 755 "$work"
mkdir "$work/state" "$work/spool" "$work/munge"
dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 status=none
chmod 600 "$work/munge/key"
cat >"$work/slurm.conf" <<END
ClusterName=upg
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=65536 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF=$work/slurm.conf

# Started in the foreground of this shell's children, so that their ids are known.
start() { # NAME COMMAND...
    local name=$1
    shift
    "$@" >"$work/$name.log" 2>&1 &
    pids+=($!)
}

wait_for() { # SECONDS WHAT COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $until ] || return 1
        sleep .2
    done
}

start munged munged --foreground --force --key-file="$work/munge/key" --socket="$work/munge/socket" \
    --pid-file="$work/munge/pid" --log-file="$work/munge/log" --seed-file="$work/munge/seed"
wait_for 10 munge munge -n --socket="$work/munge/socket" || skip "munged does not start here: $(tail -n 1 "$work/munged.log")"
start slurmctld slurmctld -D
start slurmd slurmd -D -N "$host"
idle() { [ "$(sinfo -h -o %T)" = idle ]; }
wait_for 30 slurm idle || skip "slurmctld and slurmd do not start here: $(tail -n 2 "$work/slurmctld.log" "$work/slurmd.log")"
echo "test_slurm: $(slurmctld -V), $(date -u +%F)"

data=$root/tests/data/phi4-micro
cd "$work"
"$upg" compress "$data" -o alone.upg --independent --no-journal -q >/dev/null
export UPG=$upg
job=$(sbatch --parsable --array=0-2 --cpus-per-task=1 --output="$work/task-%a.out" \
    "$root/scripts/slurm/compress.sbatch" "$data" "$work/many.upg" "$work/journal")
echo "test_slurm: job $job, three tasks"

# A lease says whose it is: HOST-PID.
holder=
find_holder() {
    local lease pid
    for lease in "$work"/journal/lease-m*; do
        pid=$(sed 's/.*-//' "$lease" 2>/dev/null) || continue
        if [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$work/many.upg"; then
            holder=$pid
            return 0
        fi
    done
    return 1
}
wait_for 120 lease find_holder || { echo "test_slurm: no worker took a lease"; exit 1; }
kill -9 "$holder"
echo "test_slurm: killed the worker $holder, which held a lease"

ended() { [ -z "$(squeue -h -j "$job" 2>/dev/null)" ]; }
wait_for 400 end ended || { squeue; echo "test_slurm: the job does not end"; exit 1; }
states=$(scontrol show job "$job" -o | grep -o 'JobState=[A-Z]*' | sort | uniq -c | tr -s ' \n' ' ')
echo "test_slurm: $states"
[ "$states" = " 2 JobState=COMPLETED 1 JobState=FAILED " ] || { echo "test_slurm: two tasks were to end well"; exit 1; }
cmp alone.upg many.upg
echo "test_slurm: the file has the bytes of one process"
