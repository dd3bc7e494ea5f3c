# shellcheck shell=bash
# What a lab takes from the machine and gives back: its directories, hugepages,
# and the mounts that the first lab makes and the last one removes.
# shellcheck disable=SC2034,SC2153  # names shared by the parts

LABS=/run/sluice-lab                   # all labs of this machine
STATE=$LABS/$LAB                       # this lab: pids, logs, configuration
FACTS=$STATE/lab.json                  # what `up` decided; `status` and `down` read it
MEMORY=/dev/shm/sluice-lab-$LAB        # images, control segment, fallback regions
HUGETLB=/dev/hugepages
HUGE=$HUGETLB/sluice-lab-$LAB          # regions on hugetlbfs
JOURNALS=/var/tmp/sluice-lab-$LAB      # the journal, on a disk
NR_HUGEPAGES=/proc/sys/vm/nr_hugepages
HUGEPAGE_MIB=2

need_root() { [[ $EUID -eq 0 ]] || die "network namespaces need root: run it as root"; }

need_tools() {
    local tool missing=()
    for tool in ip nft ethtool jq sysctl ping ss tgtd tgtadm iscsi-inq flock; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [[ ${#missing[@]} -eq 0 ]] || die "missing: ${missing[*]}; run scripts/setup"
}

# Commands for a lab that must be there.
need_lab() {
    need_root
    [[ -d $STATE ]] || die "is not up; 'LAB=$LAB scripts/lab up' stands it up"
    [[ -s $FACTS ]] || die "is only half up or half down; 'LAB=$LAB scripts/lab down' cleans up"
}

fact() { jq -r "$1" "$FACTS"; }

# Runs a function while no other lab changes what all labs share. The lock is
# on /run itself: nothing to leave behind.
with_host_lock() {
    local lock status=0
    exec {lock}</run
    flock -w 30 "$lock" || die "another lab has held the lock on /run for 30 s"
    "$@" || status=$?
    exec {lock}<&-
    return "$status"
}

is_mount() { mountpoint -q "$1"; }

# Mounts that `ip netns` and hugetlbfs need are noted where all labs see them,
# so that the last lab removes those, and only those, that a lab made.
host_take() {
    local pages=$1 before after free_mib
    mkdir -p "$LABS"
    [[ -d $TGT_SOCKETS ]] || : >"$LABS/.made-tgt-directory"
    is_mount /run/netns || : >"$LABS/.made-netns-mount"
    if ! is_mount "$HUGETLB"; then
        [[ -d $HUGETLB ]] || { mkdir "$HUGETLB" && : >"$LABS/.made-hugetlb-directory"; }
        if mount -t hugetlbfs -o pagesize=${HUGEPAGE_MIB}M,mode=0700 none "$HUGETLB" 2>/dev/null; then
            : >"$LABS/.made-hugetlb-mount"
        else
            say "cannot mount hugetlbfs at $HUGETLB: regions will be on tmpfs"
        fi
    fi
    before=$(<$NR_HUGEPAGES)
    free_mib=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1024))
    if ((free_mib < pages * HUGEPAGE_MIB + 512)); then
        say "$free_mib MiB of memory left: no hugepages taken, regions will be on tmpfs"
    else
        echo $((before + pages)) >$NR_HUGEPAGES
    fi
    after=$(<$NR_HUGEPAGES)
    echo $((after - before)) >"$STATE/hugepages"
    ((after - before >= pages)) ||
        say "$((after - before)) of $pages hugepages to be had: regions may be on tmpfs"
    ! is_mount "$HUGETLB" || mkdir -p "$HUGE"
    mkdir -p "$MEMORY"
}

host_give_back() {
    local taken=0 mark
    rm -rf "$HUGE" "$MEMORY"
    [[ ! -s $STATE/hugepages ]] || taken=$(<"$STATE/hugepages")
    if ((taken > 0)); then
        local now
        now=$(<$NR_HUGEPAGES)
        echo $((now > taken ? now - taken : 0)) >$NR_HUGEPAGES
    fi
    rm -rf "$STATE"
    for mark in "$LABS"/*; do
        [[ ! -e $mark ]] || return 0 # another lab is there
    done
    if [[ -e $LABS/.made-hugetlb-mount ]]; then umount "$HUGETLB" 2>/dev/null || true; fi
    if [[ -e $LABS/.made-hugetlb-directory ]]; then rmdir "$HUGETLB" 2>/dev/null || true; fi
    if [[ -e $LABS/.made-tgt-directory ]]; then rmdir "$TGT_SOCKETS" 2>/dev/null || true; fi
    # Busy, and left alone, while any other namespace has a name.
    if [[ -e $LABS/.made-netns-mount && -z $(ls -A /run/netns 2>/dev/null) ]]; then
        umount /run/netns 2>/dev/null || true
    fi
    rm -rf "$LABS"
}
