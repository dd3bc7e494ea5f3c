# shellcheck shell=bash
# Disks in memory behind FUSE, one for the journal that forgets what was not
# synchronized, and fails, on command; one for the storage's images that records what
# it meets. Mounts of this machine's, since the processes of the hosts see those.

RECORD=$STATE/record

# disk_up PROCESS DIRECTORY OPTIONS…
disk_up() {
    local process=$1 directory=$2
    shift 2
    process_start_here "$process" setsid "$BIN/failing-disk" "$directory" "$@"
    if ! wait_until 5 test -e "$directory/control"; then
        log_tail "$process"
        die "no disk is mounted at $directory"
    fi
}

# disk_down PROCESS DIRECTORY
disk_down() {
    ! is_mount "$2" || umount "$2"
    process_end "$1" TERM 3
}

lab_disk() {
    need_lab
    [[ $# -ge 1 ]] || usage_error "disk needs a command"
    is_mount "$JOURNALS" || die "has no failing disk: 'up --journal-disk failing'"
    case $1 in
    status) jq . "$JOURNALS/control" ;;
    *) echo "$*" 2>/dev/null >"$JOURNALS/control" || usage_error "the disk has no command '$*'" ;;
    esac
}
