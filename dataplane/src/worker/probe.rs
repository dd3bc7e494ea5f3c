//! What a nexus asks the storage after each login, before anything else goes
//! out: its LUNs, and each one's capacity, caching mode and longest transfer.
//!
//! Not for: who holds a volume, which is asked again as often as it may have
//! changed ([`super::inquiry`]).

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::Direction;
use sluice_proto::scsi::{Capacity, ScsiStatus, Sense, SenseKey, cdb, mode::ModeSense, sense, vpd};

use super::nexus::TARGET_LUNS_MAX;
use super::relay::{Net, Relay};
use super::staging::StagePage;
use super::task::{NexusKey, ProbeStep, WanKind};
use super::volume::Geometry;

/// Unit attentions and BUSYs that one question puts up with.
const PROBE_TRIES_MAX: u32 = 8;
/// Bytes that a question's answer may have.
const PROBE_LEN: u32 = 512;
/// A Block Limits page, whole.
const BLOCK_LIMITS_LEN: u16 = 64;

impl Relay {
    /// Asks the question that the nexus' probe stands at; the caller has logged in.
    /// Without room in the storage's window, or a page, the sweep asks again.
    pub(super) fn ask(&mut self, now: Time, key: NexusKey) {
        let nexus = &self.nexuses[key.0];
        let probe = &nexus.probe;
        let Some(step) = probe.step else { return };
        let lun = probe.luns.get(probe.at).copied().unwrap_or(0);
        if probe.asked || nexus.window() == 0 || self.wan_tasks.len() == self.wan_tasks.capacity() {
            return;
        }
        let Some(page) = self.staging.take() else {
            return;
        };
        self.nexuses[key.0].probe.asked = true;
        let doubts = self.doubts_of(key, lun);
        let cdb = match step {
            ProbeStep::ReportLuns => cdb::report_luns(PROBE_LEN),
            ProbeStep::Capacity16 => cdb::read_capacity_16(32),
            ProbeStep::Capacity10 => cdb::read_capacity_10(),
            ProbeStep::CachingMode => ModeSense::caching_page_cdb(192),
            ProbeStep::BlockLimits => vpd::block_limits_cdb(BLOCK_LIMITS_LEN),
        };
        let len = match step {
            ProbeStep::ReportLuns => PROBE_LEN,
            ProbeStep::Capacity16 => 32,
            ProbeStep::Capacity10 => 8,
            ProbeStep::CachingMode => 192,
            ProbeStep::BlockLimits => u32::from(BLOCK_LIMITS_LEN),
        };
        self.submit(
            now,
            key,
            WanKind::Probe {
                step,
                page,
                lun,
                doubts,
                received: 0,
            },
            lun,
            cdb,
            Direction::In(len),
        );
    }

    /// An answer after login: on to the next question, and at the end to readiness.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, the facts of one answer"
    )]
    pub(super) fn probe_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: NexusKey,
        step: ProbeStep,
        page: StagePage,
        (lun, doubts): (u64, u32),
        received: u32,
        status: ScsiStatus,
        sense: &[u8],
    ) {
        let mut bytes = [0; PROBE_LEN as usize];
        let len = received as usize;
        bytes[..len].copy_from_slice(&self.staging.bytes(net.pool, page)[..len]);
        self.staging.give(page);
        self.nexuses[key.0].probe.asked = false;
        let data = &bytes[..len];
        let attention = status == ScsiStatus::CHECK_CONDITION
            && sense::parse(sense)
                .is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION);
        let busy = matches!(status, ScsiStatus::BUSY | ScsiStatus::TASK_SET_FULL);
        // Asked before a command that may have changed what it says (C-2, C-4).
        let outdated = step != ProbeStep::ReportLuns && self.doubts_of(key, lun) != doubts;
        if (attention || busy || outdated) && self.nexuses[key.0].probe.tries < PROBE_TRIES_MAX {
            self.nexuses[key.0].probe.tries += 1;
            return self.ask(now, key);
        }
        let good = status == ScsiStatus::GOOD && !outdated;
        self.nexuses[key.0].probe.tries = 0;
        let next = match step {
            ProbeStep::ReportLuns => {
                let probe = &mut self.nexuses[key.0].probe;
                probe.luns = if good {
                    cdb::luns(data).take(TARGET_LUNS_MAX).collect()
                } else {
                    ArrayVec::new()
                };
                if probe.luns.is_empty() {
                    probe.luns.push(0);
                }
                Some(ProbeStep::Capacity16)
            }
            ProbeStep::Capacity16 | ProbeStep::Capacity10 => {
                let capacity = match step {
                    ProbeStep::Capacity16 => Capacity::parse_16(data),
                    _ => Capacity::parse_10(data),
                };
                match capacity.ok().filter(|_| good) {
                    Some(capacity) => {
                        let geometry = Geometry {
                            block_len: capacity.block_len,
                            blocks: capacity.blocks,
                        };
                        self.learn_volume(now, key, lun, geometry);
                        Some(ProbeStep::CachingMode)
                    }
                    None if step == ProbeStep::Capacity16 => Some(ProbeStep::Capacity10),
                    // Not a disk (a controller LUN): its commands pass, nothing is cached.
                    None => self.next_lun(key),
                }
            }
            ProbeStep::CachingMode => {
                let mode =
                    ModeSense::from_cdb(&ModeSense::caching_page_cdb(192)).expect("our own CDB");
                let state = good.then(|| mode.parse(data)).flatten();
                let target = self.nexuses[key.0].target;
                if let Some(volume) = self.find_volume(target, lun) {
                    let volume = self.volume_mut(volume);
                    // Unknown counts as a volatile cache: a needless SYNCHRONIZE CACHE loses nothing.
                    volume.storage_wce = state.and_then(|state| state.wce).unwrap_or(true);
                    if state.is_some_and(|state| state.write_protected) {
                        volume.refusal = Some(Sense::WRITE_PROTECTED.fixed());
                    }
                }
                Some(ProbeStep::BlockLimits)
            }
            ProbeStep::BlockLimits => {
                let blocks_max = good.then(|| vpd::transfer_blocks_max(data)).flatten();
                let target = self.nexuses[key.0].target;
                if let Some(volume) = self.find_volume(target, lun) {
                    let volume = self.volume_mut(volume);
                    let bytes_max = blocks_max.map(|max| max.saturating_mul(volume.block_len()));
                    volume.transfer_bytes_max = bytes_max.unwrap_or(u32::MAX);
                }
                self.next_lun(key)
            }
        };
        self.nexuses[key.0].probe.step = next;
        if next.is_none() && std::mem::take(&mut self.nexuses[key.0].probe.again) {
            self.nexuses[key.0].probe.step = Some(ProbeStep::ReportLuns);
            self.nexuses[key.0].probe.at = 0;
        }
        if self.nexuses[key.0].probe.step.is_some() {
            self.ask(now, key);
        } else {
            self.wan_ready(now, key);
        }
    }

    /// How often the unit has been in doubt; one that is not known yet never was.
    fn doubts_of(&self, key: NexusKey, lun: u64) -> u32 {
        let volume = self.find_volume(self.nexuses[key.0].target, lun);
        volume.map_or(0, |volume| self.volume(volume).doubts)
    }

    fn next_lun(&mut self, key: NexusKey) -> Option<ProbeStep> {
        let probe = &mut self.nexuses[key.0].probe;
        probe.at += 1;
        (probe.at < probe.luns.len()).then_some(ProbeStep::Capacity16)
    }
}
