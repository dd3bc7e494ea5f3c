# shellcheck shell=bash
# Processes that outlive the command that started them, known by pid and start
# time, so that a number used again is never taken for ours.

start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The name, in brackets, may hold anything; count fields after it.
    read -ra stat <<<"${stat##*) }"
    if [[ ${stat[0]} == Z ]]; then
        # Ended, unless a thread of it still waits in the kernel.
        local threads=("/proc/$1/task"/*)
        ((${#threads[@]} > 1)) || return 1
    fi
    echo "${stat[19]}"
}

# process_start NAME NAMESPACE COMMAND…   (log in $STATE/log/NAME.log)
process_start() {
    local name=$1 namespace=$2
    shift 2
    process_start_here "$name" ip netns exec "$namespace" setsid "$@"
}

# process_start_here NAME setsid COMMAND…: in this shell's own namespaces.
process_start_here() {
    local name=$1 pid
    shift
    mkdir -p "$STATE/log" "$STATE/pid"
    printf -- '--- %s: %s\n' "$(date -Is)" "$*" >>"$STATE/log/$name.log"
    # Not a job-control shell, so setsid does not fork: the pid is the command's.
    "$@" >>"$STATE/log/$name.log" 2>&1 </dev/null &
    pid=$!
    disown "$pid"
    echo "$pid $(start_time "$pid" || echo gone)" >"$STATE/pid/$name"
}

# The pid, if that very process still runs.
process_pid() {
    local pid started
    read -r pid started 2>/dev/null <"$STATE/pid/$1" || return 1
    [[ $(start_time "$pid") == "$started" ]] || return 1
    echo "$pid"
}

# process_end NAME SIGNAL SECONDS: the signal, and SIGKILL when it does not help.
process_end() {
    local pid waited=0
    if pid=$(process_pid "$1"); then
        kill "-$2" "$pid" 2>/dev/null || true
        while process_pid "$1" >/dev/null; do
            ((waited < $3 * 50)) || kill -KILL "$pid" 2>/dev/null || true
            ((waited < $3 * 50 + 250)) || die "$1 (pid $pid) does not end, even by SIGKILL"
            sleep 0.02
            ((waited += 1))
        done
    fi
    rm -f "$STATE/pid/$1"
}

# The pids of all that was started and not yet ended.
process_pids() {
    local record
    for record in "$STATE"/pid/*; do
        [[ ! -s $record ]] || cut -d' ' -f1 "$record"
    done
}

# What has ended is in the process table until init takes it out, which some
# do only every second or so; whoever looks after `down` shall find nothing.
process_wait_reaped() {
    local pid waited=0
    for pid in "$@"; do
        while [[ -e /proc/$pid ]] && ((waited < 150)); do
            sleep 0.02
            ((waited += 1))
        done
    done
}

# The end of a log, for an error.
log_tail() {
    local log=$STATE/log/$1.log
    [[ -s $log ]] || return 0
    say "the end of $1's log:"
    tail -n "${2:-15}" "$log" | sed 's/^/    /' >&2
}

# wait_until SECONDS COMMAND…: every 20 ms.
wait_until() {
    local until=$(($(date +%s%N) + $1 * 1000000000))
    shift
    until "$@" >/dev/null 2>&1; do
        (($(date +%s%N) < until)) || return 1
        sleep 0.02
    done
}
