//! Explicit congestion notification (RFC 3168).

use crate::segment::{Flags, IpEcn};

/// So many windows in a row that all were marked, each smaller than the one before: what
/// marks them is no queue of ours. Without ECN a path loses what it must, and no more.
const IN_ROW_MAX: u8 = 16;

#[derive(Clone, Copy, Debug)]
pub(super) struct Ecn {
    /// The next SYN asks for it.
    pub asks: bool,
    /// One SYN has asked for it.
    asked: bool,
    /// Both sides can: marks are echoed.
    on: bool,
    /// What is sent may be marked, and echoes count.
    capable: bool,
    /// Something that could have been marked was delivered, so the path lets it through.
    proved: bool,
    /// A mark was received: echo it until the peer says that it slowed down (6.1.3).
    echo: bool,
    /// We slowed down: the next new data says so (6.1.2).
    reduced: bool,
    /// One reduction a window: until all up to here is acknowledged.
    until: u64,
    /// Windows in a row with a mark.
    in_row: u8,
}

impl Ecn {
    /// `asks`: a SYN of ours is to ask for it.
    pub const fn new(asks: bool) -> Self {
        Self {
            asks,
            asked: false,
            on: false,
            capable: false,
            proved: false,
            echo: false,
            reduced: false,
            until: 0,
            in_row: 0,
        }
    }

    /// What a SYN of ours adds to its flags.
    pub fn syn_flags(&mut self) -> Flags {
        if !self.asks {
            return Flags::NONE;
        }
        self.asked = true;
        Flags::ECE | Flags::CWR
    }

    /// What a SYN-ACK of ours adds to its flags.
    pub fn syn_ack_flags(&self) -> Flags {
        if self.on { Flags::ECE } else { Flags::NONE }
    }

    /// The peer's SYN asks with both bits, its SYN-ACK agrees with one (6.1.1): with both,
    /// something has sent our own back.
    pub fn on_syn(&mut self, flags: Flags) {
        let is_answer = flags.has(Flags::ACK);
        let agrees = flags.has(Flags::ECE) && flags.has(Flags::CWR) != is_answer;
        // An answer may be to a SYN that asked though a later one did not: then the peer
        // may mark, but we do not ask for marks (6.1.1).
        self.on = agrees && (self.asks || self.asked);
        self.capable = agrees && self.asks;
    }

    /// A segment came in; whether its mark is new and wants an acknowledgement at once.
    pub fn on_segment(&mut self, flags: Flags, ip: IpEcn, has_data: bool) -> bool {
        if !self.on || !has_data {
            return false;
        }
        if flags.has(Flags::CWR) {
            self.echo = false;
        }
        let marked = ip == IpEcn::Congested;
        let is_new = marked && !self.echo;
        self.echo |= marked;
        is_new
    }

    /// Whether an acknowledgement of `una` with these flags is a congestion event.
    pub fn on_ack(&mut self, flags: Flags, una: u64, nxt: u64) -> bool {
        if !self.capable || una <= self.until {
            return false;
        }
        if !flags.has(Flags::ECE) {
            self.in_row = 0;
            return false;
        }
        self.until = nxt;
        self.reduced = true;
        self.in_row += 1;
        self.capable = self.in_row < IN_ROW_MAX;
        true
    }

    /// New data has arrived that was never sent again.
    pub const fn on_delivered(&mut self) {
        self.proved = true;
    }

    /// Something was lost. Before anything has got through it may be what the path does to
    /// packets that can be marked: the connection goes on without.
    pub const fn on_lost(&mut self) {
        self.capable &= self.proved;
    }

    /// What an acknowledgement adds to its flags.
    pub fn ack_flags(&self) -> Flags {
        if self.on && self.echo {
            Flags::ECE
        } else {
            Flags::NONE
        }
    }

    /// What new data adds to its flags, and the field of its IP header; resent data is
    /// never marked as capable (6.1.5).
    pub fn data_flags(&mut self) -> (Flags, IpEcn) {
        // RFC 3168, 6.1.2: who has ever sent what could be marked goes on to say that.
        let flags = if std::mem::take(&mut self.reduced) {
            Flags::CWR
        } else {
            Flags::NONE
        };
        let ip = if self.capable {
            IpEcn::Capable
        } else {
            IpEcn::NotCapable
        };
        (flags, ip)
    }
}
