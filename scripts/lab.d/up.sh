# shellcheck shell=bash
# Up and down as wholes.
# shellcheck disable=SC2153  # names shared by the parts

need_number() {
    [[ $2 =~ ^[0-9]+(\.[0-9]+)?$ ]] || usage_error "$1 needs a number, not '$2'"
}
need_count() {
    [[ $2 =~ ^[0-9]{1,8}$ && $2 -ge $3 ]] || usage_error "$1 needs a whole number from $3 on, not '$2'"
}
need_word() {
    local option=$1 value=$2
    shift 2
    [[ " $* " == *" $value "* ]] || usage_error "$option is one of: $*; not '$value'"
}

lab_up() {
    local rtt_ms=40 rate_mbit=100 loss=0 seed=1 volumes=1 size_mib=1024
    local plain=1 luns=1 block_len=512 thin=0 digests=off chap=off
    local lanes=1 mode='' driver='' durability='' log_mib='' config='' journal_disk=plain storage_disk=plain
    while [[ $# -gt 0 ]]; do
        local option=$1
        [[ $# -ge 2 ]] || usage_error "$option needs a value"
        case $option in
        --rtt-ms) need_number "$1" "$2" && rtt_ms=$2 ;;
        --rate-mbit) need_number "$1" "$2" && rate_mbit=$2 ;;
        --loss) need_number "$1" "$2" && loss=$2 ;;
        --seed) need_count "$1" "$2" 0 && seed=$2 ;;
        --mode) need_word "$1" "$2" transparent portal && mode=$2 ;;
        --driver) need_word "$1" "$2" auto af_xdp af_packet && driver=$2 ;;
        --durability) need_word "$1" "$2" memory journal storage && durability=$2 ;;
        --volumes) need_count "$1" "$2" 1 && volumes=$2 ;;
        --size-mib) need_count "$1" "$2" 1 && size_mib=$2 ;;
        --plain) need_count "$1" "$2" 1 && plain=$2 ;;
        --lanes) need_count "$1" "$2" 1 && lanes=$2 ;;
        --luns) need_count "$1" "$2" 1 && luns=$2 ;;
        --block-len) need_word "$1" "$2" 512 1024 2048 4096 && block_len=$2 ;;
        --provisioning) need_word "$1" "$2" thick thin && thin=$([[ $2 == thick ]] && echo 0 || echo 1) ;;
        --digests) need_word "$1" "$2" on off && digests=$2 ;;
        --chap) need_word "$1" "$2" on off && chap=$2 ;;
        --journal-disk) need_word "$1" "$2" plain failing && journal_disk=$2 ;;
        --storage-disk) need_word "$1" "$2" plain recording && storage_disk=$2 ;;
        --log-mib) need_count "$1" "$2" 1 && log_mib=$2 ;;
        --config) config=$2 ;;
        *) usage_error "up has no option '$option'" ;;
        esac
        shift 2
    done
    if [[ -n $config ]]; then
        [[ -z $mode$driver$durability$log_mib && $chap == off && $lanes == 1 ]] ||
            usage_error "--chap, --lanes, --mode, --driver, --durability and --log-mib are what --config FILE says"
        [[ -r $config ]] || die "cannot read the configuration $config"
        config=$(realpath "$config")
    fi
    [[ $journal_disk == plain || $durability == journal ]] ||
        usage_error "--journal-disk failing is for --durability journal"
    need_root
    need_tools
    need_binaries
    mkdir -p "$LABS"
    mkdir "$STATE" 2>/dev/null || die "is already up (or half down); 'LAB=$LAB scripts/lab down' ends it"
    chmod 700 "$STATE"
    trap up_failed EXIT
    trap 'exit 130' INT TERM HUP
    up_parts
    trap - EXIT INT TERM HUP
    say "up: $(fact '"\(.mode) mode, \(.targets | length) targets, \(.wan.rtt_ms) ms, \(.wan.rate_mbit) Mbit/s"')"
}

need_binaries() {
    local binary
    for binary in sluice-dataplane sluice-control sluicectl wan-emulator failing-disk; do
        [[ ! -x $BIN/$binary ]] || continue
        say "$binary is not built: cargo build --release"
        (cd "$ROOT" && cargo build --release) || die "the build failed"
        break
    done
    for binary in sluice-dataplane sluice-control sluicectl wan-emulator failing-disk; do
        [[ -x $BIN/$binary ]] || die "the build made no $BIN/$binary"
    done
}

# Uses the variables of lab_up.
# shellcheck disable=SC2154
up_parts() {
    local facts namespace control address names
    for namespace in "${NAMESPACES[@]}"; do
        ! namespace_exists "$namespace" ||
            die "a namespace $namespace is there already; 'LAB=$LAB scripts/lab down' removes it"
    done
    if [[ $chap == on ]]; then
        chap_secrets
        relay_secrets "$volumes" >"$SECRETS"
    fi
    if [[ -z $config ]]; then
        config=$STATE/sluice.toml
        # A journal is written once when it is made: a small one, for an `up` in time.
        [[ $durability != journal ]] || log_mib=${log_mib:-64}
        relay_config "${mode:-transparent}" "${driver:-auto}" "${durability:-memory}" \
            "$volumes" "${log_mib:-256}" 256 "$lanes" >"$config"
    fi
    "$BIN/sluicectl" config check "$config" >/dev/null || die "the configuration is refused"
    facts=$(relay_config_facts "$config") || die "cannot use the configuration"
    # Two pages for the segment of each region that is not a whole page.
    with_host_lock host_take "$(($(jq .memory_mib <<<"$facts") / HUGEPAGE_MIB + 2))"
    net_up "$(jq -r .driver <<<"$facts")"
    with_host_lock tgt_claim_control
    control=$(<"$STATE/tgt-control")
    jq -n --arg lab "$LAB" --argjson facts "$facts" --arg config "$config" --arg logs "$STATE/log" \
        --arg iqn "$IQN" --arg storage "$STORAGE_PORTAL" --arg plain "$PLAIN_PORTAL" \
        --arg images "$IMAGES" --argjson volumes "$volumes" --argjson size_mib "$size_mib" \
        --argjson plains "$plain" --argjson luns "$luns" --argjson block_len "$block_len" \
        --argjson control "$control" --argjson rtt_ms "$rtt_ms" --argjson rate_mbit "$rate_mbit" \
        --argjson loss_pct "$loss" --argjson chap "$(chap_facts)" \
        --arg record "$([[ $storage_disk == plain ]] || echo "$RECORD")" '
        def target($address; $name): {address: $address, name: "\($iqn):\($name)",
            luns: [range(1; $luns + 1) | {lun: ., block_len: $block_len, size_bytes: ($size_mib * 1048576),
                image: "\($images)/\($name)\(if . == 1 then "" else "-\(.)" end).img"}]};
        {lab: $lab} + $facts + {config: $config, chap: $chap, logs: $logs, tgt_control: $control,
            record: (if $record == "" then null else $record end),
            namespaces: {lan: "\($lab)-lan", relay: "\($lab)-relay", wan: "\($lab)-wan",
                emulator: "\($lab)-emu"},
            targets: ([range($volumes) | target($storage; "vol\(.)")] + [range($plains) | target($plain; "plain\(.)")]),
            wan: {rtt_ms: $rtt_ms, rate_mbit: $rate_mbit, loss_pct: $loss_pct, cut: false}}
        ' >"$FACTS"
    relay_places
    [[ $journal_disk == plain ]] || disk_up disk "$JOURNALS"
    [[ $storage_disk == plain ]] || storage_disk_up
    wan_up --rtt-ms "$rtt_ms" --rate-mbit "$rate_mbit" --loss "$loss" --seed "$seed"
    storage_up "$control" "$volumes" "$plain" "$luns" "$size_mib" "$block_len" "$thin" "$digests"
    [[ $chap == off ]] || storage_chap "$control" "$volumes" "$plain"
    relay_start dataplane
    relay_start control
    address=$STORAGE_PORTAL
    [[ $(fact .mode) != portal ]] || address=$(fact .portal)
    mapfile -t names < <(fact ".targets[].name | select(startswith(\"$IQN:plain\") | not)")
    probe_all "$address" "${names[@]}"
    probe_until "$PLAIN_PORTAL" "$IQN:plain0"
}

up_failed() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    ((status != 0)) || status=1
    log_tail dataplane
    log_tail control
    log_tail emulator 5
    log_tail target 5
    if remove_all; then
        say "not up; nothing is left behind"
    else
        say "not up, and not all could be removed"
    fi
    exit "$status"
}

lab_down() {
    [[ $# -eq 0 ]] || usage_error "down takes no options"
    need_root
    local namespace there=0
    [[ ! -d $STATE ]] || there=1
    for namespace in "${NAMESPACES[@]}"; do
        ! namespace_exists "$namespace" || there=1
    done
    if ((there == 0)); then
        say "is not up: nothing to do"
        return 0
    fi
    remove_all
}

# Every step, whatever became of the one before.
remove_all() {
    local step failed=0 pids
    mapfile -t pids < <(process_pids)
    for step in "process_end control TERM 3" "process_end dataplane TERM 3" \
        "disk_down disk $JOURNALS" \
        wan_down storage_down "disk_down storage_disk $IMAGES" net_down relay_places_down "with_host_lock host_give_back"; do
        # shellcheck disable=SC2086  # a function and its arguments
        (set -e && $step) || failed=1
    done
    process_wait_reaped "${pids[@]}"
    return "$failed"
}
