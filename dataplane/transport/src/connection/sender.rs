//! The sending half's state.

use super::config::Config;
use crate::control::Controller;
use crate::mtu::PathMtu;
use crate::pacing::Pacer;
use crate::rate::Sampler;
use crate::recovery::{Rack, Recovery, Tlp};
use crate::rtt::Rtt;
use crate::scoreboard::Scoreboard;
use crate::send_buffer::SendBuffer;
use crate::seq::{DATA_AT, SYN_AT, Seq, Space};
use crate::train::Train;
use sluice_proto::Time;

/// What a SYN without the option stands for (RFC 9293, 3.7.1).
pub(super) const MSS_DEFAULT: u16 = 536;

/// The timestamps option with its padding.
const TIMESTAMP_LEN: u16 = 12;

#[derive(Debug)]
pub(super) struct Sender<S> {
    pub space: Space,
    /// SND.UNA and SND.NXT.
    pub una: u64,
    pub nxt: u64,
    /// SND.UNA + SND.WND: what the peer takes.
    pub edge: u64,
    /// SND.WL1 and SND.WL2.
    pub window_seq: u64,
    pub window_ack: u64,
    /// The largest window that the peer ever promised (MAX.SND.WND).
    pub window_max: u64,
    pub shift: u8,
    pub sack: bool,
    /// Duplicate acknowledgements in a row, from a peer without SACK.
    pub duplicates: u32,
    /// Added to the clock of timestamps, where they are agreed on.
    pub timestamps: Option<u32>,
    pub buffer: SendBuffer<S>,
    /// Where the FIN stands, once the stream is closed.
    pub fin_at: Option<u64>,
    pub board: Scoreboard,
    pub mtu: PathMtu,
    pub rtt: Rtt,
    pub rack: Rack,
    pub tlp: Tlp,
    pub recovery: Recovery,
    pub rate: Sampler,
    pub train: Train,
    pub control: Controller,
    pub pacer: Pacer,
    /// What is before this goes out as fast as the window allows.
    pub unpaced_until: u64,
    /// The congestion window held something back when this was next.
    pub limited_until: u64,
    /// Since when nothing is in flight.
    pub idle_since: Option<Time>,
}

impl<S> Sender<S> {
    pub fn new(config: &Config, isn: Seq) -> Self {
        let segments = Config::segments_for(config.send_limit);
        let mtu = PathMtu::new(config.mss_max);
        let mss = u64::from(mtu.size());
        Self {
            space: Space::new(isn),
            una: SYN_AT,
            nxt: DATA_AT,
            edge: SYN_AT,
            window_seq: 0,
            window_ack: 0,
            window_max: 0,
            shift: 0,
            sack: false,
            duplicates: 0,
            timestamps: None,
            buffer: SendBuffer::new(DATA_AT, config.send_limit, segments),
            fin_at: None,
            board: Scoreboard::new(segments),
            mtu,
            rtt: Rtt::new(),
            rack: Rack::new(),
            tlp: Tlp::default(),
            recovery: Recovery::new(),
            rate: Sampler::default(),
            train: Train::default(),
            control: Controller::new(config.control, mss, config.seed),
            pacer: Pacer::default(),
            unpaced_until: 0,
            limited_until: 0,
            idle_since: None,
        }
    }

    /// Payload of a full segment now.
    pub fn payload_max(&self) -> u16 {
        self.payload_of(self.mtu.size())
    }

    /// Payload of a segment of `size` as the MSS counts.
    pub fn payload_of(&self, size: u16) -> u16 {
        let options = if self.timestamps.is_some() {
            TIMESTAMP_LEN
        } else {
            0
        };
        size.saturating_sub(options).max(1)
    }

    pub fn mss(&self) -> u64 {
        u64::from(self.payload_max())
    }

    /// What the timestamp clock shows: milliseconds (RFC 7323, 5.4).
    pub fn timestamp(&self, at: Time) -> Option<u32> {
        let offset = self.timestamps?;
        #[expect(clippy::cast_possible_truncation, reason = "the clock wraps")]
        let clock = (at.as_micros() / 1000) as u32;
        Some(clock.wrapping_add(offset))
    }

    /// The FIN has been acknowledged.
    pub fn is_fin_acked(&self) -> bool {
        self.fin_at.is_some_and(|fin| self.una > fin)
    }

    /// Data or a FIN that was never sent.
    pub fn unsent(&self) -> u64 {
        let end = self.fin_at.map_or(self.buffer.end(), |fin| fin + 1);
        end.saturating_sub(self.nxt)
    }

    pub fn on_mss_changed(&mut self) {
        let mss = self.mss();
        self.control.set_mss(mss);
    }
}
