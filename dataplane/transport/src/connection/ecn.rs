//! Explicit congestion notification (RFC 3168).

use crate::segment::{Flags, IpEcn};

#[derive(Clone, Copy, Debug)]
pub(super) struct Ecn {
    pub on: bool,
    /// A mark was received: echo it until the peer says that it slowed down (6.1.3).
    echo: bool,
    /// We slowed down: the next new data says so (6.1.2).
    reduced: bool,
    /// One reduction a window: until all up to here is acknowledged.
    until: u64,
}

impl Ecn {
    /// `on`: it is asked for, until a handshake says otherwise.
    pub const fn new(on: bool) -> Self {
        Self {
            on,
            echo: false,
            reduced: false,
            until: 0,
        }
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
        if !self.on || !flags.has(Flags::ECE) || flags.has(Flags::SYN) || una <= self.until {
            return false;
        }
        self.until = nxt;
        self.reduced = true;
        true
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
        if !self.on {
            return (Flags::NONE, IpEcn::NotCapable);
        }
        let flags = if std::mem::take(&mut self.reduced) {
            Flags::CWR
        } else {
            Flags::NONE
        };
        (flags, IpEcn::Capable)
    }
}
