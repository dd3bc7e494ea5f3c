# shellcheck shell=bash
# What the smoke tests share: a lab named for the test, and words to say what
# is expected. Sourced by a test that has set NAME.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
BIN=${CARGO_TARGET_DIR:-$ROOT/target}/release
export LAB=$NAME-$$
# shellcheck disable=SC2034  # for the tests
IQN=iqn.2004-03.example.storage
# shellcheck disable=SC2034
STORAGE=198.19.0.10:3260
WORK=$(mktemp -d)

lab() { "$ROOT/scripts/lab" "$@"; }
on() { # HOST COMMAND…
    local host=$1
    shift
    ip netns exec "$LAB-$host" "$@"
}
ctl() { on relay "$BIN/sluicectl" --config "$(lab status -j | jq -r .config)" "$@"; }
# load OPTIONS…: from a computer, to vol0.
load() { on lan "$BIN/iscsi-load" --portal "$STORAGE" --target "$IQN:vol0" --span-mib 32 "$@"; }
# load_into_cut OPTIONS…: a load of two seconds whose WAN is cut in the middle, so
# that the relay holds what comes after. (A first login needs the storage.)
load_into_cut() {
    local load
    load --rate 500 --count 1000 --depth 4 --image "$WORK/vol0.img" "$@" >"$WORK/load.log" 2>&1 &
    load=$!
    sleep 0.8
    lab wan cut
    wait "$load" || fail "writes into an outage: $(<"$WORK/load.log")"
    (($(dirty) > 0)) || fail "the relay holds nothing: the cut had no effect"
}
dirty() { ctl show volumes -j | jq 'map(.dirty_bytes) | add'; }
# The storage holds what was acknowledged, and nothing else.
image_holds() {
    ctl flush all --timeout 60 >"$WORK/flush.log" 2>&1 || fail "not drained"
    truncate -s "$(stat -c %s "$(image_of vol0)")" "$WORK/vol0.img"
    cmp "$WORK/vol0.img" "$(image_of vol0)" || fail "the storage's image is not what was acknowledged"
}
image_of() { lab status -j | jq -r --arg name "$IQN:$1" '.targets[] | select(.name == $name).luns[0].image'; }

pass() { echo "ok: $*"; }
fail() {
    echo "FAIL: $*" >&2
    local log
    for log in "$WORK"/*.log /run/sluice-lab/"$LAB"/log/{dataplane,control}.log; do
        [[ ! -s $log ]] || { echo "--- ${log##*/}" && tail -n 20 "$log"; } >&2
    done
    exit 1
}
# expect STATUS WORDS COMMAND…: ends with that status and says those words (a regex).
expect() {
    local status=$1 words=$2 got=0
    shift 2
    "$@" >"$WORK/expect.log" 2>&1 || got=$?
    [[ $got == "$status" ]] || fail "exit code $got, not $status: $*"
    grep -qE -- "$words" "$WORK/expect.log" || fail "no '$words' in what it says: $*"
}
end_test() {
    local pid
    for pid in $(jobs -p); do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    lab down 2>/dev/null || true
    rm -rf "$WORK"
}
trap end_test EXIT
trap 'exit 130' INT TERM HUP
