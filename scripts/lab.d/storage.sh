# shellcheck shell=bash
# The storage: two tgtd, since one shows all its targets on all its portals.
# `target` is behind the relay, `plain` is the direct path to compare with.

IQN=iqn.2004-03.example.storage
STORAGE_PORTAL=198.19.0.10:3260
PLAIN_PORTAL=198.19.0.11:3260
IMAGES=$MEMORY/images
TGT_SOCKETS=/run/tgtd

tgt() {
    local control=$1
    shift
    tgtadm -C "$control" --lld iscsi "$@"
}

# Under the host's lock: a pair of control numbers of this lab's own, derived
# from its name; the next pair where a tgtd or another lab has one of them.
tgt_claim_control() {
    local number
    number=$((1000 + $(cksum <<<"$LAB" | cut -d' ' -f1) % 10000 * 2))
    while [[ -e $TGT_SOCKETS/socket.$number || -e $TGT_SOCKETS/socket.$((number + 1)) ]] ||
        grep -qsx "$number" "$LABS"/*/tgt-control; do
        ((number += 2))
    done
    echo "$number" >"$STATE/tgt-control"
}

# storage_up CONTROL VOLUMES PLAIN LUNS SIZE_MIB BLOCK_LEN THIN DIGESTS
storage_up() {
    local control=$1 volumes=$2 plain=$3
    shift 3
    mkdir -p "$IMAGES"
    # What `storage start` needs after a `storage kill`.
    echo "$control $volumes $*" >"$STATE/storage-arguments"
    storage_half target "$control" "$STORAGE_PORTAL" vol "$volumes" "$@"
    storage_half target_plain "$((control + 1))" "$PLAIN_PORTAL" plain "$plain" "$@"
}

# storage_half PROCESS CONTROL PORTAL PREFIX COUNT LUNS SIZE_MIB BLOCK_LEN THIN DIGESTS
storage_half() {
    local process=$1 control=$2 portal=$3 prefix=$4 count=$5 n
    shift 5
    process_start "$process" "$NS_WAN" tgtd -f -C "$control" --iscsi "portal=$portal"
    wait_until 5 tgt "$control" --mode system --op show ||
        die "tgtd with control number $control does not answer"
    for ((n = 0; n < count; n++)); do
        storage_target "$control" "$((n + 1))" "$prefix$n" "$@"
    done
}

# An fsync takes long enough to tell what waits for it from what does not.
storage_disk_up() {
    mkdir -p "$IMAGES"
    disk_up storage_disk "$IMAGES" --record "$RECORD" --latency-us 3000 --capacity-mib 99999999
}

# The storage behind the relay, alone: killed, its images are what it wrote.
lab_storage() {
    need_lab
    local arguments control
    read -ra arguments <"$STATE/storage-arguments"
    control=${arguments[0]}
    case ${1:-} in
    kill)
        process_end target KILL 3
        rm -f "$TGT_SOCKETS/socket.$control" "$TGT_SOCKETS/socket.$control.lock"
        ;;
    start)
        ! process_pid target >/dev/null || die "the storage is already running"
        storage_half target "$control" "$STORAGE_PORTAL" vol "${arguments[@]:1}"
        [[ ! -e $SECRETS ]] || storage_chap_relay "$control" "${arguments[1]}"
        ;;
    *) usage_error "storage start or kill" ;;
    esac
}

# storage_target CONTROL TID NAME LUNS SIZE_MIB BLOCK_LEN THIN DIGESTS
storage_target() {
    local control=$1 tid=$2 name=$3 luns=$4 size_mib=$5 block_len=$6 thin=$7 digests=$8
    local lun image id
    tgt "$control" --mode target --op new --tid "$tid" --targetname "$IQN:$name"
    for ((lun = 1; lun <= luns; lun++)); do
        id=$name
        ((lun == 1)) || id=$name-$lun
        image=$IMAGES/$id.img
        truncate -s "${size_mib}M" "$image"
        tgt "$control" --mode logicalunit --op new --tid "$tid" --lun "$lun" \
            --backing-store "$image" --blocksize "$block_len"
        # Unlike tgt's default these tell volumes of different tgtd apart.
        tgt "$control" --mode logicalunit --op update --tid "$tid" --lun "$lun" \
            --params "scsi_id=sluice-$id,scsi_sn=$id,thin_provisioning=$thin"
    done
    # The relay takes what the storage wants; other initiators seldom have data digests.
    if [[ $digests == on ]]; then
        tgt "$control" --mode target --op update --tid "$tid" --name HeaderDigest --value CRC32C
        [[ $name == plain* ]] ||
            tgt "$control" --mode target --op update --tid "$tid" --name DataDigest --value CRC32C
    fi
    tgt "$control" --mode target --op bind --tid "$tid" --initiator-address ALL
}

# storage_chap CONTROL VOLUMES PLAIN: what the relay must prove, and proves to
# none but the relay; the direct path takes the computers' own account.
storage_chap() {
    local control=$1 volumes=$2 plain=$3 n
    storage_chap_relay "$control" "$volumes"
    tgt "$((control + 1))" --mode account --op new --user computer --password "$(secret computer)"
    for ((n = 1; n <= plain; n++)); do
        tgt "$((control + 1))" --mode account --op bind --tid "$n" --user computer
    done
}

storage_chap_relay() {
    local control=$1 volumes=$2 n
    tgt "$control" --mode account --op new --user relay-wan --password "$(secret relay-wan)"
    tgt "$control" --mode account --op new --user storage --password "$(secret storage)"
    for ((n = 1; n <= volumes; n++)); do
        tgt "$control" --mode account --op bind --tid "$n" --user relay-wan
        tgt "$control" --mode account --op bind --tid "$n" --user storage --outgoing
    done
}

storage_down() {
    local control n
    # tgtd ignores SIGTERM.
    process_end target KILL 3
    process_end target_plain KILL 3
    [[ -s $STATE/tgt-control ]] || return 0
    control=$(<"$STATE/tgt-control")
    for n in 0 1; do
        rm -f "$TGT_SOCKETS/socket.$((control + n))" "$TGT_SOCKETS/socket.$((control + n)).lock"
    done
}
