//! What the room counts. Every segment that goes no further has a counter.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter by its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Segments handed to the room.
    segments_in,
    /// Segments sent, answers included; one that the port cuts for a computer counts once.
    segments_out,
    /// Times a flow's stack was polled; does not grow with idle flows.
    flow_polls,
    /// Flows opened by a computer.
    accepted,
    /// Flows opened by us.
    connected,
    /// Flows that ended.
    closed,
    /// SYNs taken into the half-open table.
    half_open,
    /// RSTs to segments of no connection.
    resets_out,
    /// Challenge ACKs to a RST or SYN whose number was not exact (RFC 5961).
    challenges_out,
    /// Flows torn down because the peer did not finish its side after ours.
    lingered_out,
    /// To the storage: segments sent, and of them again.
    wan_segments_out,
    wan_segments_resent,
    /// To the storage: retransmission timeouts, and those that the answers showed to be none.
    wan_timeouts,
    wan_timeouts_spurious,
    /// To the storage: probes of the last segment of a flight (RFC 8985 7).
    wan_tail_probes,
    /// To the storage: losses repaired, a round trip's at once.
    wan_recoveries,
    /// To the storage: the path did not carry what its ends allow (RFC 8899).
    wan_black_holes,
    /// To the storage: a router has said that a packet was too big, and was believed, or was
    /// not (RFC 5927).
    wan_too_big,
    wan_too_big_refused,
    /// To the storage: congestion that routers have marked and it told of, a window's at
    /// once (RFC 3168).
    wan_marks_echoed,
    /// From the storage: segments with data that a router has marked.
    wan_marks_received,
    /// From the storage, or in its name: what no sound peer sends, and what came from the past.
    wan_violations,
    /// To the storage: the longest that something was out and nothing was acknowledged, us.
    wan_gap_longest_us,
    /// A flow had to wait because the pool had no frame.
    waits_for_pool,
    /// A segment was not sent because the pool had no frame; it counts as lost on the way.
    lost_no_frame,
    /// Dropped: impossible lengths, flags or addresses.
    drop_malformed,
    /// Dropped: a fragment.
    drop_fragment,
    /// Dropped: a wrong TCP checksum.
    drop_checksum,
    /// Dropped: a packet in a chain of buffers, and no page to gather it in.
    drop_chained,
    /// Dropped: payload beyond the gap of a lost segment, and no frame may be kept for it.
    drop_no_room,
    /// Dropped: a RST for no connection, or not exact.
    drop_reset,
    /// Dropped: beyond the window of our SYN, before any other was given.
    drop_beyond_window,
    /// Dropped: a segment of a half-open connection that does not fit it.
    drop_handshake,
    /// Dropped: the oldest half-open connection, to make room for a new one.
    drop_half_open_oldest,
    /// Dropped: a half-open connection that was not completed in time.
    drop_half_open_expired,
    /// Refused: a completed handshake with all flows in use.
    refuse_flows_max,
    /// Put off: a completed handshake with no pages to lease.
    wait_for_lease,
    /// Dropped: a segment of a connection in TIME-WAIT that needs no answer.
    drop_time_wait,
    /// Dropped: the oldest TIME-WAIT, to make room for a new one.
    drop_time_wait_oldest,
    /// Dropped: a segment of a flow that its owner has aborted.
    drop_aborted,
}
