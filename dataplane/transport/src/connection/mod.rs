//! One connection (RFC 9293), from its SYN to the end of TIME-WAIT.
//!
//! What always holds:
//! * nothing goes out but from [`Connection::poll_transmit`], and what is due without a
//!   segment coming in is at [`Connection::next_deadline`];
//! * once [`Connection::ended`] says why, the connection is over; frames that were lent
//!   come back by [`Connection::next_released`] and [`Connection::next_discarded`];
//! * on the way of data nothing is allocated once the rings have their size, which
//!   follows the limits of [`Config`] and of [`Connection::set_send_limit`].
//!
//! Not for: ports and addresses, initial sequence numbers (RFC 6528: an argument, from
//! the caller's keyed hash).

mod ack;
mod close;
mod config;
mod ecn;
mod emit;
mod input;
mod open;
mod receiver;
mod sender;
mod state;
#[cfg(test)]
mod tests;
mod timers;
mod transmit;

pub use close::refuse;
pub use config::{Config, KeepAlive};
pub use emit::Emit;
pub use state::{Ended, State};

use crate::counters::Counters;
use crate::mtu::TooBig;
use crate::rate::Rate;
use crate::receive::Part;
use crate::segment::Segment;
use crate::seq::{DATA_AT, Seq};
use crate::train::Shown;
use open::Opening;
use receiver::Receiver;
use sender::Sender;
use sluice_proto::Time;
use std::time::Duration;

/// What the connection knows of its path (B-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSample {
    pub bandwidth: Rate,
    pub min_rtt: Option<Duration>,
    pub srtt: Option<Duration>,
    pub rttvar: Duration,
    pub latest_rtt: Option<Duration>,
    pub delivered: u64,
    pub in_flight: u64,
    pub window: u64,
    pub pacing_rate: Rate,
    /// The sender has had too little to send for this to be the path's.
    pub app_limited: bool,
    /// It has had too small a buffer, unless a queue has grown on the path all the same.
    pub buffer_limited: bool,
    /// What short flights over the idle path have shown: the last one, and how many.
    pub train: Option<Shown>,
    pub trains: u64,
}

/// One end of a TCP connection. `S` names a frame lent for sending, `R` one received.
#[derive(Debug)]
pub struct Connection<S, R> {
    config: Config,
    state: State,
    ended: Option<Ended>,
    opening: Opening,
    tx: Sender<S>,
    rx: Receiver<R>,
    ecn: ecn::Ecn,
    timers: timers::Timers,
    /// A reset that is to go out: its number, and whether with an acknowledgement.
    reset: Option<Segment>,
    counters: Counters,
}

impl<S, R> Connection<S, R> {
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why the connection is over, once it is.
    #[must_use]
    pub const fn ended(&self) -> Option<Ended> {
        self.ended
    }

    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes that [`Self::send`] would take.
    #[must_use]
    pub fn send_room(&self) -> u64 {
        if self.can_send() {
            self.tx.buffer.room()
        } else {
            0
        }
    }

    const fn can_send(&self) -> bool {
        self.ended.is_none() && self.tx.fin_at.is_none() && self.state.may_send()
    }

    /// Lends a frame of `len` bytes to be sent.
    ///
    /// # Errors
    /// The frame, if there is no room for it or the stream is closed.
    pub fn send(&mut self, frame: S, len: u32) -> Result<(), S> {
        if !self.can_send() {
            return Err(frame);
        }
        self.tx.buffer.push(frame, len)
    }

    /// The next so many bytes to be lent are a probe of the path: they go out close together,
    /// as fast as the window allows.
    pub fn send_unpaced(&mut self, bytes: u32) {
        self.tx.unpaced_until = self.tx.buffer.end() + u64::from(bytes);
    }

    /// A frame that was lent for sending and is acknowledged.
    pub fn next_released(&mut self) -> Option<S> {
        self.tx.buffer.next_released()
    }

    /// Bytes of what was lent that are not acknowledged.
    #[must_use]
    pub const fn unacknowledged(&self) -> u64 {
        self.tx.buffer.len()
    }

    /// Bytes of what was lent that were never sent.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.tx
            .buffer
            .end()
            .saturating_sub(self.tx.nxt)
            .min(self.tx.buffer.len())
    }

    /// Changes how many bytes may be lent; what is lent stays.
    pub fn set_send_limit(&mut self, bytes: u64) {
        let segments = Config::segments_for(bytes);
        self.tx.buffer.set_limit(bytes, segments);
        self.tx.board.reserve(segments);
    }

    /// Changes how far the window opens; what is promised stays.
    pub const fn set_receive_limit(&mut self, bytes: u64) {
        self.rx.data.set_limit(bytes);
    }

    /// Bytes that can be read.
    #[must_use]
    pub const fn readable(&self) -> u64 {
        self.rx.data.readable()
    }

    /// The next part of the stream.
    pub fn read(&mut self) -> Option<Part<R>> {
        self.rx.data.read()
    }

    /// The peer has closed its side, and all before that has been read.
    #[must_use]
    pub const fn is_read_to_end(&self) -> bool {
        self.rx.finished && self.rx.data.readable() == 0
    }

    /// A received frame that nobody will read, after the end.
    pub fn next_discarded(&mut self) -> Option<R> {
        self.ended?;
        self.rx.data.next_discarded()
    }

    /// Whether nothing is missing before this segment: its payload would not wait for other.
    #[must_use]
    pub fn is_next(&self, segment: &Segment) -> bool {
        let next = self.rx.data.next();
        self.rx.space.offset(next, segment.seq) <= next
    }

    /// SND.NXT and RCV.NXT, for who remembers the connection in TIME-WAIT.
    #[must_use]
    pub fn numbers(&self) -> (Seq, Seq) {
        (
            self.tx.space.wire(self.tx.nxt),
            self.rx.space.wire(self.rx.data.next()),
        )
    }

    #[must_use]
    pub fn sample(&self) -> PathSample {
        let (train, trains) = self.tx.train.shown();
        PathSample {
            bandwidth: self.tx.control.bandwidth(),
            min_rtt: self.tx.control.min_rtt(),
            srtt: self.tx.rtt.srtt(),
            rttvar: self.tx.rtt.rttvar(),
            latest_rtt: self.tx.rtt.latest(),
            delivered: self.tx.rate.delivered(),
            in_flight: self.tx.board.in_flight(),
            window: self.tx.control.window(),
            pacing_rate: self.tx.control.pacing_rate(),
            app_limited: self.tx.rate.is_app_limited(),
            buffer_limited: self.tx.rate.is_buffer_limited(),
            train,
            trains,
        }
    }

    /// A router says that packets of ours are too big: `mss` is what goes through, and
    /// `seq` the number that the packet it quotes had. Only what is outstanding is
    /// believed (RFC 5927, 4.1; RFC 8899, 4.6.1). What is too long of it goes out again at
    /// once; that is no congestion (RFC 4821, 7.5).
    ///
    /// Afterwards call [`Self::poll_transmit`].
    pub fn on_packet_too_big(&mut self, now: Time, seq: Seq, mss: u16) -> TooBig {
        let tx = &mut self.tx;
        let offset = tx.space.offset(tx.una, seq);
        // A SYN is never too big.
        if !(tx.una.max(DATA_AT)..tx.nxt).contains(&offset) {
            return TooBig::Refused;
        }
        let came = tx.mtu.on_too_big(now, mss);
        if came == TooBig::Shrunk {
            tx.on_mss_changed();
            let len = tx.mss();
            // What went before the one that it quotes may have got through.
            tx.board.lose_longer(offset, len);
        }
        came
    }
}
