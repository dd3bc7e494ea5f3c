# Sourced by the benches of the WAN transport: their path, and one sender at a time on it.
#
#   LEFT wan0 --- end-a WIRE end-b --- wan0 RIGHT
#   198.51.100.1 (kernel), .3 (ours)          .2 (kernel)
#
# What is sourced here takes SECONDS_EACH, the seconds of a run, and OMIT, those of them
# that are not counted, from whoever calls it.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release
NAME=sluice-wan-$$
LEFT=$NAME-left RIGHT=$NAME-right WIRE=$NAME-wire
WORK=$(mktemp -d)
SOCKET=$WORK/wan.sock
OURS=198.51.100.3 PEER=198.51.100.2
# What a run may take beyond its time before it is ended.
GRACE_S=20

finish() {
    local namespace pid
    {
        for namespace in "$LEFT" "$RIGHT" "$WIRE"; do
            [[ -e /run/netns/$namespace ]] || continue
            # Only what was started here lives in a namespace of this name.
            for pid in $(ip netns pids "$namespace"); do kill -KILL "$pid" || true; done
        done
        for namespace in "$LEFT" "$RIGHT" "$WIRE"; do
            [[ ! -e /run/netns/$namespace ]] || ip netns delete "$namespace" || true
        done
        wait
    } 2>/dev/null # the shell would tell of each that is killed
    rm -rf "$WORK"
}
trap finish EXIT
say() { echo "bench ${0##*/}: $*" >&2; }
at() {
    local namespace=$1
    shift
    ip netns exec "$namespace" "$@"
}
emulator() { "$BIN/wan-emulator" "$@" --socket "$SOCKET"; }

# path_up: the namespaces and the emulator, at 100 Mbit/s and 40 ms.
path_up() {
    local namespace device end
    for namespace in "$LEFT" "$RIGHT" "$WIRE"; do
        ip netns add "$namespace"
        at "$namespace" sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1
    done
    ip -n "$LEFT" link add wan0 type veth peer name end-a netns "$WIRE"
    ip -n "$RIGHT" link add wan0 type veth peer name end-b netns "$WIRE"
    ip -n "$LEFT" address add 198.51.100.1/24 dev wan0
    ip -n "$RIGHT" address add $PEER/24 dev wan0
    for end in "$LEFT wan0" "$RIGHT wan0" "$WIRE end-a" "$WIRE end-b"; do
        read -r namespace device <<<"$end"
        at "$namespace" ethtool -K "$device" tx off sg off tso off gso off gro off >/dev/null
        ip -n "$namespace" link set "$device" up
    done
    PEER_MAC=$(at "$RIGHT" cat /sys/class/net/wan0/address)
    ip -n "$RIGHT" neighbour add $OURS lladdr "$(at "$LEFT" cat /sys/class/net/wan0/address)" dev wan0
    for namespace in "$LEFT" "$RIGHT"; do
        at "$namespace" sysctl -qw net.ipv4.tcp_no_metrics_save=1 \
            net.ipv4.tcp_rmem='4096 131072 67108864' net.ipv4.tcp_wmem='4096 65536 67108864'
    done
    ip netns exec "$WIRE" "$BIN/wan-emulator" run --a end-a --b end-b --socket "$SOCKET" --realtime \
        --rtt-ms 40 --rate-mbit 100 --seed 7 &
    for _ in {1..100}; do
        ! emulator status >/dev/null 2>&1 || return 0
        sleep 0.02
    done
    say "the emulator does not answer"
    return 1
}

# ours COUNT CONTROL [OPTION…]: {mbit_per_s, rtt_ms, rtt_p50_ms, resent_share, cpu_s,
# bytes_wrong}; the sender's whole report stays in send.json.
ours() {
    local sink count=$1 control=$2
    shift 2
    at "$RIGHT" timeout $((SECONDS_EACH + GRACE_S)) "$BIN/wan-bench" sink --listen $PEER:5201 --connections "$count" \
        --omit "$OMIT" --seconds "$((SECONDS_EACH - OMIT))" >"$WORK/sink.json" &
    sink=$!
    sleep 0.2
    at "$LEFT" timeout $((SECONDS_EACH + GRACE_S)) "$BIN/wan-bench" send --device wan0 --source $OURS --peer $PEER:5201 \
        --peer-mac "$PEER_MAC" --connections "$count" --control "$control" --seconds "$SECONDS_EACH" --omit "$OMIT" \
        --seed $RANDOM "$@" >"$WORK/send.json"
    wait "$sink"
    jq -n --slurpfile send "$WORK/send.json" --slurpfile sink "$WORK/sink.json" '$send[0] as $s | $sink[0] as $k | {
        mbit_per_s: $k.mbit_per_s, rtt_ms: $s.rtt_p50_ms, rtt_p50_ms: $s.rtt_p50_ms, resent_share: $s.resent_share,
        cpu_s: $s.cpu_s, bytes_wrong: $k.bytes_wrong}'
}

# kernel COUNT CONTROL: the same of iperf3; its rtt_ms is a mean.
kernel() {
    local server
    at "$RIGHT" timeout $((SECONDS_EACH + GRACE_S)) iperf3 -s -1 -p 5202 >/dev/null &
    server=$!
    sleep 0.2
    at "$LEFT" timeout $((SECONDS_EACH + GRACE_S)) iperf3 -c $PEER -p 5202 -P "$1" -C "$2" -i 0.1 \
        -t "$((SECONDS_EACH - OMIT))" -O "$OMIT" -J >"$WORK/iperf.json"
    wait "$server"
    jq '(.start.tcp_mss_default // 1448) as $mss
        | ([.intervals[] | select(.sum.omitted | not) | .streams[].rtt] | sort | .[length / 2 | floor]) as $p50 | .end | {
        mbit_per_s: (.sum_received.bits_per_second / 1e6),
        rtt_ms: ([.streams[].sender.mean_rtt] | add / length / 1000), rtt_p50_ms: ($p50 / 1000),
        resent_share: (.sum_sent.retransmits * $mss / .sum_sent.bytes),
        cpu_s: null, bytes_wrong: 0}' "$WORK/iperf.json"
}
