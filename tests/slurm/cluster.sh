#!/usr/bin/env bash
# A real Slurm cluster of several nodes on one machine, for tests: no systemd, nothing outside its folder is touched.
#
#   cluster.sh install                  slurmctld, slurmd, munge by apt-get (Debian 12 and later, Ubuntu)
#   cluster.sh up NODES                 bring it up; one that is up in this folder is torn down; it goes down with the
#                                       process $CLUSTER_OWNER, if that is set
#   cluster.sh down                     tear it down
#   cluster.sh status                   how processes are tracked, and the nodes
#   cluster.sh exec -- WORDS ...        run a command on the login node
#   cluster.sh on NODE -- WORDS ...     run a command on a node, outside of any job
#   cluster.sh fail NODE daemon|host    kill its slurmd, and the processes of its jobs live on; or all of its processes
#   cluster.sh heal NODE                undo that
#
# Each node has a hostname, an address, a process table and a /dev/shm of its own, in private namespaces; files are
# shared, as on a cluster. Ending one process, the holder of the namespaces, ends everything. Root alone can do this.
#
# Processes are tracked by cgroups, as on production clusters, where a freezer of version 1 or a pure version 2 can be
# had: a signal then reaches the task itself and not its children, and what a step leaves behind is killed. Otherwise
# by linuxproc, under which tests of signals would pass wrongly: `status` says which.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

DIR=${CLUSTER_DIR:-/tmp/slurm-test-cluster}
GPUS=8 CPUS=16 MEMORY=64000     # of a node; pretended
NET=10.77.0
export SLURM_CONF=$DIR/slurm.conf

die() { echo "cluster: $*" >&2; exit 1; }
# a zombie answers kill -0, so look at its state
alive() { local state; state=$(sed -n 's/^State:\s*\(.\).*/\1/p' "/proc/${1:-x}/status" 2>/dev/null) && [[ $state == [!ZX] ]]; }
within() { # SECONDS WORDS...: whether the words succeed within so long
    local _end=$((SECONDS + $1)); shift
    until "$@"; do ((SECONDS < _end)) || return 1; sleep 0.05; done
}
load() { [[ -f $DIR/state ]] || die "not up (no $DIR/state)"; source "$DIR/state"; }
save() { declare -p NODES TRACK CGROUP HOLDER TOP | sed 's/^declare [-a-z]* //' >"$DIR/state"; }
names() { seq -f 'node%.0f' "$NODES"; }
holder() { if [[ $1 == login ]]; then echo "$HOLDER"; else cat "$DIR/run/$1.holder"; fi; }
at() { # NODE|login WORDS...: run them there, in the same folder
    local pid; pid=$(holder "$1"); shift
    nsenter -t "$pid" -p -m -n -u -C -- bash -c 'cd "$0" 2>/dev/null || cd /; exec "$@"' "$PWD" "$@"
}

choose_tracking() { # a cgroup of our own, below which Slurm's lie
    local mount
    CGROUP=''
    mount=$(awk '$3 == "cgroup" && $4 ~ /(^|,)freezer(,|$)/ {print $2; exit}' /proc/mounts)
    if [[ -n $mount ]] && mkdir -p "$mount/slurm-test.$$" 2>/dev/null; then TRACK=cgroup1 CGROUP=$mount/slurm-test.$$; return; fi
    mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
    # Slurm refuses a mixture of both versions
    if [[ -n $mount && $(wc -l </proc/self/cgroup) == 1 ]] && mkdir -p "$mount/slurm-test.$$" 2>/dev/null; then
        TRACK=cgroup2 CGROUP=$mount/slurm-test.$$; return
    fi
    TRACK=linuxproc
}

configure() {
    local i
    cat >"$DIR/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=login($NET.254)
SlurmctldPort=17817
SlurmdPort=17818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# a job that is requeued waits for its old credential to expire; 5 s is the least
AuthInfo=socket=$DIR/run/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$DIR/ctld
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
ProctrackType=proctrack/${TRACK%[12]}
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=5,bf_interval=2
EnforcePartLimits=ALL
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
MessageTimeout=5
TCPTimeout=2
BatchStartTimeout=10
InactiveLimit=0
MinJobAge=3600
KillWait=5
UnkillableStepTimeout=30
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=node[1-$NODES] NodeAddr=$NET.[1-$NODES] CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEMORY Gres=gpu:$GPUS State=UNKNOWN
PartitionName=debug   Nodes=ALL Default=YES DefaultTime=10 MaxTime=1-00:00:00 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=preempt Nodes=ALL DefaultTime=10 MaxTime=1-00:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=urgent  Nodes=ALL DefaultTime=10 MaxTime=1-00:00:00 PriorityTier=100 PreemptMode=OFF State=UP
CONF
    if [[ $TRACK == cgroup* ]]; then
        printf 'CgroupPlugin=cgroup/v%s\nCgroupMountpoint=%s\nCgroupAutomount=no\n' "${TRACK#cgroup}" "$DIR/cgroup" >"$DIR/cgroup.conf"
        [[ $TRACK != cgroup2 ]] || echo IgnoreSystemd=yes >>"$DIR/cgroup.conf"
    fi
    # slurmd wants a character device for each GPU, and only ever looks whether it is one
    local devices="$DIR/dev/gpu[0-$((GPUS - 1))]"
    for ((i = 0; i < GPUS; i++)); do
        mknod "$DIR/dev/gpu$i" c 1 3 2>/dev/null || { devices="/dev/tty[0-$((GPUS - 1))]"; break; }
    done
    echo "NodeName=node[1-$NODES] Name=gpu File=$devices" >"$DIR/gres.conf"
}

IDLE='trap : CHLD; while :; do sleep 86400 & wait $!; done'   # bash as the first process reaps orphans

make_login() { # the first process of the cluster's namespaces, in a cgroup of its own
    local name mount_cgroup=:
    { echo "127.0.0.1 localhost"; echo "$NET.254 login"; for name in $(names); do echo "$NET.${name#node} $name"; done; } >"$DIR/hosts"
    case $TRACK in
    cgroup1) mount_cgroup="mount -t cgroup -o freezer none $DIR/cgroup/freezer" ;;
    cgroup2) mount_cgroup="mount -t cgroup2 none $DIR/cgroup" ;;
    esac
    setsid bash -c '[[ -z $0 ]] || echo $$ >"$0/cgroup.procs"
        exec unshare -p -f --kill-child -m --propagation private --mount-proc -n -u -C bash -c "$1"' "$CGROUP" "
        hostname login; ip link set lo up; ip link add br0 type bridge
        ip addr add $NET.254/24 dev br0; ip link set br0 up
        mount --bind $DIR/hosts /etc/hosts; $mount_cgroup
        : >$DIR/run/login.ready; $IDLE" </dev/null >"$DIR/log/holder.log" 2>&1 &
    TOP=$!
    within 10 test -f "$DIR/run/login.ready" || die "no namespaces can be had: $(cat "$DIR/log/holder.log")"
    HOLDER=$(pgrep -P "$TOP" | head -1)
}

make_node() { # NODE
    local name=$1 i=${1#node} space process pid=''
    rm -f "$DIR/run/$name".*
    at login setsid unshare -p -f --kill-child -m --propagation private --mount-proc -n -u bash -c "
        hostname $name; ip link set lo up; mount -t tmpfs none /dev/shm
        readlink /proc/self/ns/net >$DIR/run/$name.ready; $IDLE" </dev/null >>"$DIR/log/holder.log" 2>&1 &
    within 10 test -s "$DIR/run/$name.ready" || die "no namespaces for $name: $(cat "$DIR/log/holder.log")"
    space=$(<"$DIR/run/$name.ready")
    for process in /proc/[0-9]*; do # its first process, by the number that it has out here
        [[ $(readlink "$process/ns/net" 2>/dev/null) == "$space" ]] || continue
        [[ $(awk '/^NSpid/ {print $NF}' "$process/status" 2>/dev/null) != 1 ]] || pid=${process#/proc/}
    done
    [[ $pid ]] || die "no process of $name is found"
    echo "$pid" >"$DIR/run/$name.holder"
    nsenter -t "$HOLDER" -n ip link del "v$i" 2>/dev/null || true
    nsenter -t "$HOLDER" -n ip link add "v$i" type veth peer name eth0 netns "$pid"
    nsenter -t "$HOLDER" -n ip link set "v$i" master br0 up
    nsenter -t "$pid" -n ip addr add "$NET.$i/24" dev eth0
    nsenter -t "$pid" -n ip link set eth0 up
}

start_slurmd() { mkdir -p "$DIR/spool/$1"; at "$1" slurmd -f "$SLURM_CONF" -N "$1"; }
all_idle() { [[ $(at login sinfo -h -p debug -t idle -o %D 2>/dev/null) == "$NODES" ]]; }

up() {
    local name
    [[ $(id -u) == 0 ]] || die "needs root"
    for name in slurmctld slurmd munged sbatch ip nsenter; do
        command -v "$name" >/dev/null || die "there is no $name: $0 install"
    done
    [[ $DIR =~ ^/[A-Za-z0-9_./-]+$ && ${#DIR} -lt 70 ]] || die "CLUSTER_DIR must be a short, plain path: it holds sockets"
    down
    mkdir -p "$DIR"/{ctld,log,run,munge,dev,cgroup/freezer}
    : >"$DIR/.slurm-test-cluster"
    chmod 755 "$DIR" "$DIR/run"; chmod 700 "$DIR/munge"
    HOLDER='' TOP='' CGROUP=''
    [[ -n ${TRACK:-} ]] || choose_tracking
    (umask 077; head -c 1024 /dev/urandom >"$DIR/munge/key")
    save
    make_login; save
    for name in $(names); do make_node "$name"; done
    configure
    at login munged --force --key-file="$DIR/munge/key" --socket="$DIR/run/munge.socket" --pid-file="$DIR/munge/munged.pid" \
        --log-file="$DIR/munge/munged.log" --seed-file="$DIR/munge/seed" 2>/dev/null || die "munged: $(cat "$DIR/munge/munged.log")"
    at login slurmctld -f "$SLURM_CONF" || die "slurmctld: $(tail -n 5 "$DIR/log/slurmctld.log")"
    for name in $(names); do
        start_slurmd "$name" && continue
        tail -n 3 "$DIR/log/slurmd.$name.log" >&2
        [[ $TRACK != linuxproc ]] || die "slurmd of $name does not start"
        echo "cluster: $TRACK does not work here" >&2
        TRACK=linuxproc; up; return
    done
    # a process of tests that is killed takes its cluster with it
    if [[ -n ${CLUSTER_OWNER:-} ]]; then
        setsid bash -c 'while kill -0 "$1" 2>/dev/null; do sleep 1; done; "$0" down' \
            "$(realpath "$0")" "$CLUSTER_OWNER" </dev/null &>/dev/null &
    fi
    within 20 all_idle || { at login sinfo -N -l >&2; die "nodes are not idle: $(tail -n 20 "$DIR/log/slurmctld.log")"; }
    echo "proctrack=$TRACK nodes=$NODES SLURM_CONF=$SLURM_CONF"
}

down() (
    if [[ -f $DIR/state ]]; then
        source "$DIR/state"
        # only if it is still ours: our folder is in its command line
        for pid in $HOLDER $TOP; do ! grep -qs "$DIR/hosts" "/proc/$pid/cmdline" || kill -9 "$pid" 2>/dev/null || true; done
        gone() { ! alive "$HOLDER"; }
        empty() { find "$CGROUP" -depth -type d -exec rmdir {} + 2>/dev/null; }
        within 10 gone || true
        [[ -z $CGROUP || ! -d $CGROUP ]] || within 5 empty || true
    fi
    [[ -d $DIR ]] || exit 0
    [[ -f $DIR/.slurm-test-cluster || -z $(ls -A "$DIR") ]] || die "$DIR is none of ours, and left alone"
    rm -rf "$DIR"
)

fail_node() {
    load
    case ${2:-} in
    daemon) at "$1" bash -c "kill -9 \$(<$DIR/run/$1.pid)" ;;
    host) kill -9 "$(holder "$1")" ;;
    *) die "fail NODE daemon|host" ;;
    esac
}

heal_node() {
    load
    idle() { [[ $(at login sinfo -h -n "$1" -p debug -o %T) =~ ^(idle|mixed|allocated|completing)$ ]]; }
    alive "$(holder "$1")" || make_node "$1"
    at "$1" bash -c "[[ -f $DIR/run/$1.pid ]] && kill -0 \$(<$DIR/run/$1.pid)" 2>/dev/null || start_slurmd "$1"
    within 2 idle "$1" && return
    at login scontrol update nodename="$1" state=resume 2>/dev/null || true
    within 20 idle "$1" || die "$1 does not come back"
}

action=${1:-}; shift || true
case $action in
install)
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge iproute2 util-linux procps shellcheck
    ;;
up) NODES=${1:-2} TRACK=''; up ;;
down) down ;;
status) load; echo "proctrack=$TRACK nodes=$NODES"; at login sinfo -p debug -N -o '%N %T %E' ;;
exec) load; [[ ${1:-} != -- ]] || shift; at login "$@" ;;
on) load; name=$1; shift; [[ ${1:-} != -- ]] || shift; at "$name" "$@" ;;
fail) fail_node "$@" ;;
heal) heal_node "$@" ;;
*) sed -n '2,21p' "$0"; exit 2 ;;
esac
