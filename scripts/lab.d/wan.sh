# shellcheck shell=bash
# The WAN between the relay's WAN port (end a) and the storage (end b).

WAN_SOCKET=$STATE/wan.sock

# wan_up OPTIONS…
wan_up() {
    process_start emulator "$NS_EMU" "$BIN/wan-emulator" run --a end-a --b end-b \
        --socket "$WAN_SOCKET" --realtime "$@"
    if ! wait_until 5 wan_ask status; then
        log_tail emulator
        die "the WAN emulator does not answer"
    fi
}

wan_ask() {
    local request=$1
    shift
    "$BIN/wan-emulator" "$request" --socket "$WAN_SOCKET" "$@"
}

wan_down() { process_end emulator TERM 3; }

lab_wan() {
    need_lab
    [[ $# -ge 1 ]] || usage_error "wan needs cut, heal, set or status"
    process_pid emulator >/dev/null || die "the WAN emulator is not running (see $STATE/log/emulator.log)"
    case $1 in
    cut | heal | set) wan_ask "$@" >/dev/null ;;
    status) wan_ask "$@" | jq . ;;
    *) usage_error "no 'wan $1': cut, heal, set or status" ;;
    esac
}
