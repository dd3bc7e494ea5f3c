//! An initiator and a target joined by two byte pipes that cut the stream
//! wherever a seed says, with a disk behind the target.

use super::disk::{Disk, READ, WRITE, fill};
use crate::iscsi::chap::Demand;
use crate::iscsi::{
    Command, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName, Offers,
    Residual, TargetConfig, TargetConn, TargetEvent, TaskAttribute,
};
use crate::scsi::ScsiStatus;
use std::collections::BTreeMap;

/// xorshift64*: enough to cut streams.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % bound
    }
}

pub(super) fn initiator_config(offers: Offers) -> InitiatorConfig {
    InitiatorConfig {
        initiator_name: IscsiName::from("iqn.2004-03.example.computer:a").unwrap(),
        target_name: Some(IscsiName::from("iqn.2004-03.example.storage:vol0").unwrap()),
        isid: [0x80, 1, 2, 3, 4, 5],
        offers,
        chap: None,
        max_tasks: 16,
    }
}

pub(super) fn target_config(offers: Offers) -> TargetConfig {
    TargetConfig {
        offers,
        max_tasks: 8,
        max_data_items: 32,
        target_portal_group_tag: 1,
        authenticates: false,
    }
}

/// What the initiator's caller saw of a command.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) data: Vec<u8>,
    pub(super) status: Option<ScsiStatus>,
    pub(super) sense: Vec<u8>,
    pub(super) residual: Residual,
}

pub(super) struct Pair {
    pub(super) initiator: InitiatorConn,
    pub(super) target: TargetConn,
    pub(super) disk: Disk,
    to_target: Vec<u8>,
    to_initiator: Vec<u8>,
    pub(super) random: Random,
    /// Longest cut of the stream.
    pub(super) cut: usize,
    pub(super) outcomes: BTreeMap<u64, Outcome>,
    pub(super) seen: Vec<String>,
    /// Write commands' first byte values, by token.
    pub(super) seeds: BTreeMap<u64, u64>,
    /// Flips bytes in the target's input, at these stream offsets.
    pub(super) flip_at: Option<usize>,
    pub(super) carried: usize,
    /// What the target asks an initiator to prove.
    pub(super) demand: Option<Demand>,
}

impl Pair {
    pub(super) fn new(initiator: Offers, target: Offers, seed: u64, cut: usize) -> Self {
        Self::with(
            InitiatorConn::new(initiator_config(initiator)),
            TargetConn::new(target_config(target)),
            seed,
            cut,
        )
    }

    pub(super) fn with(
        initiator: InitiatorConn,
        target: TargetConn,
        seed: u64,
        cut: usize,
    ) -> Self {
        Self {
            initiator,
            target,
            disk: Disk::new(1 << 22),
            to_target: Vec::new(),
            to_initiator: Vec::new(),
            random: Random::new(seed),
            cut,
            outcomes: BTreeMap::new(),
            seen: Vec::new(),
            seeds: BTreeMap::new(),
            flip_at: None,
            carried: 0,
            demand: None,
        }
    }

    pub(super) fn logged_in(initiator: Offers, target: Offers, seed: u64, cut: usize) -> Self {
        let mut pair = Self::new(initiator, target, seed, cut);
        pair.run();
        assert!(pair.initiator.is_logged_in(), "{:?}", pair.seen);
        assert!(pair.target.is_logged_in(), "{:?}", pair.seen);
        pair
    }

    /// A WRITE of `len` bytes at `at`, made from `seed`.
    pub(super) fn write(&mut self, token: u64, at: u32, len: u32, seed: u64) -> bool {
        self.seeds.insert(token, seed);
        self.submit(token, WRITE, at, len, Direction::Out(len))
    }

    pub(super) fn read(&mut self, token: u64, at: u32, len: u32) -> bool {
        self.submit(token, READ, at, len, Direction::In(len))
    }

    pub(super) fn submit(
        &mut self,
        token: u64,
        op: u8,
        at: u32,
        len: u32,
        data: Direction,
    ) -> bool {
        let mut cdb = [0; 16];
        cdb[0] = op;
        cdb[2..6].copy_from_slice(&at.to_be_bytes());
        cdb[6..10].copy_from_slice(&len.to_be_bytes());
        let command = Command {
            token,
            lun: 1 << 48,
            cdb,
            cdb_rest: None,
            attribute: TaskAttribute::Simple,
            data,
        };
        self.initiator.submit(command).is_ok()
    }

    /// Carries bytes both ways until nothing moves.
    pub(super) fn run(&mut self) {
        let (mut still, mut steps) = (0, 0);
        while still < 8 {
            steps += 1;
            assert!(steps < 100_000, "stuck: {:?}", self.seen);
            let moved = self.step();
            still = if moved { 0 } else { still + 1 };
        }
    }

    pub(super) fn step(&mut self) -> bool {
        let mut moved = false;
        let len = self.random.below(self.cut) + 1;
        let mut out = vec![0; len];
        let seeds = &self.seeds;
        let answered = &self.outcomes;
        let written = self.initiator.transmit(&mut out, |token, offset, slot| {
            let ended = answered.get(&token).is_some_and(|o| o.status.is_some());
            assert!(!ended, "no fetch after the response");
            fill(seeds[&token], offset, slot);
        });
        if let Some(at) = self.flip_at
            && (self.carried..self.carried + written).contains(&at)
        {
            out[at - self.carried] ^= 0x10;
        }
        self.carried += written;
        self.to_target.extend_from_slice(&out[..written]);
        moved |= written > 0;

        let take = self.random.below(self.cut).min(self.to_target.len());
        let input: Vec<u8> = self.to_target[..take].to_vec();
        let used = self.feed_target(&input);
        self.to_target.drain(..used);
        moved |= used > 0;
        moved |= self.disk.work(&mut self.target, &mut self.random);

        let mut out = vec![0; len];
        let disk = &self.disk;
        let written = self.target.transmit(&mut out, |token, offset, slot| {
            disk.fetch(token, offset, slot)
        });
        self.to_initiator.extend_from_slice(&out[..written]);
        moved |= written > 0;
        while let Some(token) = self.target.next_released() {
            self.disk.released(token);
        }

        let take = self.random.below(self.cut).min(self.to_initiator.len());
        let input: Vec<u8> = self.to_initiator[..take].to_vec();
        let used = self.feed_initiator(&input);
        self.to_initiator.drain(..used);
        moved |= used > 0;
        moved || !self.to_target.is_empty() || !self.to_initiator.is_empty()
    }

    fn feed_target(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let (taken, event) = self.target.receive(&input[used..]);
            used += taken;
            match event {
                Some(TargetEvent::Authenticate) => {
                    let demand = self.demand.take().expect("asked once, if at all");
                    self.seen.push("target Authenticate".to_owned());
                    match self.target.authenticate(demand) {
                        Some(TargetEvent::Login) => self.target.accept_login(7),
                        Some(event) => self.seen.push(format!("target {event:?}")),
                        None => {}
                    }
                }
                Some(TargetEvent::Login) => self.target.accept_login(7),
                Some(TargetEvent::SendTargets) => {
                    let address = "198.18.0.1:3260".parse().unwrap();
                    let names: Vec<String> = (0..200)
                        .map(|n| format!("iqn.2004-03.example.storage:vol{n}"))
                        .collect();
                    let targets = names.iter().map(|name| (name.as_str(), address, 1));
                    self.target.send_targets(targets);
                }
                Some(event) => {
                    if !matches!(event, TargetEvent::Data { .. } | TargetEvent::Command(_)) {
                        self.seen.push(format!("target {event:?}"));
                    }
                    self.disk.event(&mut self.target, event);
                }
                None if taken == 0 => return used,
                None => {}
            }
        }
    }

    fn feed_initiator(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let (taken, event) = self.initiator.receive(&input[used..]);
            used += taken;
            match event {
                Some(InitiatorEvent::DataIn {
                    token,
                    offset,
                    bytes,
                }) => {
                    let outcome = self.outcomes.entry(token).or_default();
                    assert_eq!(offset as usize, outcome.data.len(), "in order");
                    outcome.data.extend_from_slice(bytes);
                }
                Some(InitiatorEvent::Response {
                    token,
                    status,
                    residual,
                    ..
                }) => {
                    let sense = self.initiator.sense().to_vec();
                    let outcome = self.outcomes.entry(token).or_default();
                    assert_eq!(outcome.status, None, "one response");
                    outcome.status = Some(status);
                    outcome.sense = sense;
                    outcome.residual = residual;
                }
                Some(event) => self.seen.push(format!("initiator {event:?}")),
                None if taken == 0 => return used,
                None => {}
            }
        }
    }
}
