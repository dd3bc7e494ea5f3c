//! Counters of a port: every frame that does not arrive, and every one that
//! does not leave, has a name here.
//!
//! The port's owner adds to them once a burst and copies them out; nobody else
//! writes them.

/// What a port has done since it was opened. Frames and bytes count packets
/// with their link header, without preamble and FCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Received frames longer than the buffer that the port keeps armed: dropped.
    pub rx_truncated: u64,
    /// Received frames dropped for want of a free buffer.
    pub rx_no_buffer: u64,
    /// Calls of `rx` that could not lend the kernel as many buffers as it should have.
    pub fill_starved: u64,
    /// Received frames whose `virtio_net_hdr` contradicts the frame: dropped.
    pub rx_bad_header: u64,
    /// Descriptors from the kernel that name no buffer lent to it, or bytes outside of it: dropped.
    pub rx_bad_descriptor: u64,
    /// Frames that the kernel dropped in front of the port (socket queue or rings full).
    pub rx_kernel_dropped: u64,
    /// Calls of `tx` that left frames in the burst, because the port was full.
    pub tx_full: u64,
    /// Outgoing frames that the kernel refused for their content: dropped.
    pub tx_refused: u64,
    /// Outgoing frames beyond the port's MTU, or of more buffers than a packet may have: dropped.
    pub tx_too_long: u64,
    /// Outgoing frames shorter than a link header: dropped.
    pub tx_runt: u64,
    /// Outgoing frames whose checksum mark points outside of the frame: dropped.
    pub tx_bad_checksum_mark: u64,
    /// Outgoing frames that had to be copied into a new buffer, and there was none: dropped.
    pub tx_no_buffer: u64,
    /// Outgoing frames while the link was down: dropped.
    pub tx_link_down: u64,
    /// Outgoing frames larger than the MTU that wanted cutting, on a port that cannot cut: dropped.
    pub gso_unsupported: u64,
    /// Times that the link was found down.
    pub link_down: u64,
    /// Ring indexes from the kernel that cannot be: the ring was left alone.
    pub ring_fault: u64,
    /// System calls that failed for a reason that has no counter of its own.
    pub syscall_errors: u64,
}

impl PortStats {
    /// Frames lost before the worker saw them.
    pub const fn rx_drops(&self) -> u64 {
        self.rx_truncated
            + self.rx_no_buffer
            + self.rx_bad_header
            + self.rx_bad_descriptor
            + self.rx_kernel_dropped
    }

    /// Frames the worker sent that did not leave.
    pub const fn tx_drops(&self) -> u64 {
        self.tx_refused
            + self.tx_too_long
            + self.tx_runt
            + self.tx_bad_checksum_mark
            + self.tx_no_buffer
            + self.tx_link_down
            + self.gso_unsupported
    }

    /// Name and value of every counter, for tables and metrics.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("rx_frames", self.rx_frames),
            ("rx_bytes", self.rx_bytes),
            ("tx_frames", self.tx_frames),
            ("tx_bytes", self.tx_bytes),
            ("rx_truncated", self.rx_truncated),
            ("rx_no_buffer", self.rx_no_buffer),
            ("fill_starved", self.fill_starved),
            ("rx_bad_header", self.rx_bad_header),
            ("rx_bad_descriptor", self.rx_bad_descriptor),
            ("rx_kernel_dropped", self.rx_kernel_dropped),
            ("tx_full", self.tx_full),
            ("tx_refused", self.tx_refused),
            ("tx_too_long", self.tx_too_long),
            ("tx_runt", self.tx_runt),
            ("tx_bad_checksum_mark", self.tx_bad_checksum_mark),
            ("tx_no_buffer", self.tx_no_buffer),
            ("tx_link_down", self.tx_link_down),
            ("gso_unsupported", self.gso_unsupported),
            ("link_down", self.link_down),
            ("ring_fault", self.ring_fault),
            ("syscall_errors", self.syscall_errors),
        ]
        .into_iter()
    }
}
