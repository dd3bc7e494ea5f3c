# shellcheck shell=bash
# A disk for the journal that forgets what was not synchronized, and fails, on
# command: a mount of this machine's, since the relay's process sees those.

disk_up() {
    process_start_here disk setsid "$BIN/failing-disk" "$JOURNALS" "$@"
    if ! wait_until 5 test -e "$JOURNALS/control"; then
        log_tail disk
        die "the failing disk is not mounted"
    fi
}

disk_down() {
    ! is_mount "$JOURNALS" || umount "$JOURNALS"
    process_end disk TERM 3
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
