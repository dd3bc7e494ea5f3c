# shellcheck shell=bash
# The relay: its configuration, its two processes, and the proof that a
# computer gets through.

RELAY_LAN=198.18.0.1

# relay_config MODE DRIVER DURABILITY VOLUMES LOG_MIB FRAMES_MIB LANES
relay_config() {
    local n
    cat <<TOML
# Written by scripts/lab for the lab "$LAB".
[dataplane]
driver = "$2"
frames_mib = $6
log_mib = $5
directory = "$HUGE"
fallback_directory = "$MEMORY/regions"
segment = "$MEMORY/control.seg"
spin_us = 50

[control]
socket = "$STATE/control.sock"
state = "$STATE/state.toml"

[[port]]
name = "lan"
device = "lan0"
address = "$RELAY_LAN/24"
mtu = 1500

[[port]]
name = "wan"
device = "wan0"
address = "198.19.0.1/24"
mtu = 1500

[[route]]
prefix = "203.0.113.0/24"
via = "198.19.0.10"

[iscsi]
mode = "$1"
portal = "$RELAY_LAN:3260"
$([[ ! -e $SECRETS ]] || echo "secrets = \"$SECRETS\"")

[flush]
threshold_kib = 1024
period_ms = 1000
TOML
    [[ $3 != journal ]] || cat <<TOML

[journal]
path = "$JOURNALS/journal"
size_mib = $((($5 * 3 / 2) > $5 + 16 ? $5 * 3 / 2 : $5 + 16))
TOML
    for ((n = 0; n < $4; n++)); do
        cat <<TOML

[[target]]
name = "$IQN:vol$n"
address = "$STORAGE_PORTAL"
initiators = ["*"]
shared = true
durability = "$3"
lanes = $7
TOML
    done
}

# What the lab must know of a configuration that it did not write, as JSON.
relay_config_facts() {
    # Debian's own Python has tomllib; another one in front of it may not.
    PATH=/usr/bin:$PATH python3 -IS - "$1" <<'PYTHON'
import json, sys, tomllib
try:
    with open(sys.argv[1], "rb") as file:
        config = tomllib.load(file)
except (OSError, tomllib.TOMLDecodeError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
plane, iscsi = config.get("dataplane", {}), config.get("iscsi", {})
print(json.dumps({
    "driver": plane.get("driver", "auto"),
    "segment": plane.get("segment"),
    "directory": plane.get("directory"),
    "fallback_directory": plane.get("fallback_directory"),
    "memory_mib": plane.get("frames_mib", 256) + plane.get("log_mib", 256),
    "journal": config.get("journal", {}).get("path"),
    "socket": config.get("control", {}).get("socket"),
    "mode": iscsi.get("mode", "transparent"),
    "portal": iscsi.get("portal", "198.18.0.1:3260"),
}))
PYTHON
}

# The places that a configuration names: made where they lack, and noted, so
# that `down` removes what was not there before.
relay_places() {
    local directory
    : >"$STATE/made"
    for directory in "$(fact '.directory // ""')" "$(fact '.fallback_directory // ""')" \
        "$(dirname "$(fact '.segment // ""')")" "$(dirname "$(fact '.socket // ""')")" \
        "$(dirname "$(fact '.journal // "/"')")"; do
        [[ -n $directory && ! -d $directory ]] || continue
        mkdir -p "$directory"
        echo "$directory" >>"$STATE/made"
    done
}

relay_places_down() {
    [[ -s $FACTS ]] || return 0
    rm -f "$(fact '.socket // ""')" "$(fact '.segment // ""')"
    while read -r directory; do rm -rf "$directory"; done <"$STATE/made"
}

relay_start() {
    ! process_pid "$1" >/dev/null || die "$1 is already running (pid $(process_pid "$1"))"
    process_start "$1" "$NS_RELAY" "$BIN/sluice-$1" --config "$(fact .config)"
    if ! wait_until 8 "relay_${1}_settled" || ! process_pid "$1" >/dev/null; then
        log_tail "$1"
        process_end "$1" TERM 3
        die "sluice-$1 did not start"
    fi
}

# Settled: ready, or ended for a reason of its own.
relay_dataplane_settled() {
    ! process_pid dataplane || in_ns "$NS_LAN" ping -c 1 -W 0.2 -q "$RELAY_LAN"
}
relay_control_settled() {
    local listening
    listening=$(in_ns "$NS_RELAY" ss -Hlx)
    ! process_pid control || [[ $listening == *" $(fact .socket) "* ]]
}

lab_relay_process() {
    need_lab
    local name=$1
    case ${2:-} in
    start) relay_start "$name" ;;
    stop) process_end "$name" TERM 15 ;;
    kill) process_end "$name" KILL 3 ;;
    *) usage_error "$name start, stop or kill" ;;
    esac
}

# Four secrets, drawn anew for each lab. Secrets are in files and in the
# environment of a client, never among a command's arguments but tgtadm's, which
# has no other way.
SECRETS=$STATE/secrets.toml

chap_secrets() {
    local who
    for who in computer relay relay-wan storage; do
        (umask 077 && openssl rand -hex 12 >"$STATE/secret-$who")
    done
    (umask 077 && : >"$SECRETS")
}
secret() { cat "$STATE/secret-$1"; }

# relay_secrets VOLUMES. tgt takes CHAP's algorithm 7 for SHA-1, so it gets MD5.
relay_secrets() {
    local n
    cat <<TOML
# Written by scripts/lab for the lab "$LAB".
[[computer]]
initiator = "*"
user = "computer"
secret = "$(secret computer)"
relay_user = "relay"
relay_secret = "$(secret relay)"
TOML
    for ((n = 0; n < $1; n++)); do
        cat <<TOML

[[storage]]
target = "$IQN:vol$n"
user = "relay-wan"
secret = "$(secret relay-wan)"
storage_user = "storage"
storage_secret = "$(secret storage)"
algorithms = ["md5"]
TOML
    done
}

# What a client needs, as JSON: null without CHAP.
chap_facts() {
    if [[ ! -e $SECRETS ]]; then
        echo null
        return
    fi
    jq -n --rawfile secret "$STATE/secret-computer" --rawfile relay "$STATE/secret-relay" \
        --arg files "$STATE/secret-" '
        {user: "computer", secret: ($secret | rtrimstr("\n")), relay_user: "relay",
            relay_secret: ($relay | rtrimstr("\n")), secret_file: "\($files)computer",
            relay_secret_file: "\($files)relay"}'
}

# probe PORTAL TARGET: a full login and an INQUIRY from a computer.
probe() {
    local as=()
    [[ ! -e $SECRETS ]] ||
        as=(env LIBISCSI_CHAP_USERNAME=computer "LIBISCSI_CHAP_PASSWORD=$(secret computer)")
    in_ns "$NS_LAN" timeout 4 "${as[@]}" iscsi-inq -i iqn.2004-03.example.lab:probe "iscsi://$1/$2/1"
}

probe_until() {
    local error
    wait_until 10 probe "$@" && return
    error=$(probe "$@" 2>&1 >/dev/null) || true
    die "no login to $2 at $1 from a computer: ${error:-no answer within 4 s}"
}

# probe_all PORTAL TARGET…: eight at a time, far fewer than the sessions that
# a default configuration admits.
probe_all() {
    local portal=$1 target pids=() pid
    shift
    for target in "$@"; do
        probe_until "$portal" "$target" &
        pids+=($!)
        if ((${#pids[@]} == 8)); then
            wait "${pids[0]}"
            pids=("${pids[@]:1}")
        fi
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
}
