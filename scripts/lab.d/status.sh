# shellcheck shell=bash
# What runs where. The keys are relied on outside this tree: add, don't rename.

status_json() {
    local name pid pids='{}' wan='{}' ports='null'
    for name in dataplane control target emulator target_plain; do
        pid=$(process_pid "$name") || pid=null
        pids=$(jq -c --arg name "$name" --argjson pid "$pid" '.[$name] = $pid' <<<"$pids")
    done
    wan=$(wan_ask status 2>/dev/null) || wan='{}'
    ports=$(relay_ports) || ports=null
    jq --argjson pids "$pids" --argjson wan "$wan" --argjson ports "$ports" '
        .configured_driver = .driver
        | .driver = (if $ports then ($ports | join("+")) else .driver end)
        | .pids = $pids
        | .wan = (.wan + ($wan | {rtt_ms, rate_mbit, loss_pct, cut, seed, queue_kib,
            reorder_pct, duplicate_pct, a_to_b, b_to_a, late_us_max, late_frames, cpu_s}
            | with_entries(select(.value != null))))
    ' "$FACTS"
}

# The drivers in use, once each, as the data plane tells.
relay_ports() {
    process_pid dataplane >/dev/null && [[ -x $BIN/sluicectl ]] || return 1
    SLUICE_CONFIG=$(fact .config) timeout 5 "$BIN/sluicectl" show ports -j 2>/dev/null |
        jq -ce '[.. | .driver? // empty | strings] | unique | select(length > 0)'
}

lab_status() {
    need_lab
    case ${1:-} in
    -j | --json) status_json ;;
    '') status_json | jq -r '
        "lab        \(.lab)",
        "relay      \(.mode) mode, driver \(.driver), portal \(.portal)",
        "           configuration \(.config)",
        "           control socket \(.socket)",
        "wan        \(.wan.rtt_ms) ms, \(.wan.rate_mbit) Mbit/s, \(.wan.loss_pct) % loss"
            + (if .wan.cut then ", CUT" else "" end),
        (.pids | to_entries[] | "process    \(.key): \(.value // "not running")"),
        (.targets[] | "target     \(.address) \(.name)",
            (.luns[] | "           LUN \(.lun): \(.size_bytes) bytes in \(.image)"))' ;;
    *) usage_error "status takes -j or nothing" ;;
    esac
}
