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

# storage_up CONTROL VOLUMES SIZE_MIB
storage_up() {
    local control=$1 volumes=$2 size_mib=$3 n
    mkdir -p "$IMAGES"
    process_start target "$NS_WAN" tgtd -f -C "$control" --iscsi "portal=$STORAGE_PORTAL"
    process_start target_plain "$NS_WAN" tgtd -f -C "$((control + 1))" --iscsi "portal=$PLAIN_PORTAL"
    for n in 0 1; do
        wait_until 5 tgt "$((control + n))" --mode system --op show ||
            die "tgtd with control number $((control + n)) does not answer"
    done
    for ((n = 0; n < volumes; n++)); do
        storage_target "$control" "$((n + 1))" "vol$n" "$size_mib"
    done
    storage_target "$((control + 1))" 1 plain0 "$size_mib"
}

# storage_target CONTROL TID NAME SIZE_MIB
storage_target() {
    local image=$IMAGES/$3.img
    truncate -s "$4M" "$image"
    tgt "$1" --mode target --op new --tid "$2" --targetname "$IQN:$3"
    tgt "$1" --mode logicalunit --op new --tid "$2" --lun 1 --backing-store "$image"
    # Unlike tgt's default these tell volumes of different tgtd apart.
    tgt "$1" --mode logicalunit --op update --tid "$2" --lun 1 \
        --params "scsi_id=sluice-$3,scsi_sn=$3"
    tgt "$1" --mode target --op bind --tid "$2" --initiator-address ALL
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
