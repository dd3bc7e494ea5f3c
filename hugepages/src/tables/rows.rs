//! The rows. Times are nanoseconds of `CLOCK_MONOTONIC`, amounts are bytes,
//! counts never go back while the data plane lives.

use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayString;

use super::{Field, Label, Name, ReservationTarget, Row, Table, Why};

macro_rules! row {
    ($(#[$doc:meta])* $name:ident in $table:ident {
        $($(#[$field_doc:meta])* $field:ident: $kind:ty,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl Row for $name {
            const TABLE: Table = Table::$table;
            const WORDS: usize = 0 $(+ <$kind as Field>::WORDS)*;

            fn encode(&self, words: &mut [u64]) {
                $(let (own, words) = words.split_at_mut(<$kind as Field>::WORDS);
                self.$field.store(own);)*
                assert!(words.is_empty(), "a row is as long as its fields");
            }

            fn decode(words: &[u64]) -> Option<Self> {
                $(let (own, words) = words.split_at(<$kind as Field>::WORDS);
                let $field = <$kind as Field>::load(own)?;)*
                assert!(words.is_empty(), "a row is as long as its fields");
                Some(Self { $($field),* })
            }
        }
    };
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $value:literal $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The word that operators and scripts see.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl Field for $name {
            const WORDS: usize = 1;
            fn store(&self, words: &mut [u64]) {
                words[0] = match self { $(Self::$variant => $value,)* };
            }
            fn load(words: &[u64]) -> Option<Self> {
                match words[0] { $($value => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

word!(
    /// A port's link.
    LinkState { Down = 0 "down", Up = 1 "up", }
);
word!(
    /// Reachability of a neighbour (as in RFC 4861 7.3.2, for ARP).
    NeighbourState {
        /// Asked for, not answered yet.
        Incomplete = 0 "incomplete",
        Reachable = 1 "reachable",
        /// Known, not confirmed for a while.
        Stale = 2 "stale",
        /// Did not answer.
        Failed = 3 "failed",
    }
);
word!(
    /// State of a volume towards the storage (A-7, A-9, A-18, C-4).
    VolumeState {
        Connected = 0 "connected",
        Disconnected = 1 "disconnected",
        /// The storage answers slowly: flushing pauses.
        Loaded = 2 "loaded",
        /// No computer is connected; what is cached is being flushed.
        Draining = 3 "draining",
        /// The storage refused a write for good.
        Failed = 4 "failed",
        /// The storage runs out of space: writes are acknowledged when it has them.
        WriteThrough = 5 "write-through",
    }
);
word!(
    /// When a plain write is acknowledged (C-2).
    Durability { Memory = 0 "memory", Journal = 1 "journal", Storage = 2 "storage", }
);
word!(
    /// How it is with the journal.
    JournalState {
        /// None is configured.
        None = 0 "none",
        Good = 1 "good",
        /// Slow, full or broken: what it keeps is being flushed.
        Failing = 2 "failing",
        /// Void; its volumes are acknowledged by the storage until the next start.
        GivenUp = 3 "given-up",
    }
);
word!(
    /// How far a drain has come ([`super::Command::Drain`]).
    Drain {
        /// Nobody drains.
        No = 0 "no",
        Draining = 1 "draining",
        /// What was acknowledged from the cache is at the storage, on stable media.
        Drained = 2 "drained",
    }
);
word!(
    /// Why a volume's flush does not go on.
    HeldUp {
        /// It does, or there is nothing to flush.
        No = 0 "no",
        /// No session to its storage.
        Storage = 1 "storage-not-there",
        /// The storage refused a write for good (C-4).
        Failed = 2 "failed",
        /// A reservation that no session of ours gets past (C-9).
        Reserved = 3 "reserved",
        /// The storage takes no writes.
        Refused = 4 "storage-refuses-writes",
        /// A lost session may still have writes on their way (C-8).
        Fenced = 5 "old-session-not-over",
        /// The configuration names its target no more.
        Unconfigured = 6 "not-configured",
        /// The storage's blocks are of another length than the log's.
        Misfit = 7 "block-length-differs",
        /// At the storage, and the journal does not know yet.
        Journal = 8 "journal",
        /// The storage takes longer to answer than the load limit allows.
        Loaded = 9 "storage-loaded",
    }
);
word!(
    /// What a data plane found when it started.
    StartKind {
        /// No log.
        New = 0 "new",
        /// The one before ended in good order.
        Clean = 1 "clean",
        /// It did not.
        Crash = 2 "after-crash",
        /// The log was lost, and made again from the journal.
        Restored = 3 "from-journal",
    }
);
word!(
    /// What an event is of.
    EventKind {
        /// The state of a volume.
        Volume = 0 "volume",
        /// What holds its flush up.
        HeldUp = 1 "held-up",
        /// When its writes are acknowledged.
        Durability = 2 "durability",
        /// Acknowledged writes that its storage refuses for good (C-4).
        Failed = 3 "failed-writes",
        /// How far a drain of it is.
        Drain = 4 "drain",
        Journal = 5 "journal",
        /// A connection, or a session, wanted buffers and there were none (B-20).
        MemoryShort = 6 "memory-short",
        /// A reservation was made, changed, cancelled.
        Reservation = 7 "reservation",
        /// One could not be: too little is free.
        ReservationFailed = 8 "reservation-failed",
        /// A path has another bandwidth or delay than it had (B-14).
        Path = 9 "path",
        /// The write cache runs short of room (B-16).
        CacheShort = 10 "cache-short",
    }
);
word!(
    /// What bounds the connections of a path, as far as they can tell.
    PathLimit {
        /// Nothing was sent of late.
        Idle = 0 "idle",
        /// Too little is there to send.
        Application = 1 "application",
        /// The buffers: the path itself might carry more.
        Buffers = 2 "buffers",
        /// The path.
        Path = 3 "path",
    }
);
word!(
    /// What memory a region is made of.
    Backing { Hugepages = 0 "hugepages", Tmpfs = 1 "tmpfs", Anonymous = 2 "anonymous", }
);

/// How long things of one kind took; all but the totals are of the last 10 to 20 s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    pub count: u64,
    /// What 50 of 100 of them took at most, and so on; 0 without any.
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
    /// Of the data plane's whole life.
    pub total_count: u64,
    pub total_max_us: u64,
}

impl Field for Latency {
    const WORDS: usize = 8;
    fn store(&self, words: &mut [u64]) {
        words.copy_from_slice(&[
            self.count,
            self.p50_us,
            self.p90_us,
            self.p99_us,
            self.p999_us,
            self.max_us,
            self.total_count,
            self.total_max_us,
        ]);
    }
    fn load(words: &[u64]) -> Option<Self> {
        let &[
            count,
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
            total_count,
            total_max_us,
        ] = words
        else {
            return None;
        };
        Some(Self {
            count,
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
            total_count,
            total_max_us,
        })
    }
}

row!(
    /// A router port.
    Port in Ports {
        name: Label,
        device: Label,
        driver: Label,
        /// Why this driver, and not a better one.
        why: Why,
        mac: [u8; 6],
        address: Ipv4Addr,
        prefix_len: u8,
        /// Largest IP packet in bytes.
        mtu: u16,
        link: LinkState,
        rx_packets: u64,
        rx_bytes: u64,
        /// Lost before the router saw them (no buffer, ring full).
        rx_drops: u64,
        tx_packets: u64,
        tx_bytes: u64,
        tx_drops: u64,
    }
);
row!(
    /// A route of the FIB.
    Route in Routes {
        prefix: Ipv4Addr,
        prefix_len: u8,
        /// Next hop; none for a connected net.
        via: Option<Ipv4Addr>,
        /// Index of the port.
        port: u8,
    }
);
row!(
    /// An entry of the neighbour table.
    Neighbour in Neighbours {
        address: Ipv4Addr,
        mac: [u8; 6],
        port: u8,
        state: NeighbourState,
        /// When it last answered.
        confirmed_ns: u64,
    }
);
row!(
    /// What is measured of the way between an own address and a storage's address and
    /// port (B-12).
    Path in Paths {
        local: Ipv4Addr,
        remote: SocketAddrV4,
        /// Sessions that are up, of a connection each.
        sessions: u32,
        /// Of one connection; 0: not known yet.
        bandwidth_bytes_per_s: u64,
        /// When one had last enough to send to tell.
        bandwidth_at_ns: Option<u64>,
        /// The least that a round trip took of late; 0: not known yet.
        min_rtt_us: u64,
        min_rtt_at_ns: Option<u64>,
        /// What bounds its connections now.
        limit: PathLimit,
        /// What a round trip takes now, our own queue included; 0: not known yet.
        rtt_us: u64,
        /// What was typed in, and goes before what is measured.
        typed_bytes_per_s: Option<u64>,
        typed_rtt_us: Option<u64>,
        /// Times that it was found to be another path than before, and when last.
        changes: u64,
        changed_at_ns: Option<u64>,
        /// Probes sent over it while it was idle, and measurements asked for that have ended.
        probes: u64,
        measured: u64,
        /// Bandwidth x delay x sessions (B-13), of what is typed in or measured.
        recommended_bytes: Option<u64>,
    }
);
row!(
    /// A reservation (B-3). Its buffers are on its own list or in use by connections; while
    /// connections hold more than its size, it has more.
    Reservation in Reservations {
        target: ReservationTarget,
        buffer_id: u16,
        /// What it is to have, and what it has.
        reserved_bytes: u64,
        held_bytes: u64,
        /// Of what it has, in use by connections.
        allocated_bytes: u64,
        automatic: bool,
        sessions: u16,
        connections: u16,
        /// Connections that take from it now.
        flows: u32,
        /// Times that one wanted more than there was.
        refused: u64,
        since_ns: u64,
    }
);
row!(
    /// What a connection to a storage holds of the memory buffers (B-3).
    Allocation in Allocations {
        local: SocketAddrV4,
        remote: SocketAddrV4,
        target: Name,
        /// The reservation that it takes from; 0: the free list.
        buffer_id: u16,
        /// Buffers that it has, and the most that it may have.
        allocated_bytes: u64,
        limit_bytes: u64,
        /// What is in them, not yet acknowledged.
        unacknowledged_bytes: u64,
        /// Times that it wanted more than there was.
        refused: u64,
    }
);
row!(
    /// One session and LUN. Before the first command names a LUN, `lun` is none.
    Session in Sessions {
        target: Name,
        storage: SocketAddrV4,
        /// The 8-byte LUN field as a big-endian number.
        lun: Option<u64>,
        /// Row of the volume in the volume table.
        volume: Option<u16>,
        initiator: Name,
        computer: SocketAddrV4,
        /// Session towards the computer.
        lan_isid: [u8; 6],
        lan_tsih: u16,
        lan_connected: bool,
        /// Session towards the storage.
        wan_isid: [u8; 6],
        wan_tsih: u16,
        wan_connected: bool,
        /// Of the session's volume, not yet flushed.
        dirty_bytes: u64,
        commands: u64,
        since_ns: u64,
    }
);
row!(
    /// One volume; its row's index is its number in the log's directory.
    Volume in Volumes {
        target: Name,
        lun: u64,
        storage: SocketAddrV4,
        state: VolumeState,
        durability: Durability,
        /// Smoothed response time of the storage in microseconds.
        load_us: u64,
        /// What 99 of 100 of the newest requests took at most, in microseconds.
        load_p99_us: u64,
        /// Cached and not yet durable at the storage.
        dirty_bytes: u64,
        /// When the oldest such write was acknowledged; none if there is none.
        oldest_dirty_since_ns: Option<u64>,
        block_len: u32,
        /// Blocks of the volume; 0 while not known.
        blocks: u64,
        /// Records in the log.
        records: u64,
        written_bytes: u64,
        flushed_bytes: u64,
        /// Never sent: newer writes of the same epoch hid it.
        superseded_bytes: u64,
        /// Both smoothed over some two seconds.
        written_bytes_per_s: u64,
        flushed_bytes_per_s: u64,
        /// Epochs from that of the oldest unflushed write to the one being written; 0 if nothing is unflushed.
        epochs_pending: u64,
        /// Until nothing is unflushed, as things go now; none if it does not get less.
        drained_in_ms: Option<u64>,
        /// Until the cache is full, as things go now, all volumes together; none if it does not fill.
        full_in_ms: Option<u64>,
        /// What may still be written before writes are held.
        room_bytes: u64,
        /// Computers' sessions that are connected.
        sessions: u32,
        flush_threshold_bytes: u64,
        /// A flush by threshold ends there: as it is in force, set or not.
        flush_stop_bytes: u64,
        flush_period_ns: u64,
        /// Not written for so long it is flushed; 0: never.
        flush_idle_ns: u64,
        /// Above this response time it is not flushed; none: whatever that is.
        flush_load_limit_us: Option<u64>,
        /// Response time of the storage at rest; 0: not known yet.
        load_at_rest_us: u64,
        /// Acknowledged writes that the storage has refused for good.
        failed_writes: u64,
        /// Another number whenever that changes.
        failed_stamp: u64,
        drain: Drain,
        held_up: HeldUp,
        /// What computers wait for its writes and reads.
        write_latency: Latency,
        read_latency: Latency,
        /// What its flushed writes take at the storage, the way there and back included.
        flush_latency: Latency,
    }
);
row!(
    /// The journal, and what is under way to it.
    Journal in Journals {
        path: Why,
        state: JournalState,
        /// Why it is not good.
        why: Why,
        size_bytes: u64,
        /// Of them, what a replay would read.
        used_bytes: u64,
        /// Synchronous writes of the device, each with all that was asked for meanwhile.
        groups: u64,
        /// Requests that are durable, and those made.
        durable: u64,
        made: u64,
    }
);
row!(
    /// An acknowledged write that the storage has refused for good (C-4).
    FailedWrite in FailedWrites {
        target: Name,
        lun: u64,
        /// The volume's `failed_stamp` when it was listed.
        stamp: u64,
        lba: u64,
        blocks: u64,
        bytes: u64,
        /// Sense key, additional sense code and qualifier.
        sense_key: u8,
        asc: u8,
        ascq: u8,
        /// Its place in the volume's order of arrival.
        sequence: u64,
    }
);
row!(
    /// Something that an operator may want to know of.
    Event in Events {
        /// From 0 at each start of a data plane; none is left out.
        number: u64,
        at_ns: u64,
        kind: EventKind,
        /// The volume that it is of.
        target: Option<Name>,
        lun: u64,
        /// What it was before, and what it is now.
        before: Option<ArrayString<32>>,
        now: ArrayString<32>,
        /// Why, if that is known.
        why: Why,
    }
);
row!(
    /// The memory: pages and frames of the pool, segments of the log.
    Buffers in Buffers {
        backing: Backing,
        /// Why this backing, and not hugepages.
        why: Why,
        /// Undivided 64 KiB pages.
        pages_free: u64,
        pages_leased: u64,
        /// Pages cut into frames.
        pages_divided: u64,
        /// 4 KiB frames of divided pages.
        frames_free: u64,
        /// On the lists of reservations.
        frames_reserved: u64,
        frames_in_use: u64,
        /// What a reservation could have (B-5): free frames and pages, less what packets on
        /// their way need.
        free_bytes: u64,
        log_backing: Backing,
        log_segments: u64,
        log_segments_free: u64,
        log_bytes: u64,
        /// Payload of records that are not flushed.
        log_live_bytes: u64,
    }
);
row!(
    /// One worker.
    Runtime in Runtime {
        /// Of the program.
        version: ArrayString<32>,
        /// `transparent` or `portal`.
        mode: Label,
        core: Option<u16>,
        steps: u64,
        /// Steps that found nothing to do.
        idle_steps: u64,
        sleeps: u64,
        rx_packets: u64,
        tx_packets: u64,
        /// TSC ticks in steps that did something, and in all.
        busy_ticks: u64,
        total_ticks: u64,
        ticks_per_second: u64,
        /// Time asleep or polling in vain, in thousandths of the last second.
        idle_permille: u16,
        start: StartKind,
        /// Records that the start found, and what it took to find and place them all.
        start_records: u64,
        start_us: u64,
        /// Of a start that is not done, how much of the log has been gone through.
        recovering_permille: Option<u16>,
        /// Since when it drains; none if it does not.
        draining_since_ns: Option<u64>,
    }
);
row!(
    /// Name of the counter with the row's index.
    CounterName in CounterNames {
        name: ArrayString<48>,
    }
);
