//! Who holds the volume (C-9; SPC-4 5.12).
//!
//! The storage judges every command that reaches it. What the relay answers by
//! itself it must judge as the storage would, so it asks who holds the volume:
//! when a nexus logs in, when a unit attention says that it changed, and after
//! a command of a computer that may have changed it. What always holds:
//!
//! * no write is acknowledged, and no read answered, from the cache alone for a
//!   nexus for which the storage was not asked since then ([`Standing::Unread`]);
//!   but an outage leaves what was known before it, or it would not be bridged;
//! * a nexus that may not write, or of which it is not certain, has its writes
//!   passed to the storage on its own nexus, and its reads asked of the storage:
//!   to be in doubt costs time, never safety;
//! * the flush goes by a nexus that may write, and moves to another only when
//!   nothing of it is under way (C-8).
//!
//! A persistent reservation is asked for. One by RESERVE (SPC-2) cannot be: it is
//! known from the commands that passed, or from a conflict that nothing else explains.

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_hugepages::log::VolumeFlags;
use sluice_proto::Time;
use sluice_proto::scsi::reservation::{self, Change, Registration};
use sluice_proto::scsi::{Access, ScsiStatus, Sense, SenseKey, sense};

use super::holding::{Deed, Legacy, Standing};
use super::relay::{Net, Relay};
use super::task::{NexusKey, PASS_BYTES_MAX, PassTask, Task, TaskKey, VolumeKey, WanKind, Work};

/// How long a login keeps back what its computer writes, if the storage does not
/// say who holds the volume: several round trips of a long path, with a loss.
const ENTRY_MAX: Duration = Duration::from_secs(2);
/// How a RESERVE ends that a reset is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Release {
    NotNeeded,
    /// A RELEASE is on its way.
    Sent,
    /// By a reset at the storage.
    ByReset,
}

impl Relay {
    /// The next place in the sequence of questions, logins and doubts.
    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Whether the nexus may do this without the storage being asked.
    pub(super) fn standing(&self, key: VolumeKey, nexus: NexusKey, deed: Deed) -> Standing {
        let holding = &self.volume(key).holding;
        if holding.read < holding.doubted.max(self.nexuses[nexus.0].entered) {
            return Standing::Unread;
        }
        holding.standing(nexus, deed)
    }

    /// The storage is to judge this command: the cache may not take it. While
    /// the storage is being asked a write is taken up, and waits to be committed.
    pub(super) fn is_for_storage(
        &mut self,
        volume: Option<VolumeKey>,
        nexus: NexusKey,
        access: Access,
        ordered: bool,
        len: u32,
    ) -> bool {
        let Some(volume) = volume else { return false };
        // Longer ones of a write-through volume go by the log, and are answered when
        // they are durable.
        let through = len as usize <= PASS_BYTES_MAX && self.volume(volume).write_through;
        let judged = matches!(access, Access::Write { .. } | Access::Sync { .. })
            && matches!(
                self.standing(volume, nexus, Deed::Write),
                Standing::Barred | Standing::Unclear
            )
            || through && matches!(access, Access::Write { .. });
        if judged {
            self.counters.writes_judged += 1;
            if ordered || access.orders() {
                // What was before it is durable before it passes.
                self.volume_mut(volume).close_epoch();
            }
        }
        judged
    }

    /// Whether the read's computer may be answered from the cache alone.
    pub(super) fn may_read(&self, volume: VolumeKey, read: TaskKey) -> bool {
        let nexus = self.tasks[read.0].nexus;
        self.standing(volume, nexus, Deed::Read) == Standing::Free
    }

    /// What was read of the volume's reservations does not count any more. The
    /// storage is asked by the nexus that gave the reason: it has heard what
    /// there is to hear, while a question by another might meet a unit attention
    /// that a command of its computer, on its way at that moment, should have met.
    pub(super) fn doubt_holding(&mut self, now: Time, key: VolumeKey, by: NexusKey) {
        let stamp = self.next_stamp();
        let holding = &mut self.volume_mut(key).holding;
        (holding.doubted, holding.wanted) = (stamp, stamp);
        holding.asks = Some(by);
        self.ask_holding(now, key);
    }

    /// A nexus has logged in: for it nothing counts that was read before.
    pub(super) fn nexus_entered(&mut self, now: Time, nexus: NexusKey) {
        let stamp = self.next_stamp();
        self.nexuses[nexus.0].entered = stamp;
        self.nexuses[nexus.0].entered_at = now;
        let target = Some(self.nexuses[nexus.0].target);
        for volume in self.volume_keys() {
            if self.volume(volume).target == target {
                let holding = &mut self.volume_mut(volume).holding;
                (holding.wanted, holding.asks) = (stamp, Some(nexus));
                self.ask_holding(now, volume);
            }
        }
    }

    /// A storage that lets a nexus in and answers nothing is as good as away, and
    /// what was known of it stands, as in any outage.
    pub(super) fn entry_grows_old(&mut self, now: Time, nexus: NexusKey) {
        let state = &mut self.nexuses[nexus.0];
        if state.entered != 0 && now.since(state.entered_at) >= ENTRY_MAX {
            state.entered = 0;
        }
    }

    /// Its session is gone: until the next one what was known stands, as it
    /// would in any outage; what was reserved by RESERVE is free (SPC-2 5.5.2).
    pub(super) fn nexus_left(&mut self, nexus: NexusKey) {
        self.nexuses[nexus.0].entered = 0;
        for volume in self.volumes.iter_mut().flatten() {
            if volume.holding.legacy == Legacy::Ours(nexus) {
                volume.holding.legacy = Legacy::None;
            }
        }
    }

    /// The nexus is no more: its key may be another's soon.
    pub(super) fn forget_registrations(&mut self, nexus: NexusKey) {
        for volume in self.volumes.iter_mut().flatten() {
            let holding = &mut volume.holding;
            holding.registrants.retain(|known| known.nexus != nexus);
            holding.tried.retain(|tried| *tried != nexus);
        }
    }

    /// A registration is an initiator port's, whether it is logged in or not
    /// (SPC-4 5.12.4): the computer must find it under the same ISID. Where that
    /// is not certain, it counts as registered.
    pub(super) fn may_be_registered(&self, nexus: NexusKey) -> bool {
        let target = Some(self.nexuses[nexus.0].target);
        self.volumes.iter().flatten().any(|volume| {
            let holding = &volume.holding;
            volume.target == target && holding.held.is_some() && !holding.sure
                || holding.registrant(nexus).is_some()
        })
    }

    /// The directory says whether a start may take the volume for free.
    pub(super) fn mark_reserved(&mut self, key: VolumeKey, reserved: bool) {
        self.set_flag(key, VolumeFlags::RESERVED, reserved);
    }

    /// A command that may reserve the volume goes to the storage now.
    pub(super) fn reservation_passes(&mut self, key: TaskKey) {
        let task = &self.tasks[key.0];
        if let (Some(volume), Some(_)) = (task.volume, Change::from_cdb(&task.cdb)) {
            self.mark_reserved(volume, true);
        }
    }

    /// A passing command of a computer has ended; what it says of reservations
    /// is heeded before anything else is done. Its data-out is still in its pages.
    pub(super) fn heed_passed(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: TaskKey,
        status: ScsiStatus,
        sense: &[u8],
    ) {
        let task = &self.tasks[key.0];
        let whole_cdb = task.whole_cdb();
        let (Some(volume), nexus, cdb) = (task.volume, task.nexus, task.cdb) else {
            return;
        };
        let Some(change) = Change::from_cdb(&cdb) else {
            return self.heed_judgement(now, volume, nexus, &whole_cdb, status);
        };
        let refused = status == ScsiStatus::RESERVATION_CONFLICT
            || sense::parse(sense).is_some_and(|received| {
                matches!(
                    received.sense.key,
                    SenseKey::ILLEGAL_REQUEST | SenseKey::UNIT_ATTENTION
                )
            });
        if refused || status.asks_retry() {
            // Nothing was changed; if nobody holds it, the next reading says so to the directory.
            let stamp = self.next_stamp();
            self.volume_mut(volume).holding.wanted = stamp;
            return self.ask_holding(now, volume);
        }
        if status == ScsiStatus::GOOD {
            let Work::Pass(pass) = &self.tasks[key.0].work else {
                unreachable!("the caller knows the task for a passing command")
            };
            let len = pass.landed as usize;
            let parameters = pass.pages.first().map_or(&[][..], |&page| {
                let bytes = self.staging.bytes(net.pool, page);
                &bytes[..len.min(bytes.len())]
            });
            let registration = reservation::registration(&cdb, parameters);
            let holding = &mut self.volume_mut(volume).holding;
            match (change, registration) {
                (Change::Reserve, _) => holding.legacy = Legacy::Ours(nexus),
                (Change::Release, _) if holding.legacy == Legacy::Ours(nexus) => {
                    holding.legacy = Legacy::None;
                }
                (Change::Release, _) | (Change::Persistent, Registration::Unchanged) => {}
                (Change::Persistent, Registration::Own(key)) => holding.register(nexus, key),
                (Change::Persistent, Registration::Others) => holding.sure = false,
            }
        }
        self.doubt_holding(now, volume, nexus);
    }

    /// The storage has judged a command that the relay could have judged: if
    /// they differ, it is to be asked again.
    pub(super) fn heed_judgement(
        &mut self,
        now: Time,
        volume: VolumeKey,
        nexus: NexusKey,
        cdb: &[u8],
        status: ScsiStatus,
    ) {
        let deed = match sluice_proto::scsi::classify(cdb) {
            Ok(
                Access::Write { .. } | Access::Sync { .. } | Access::Range { changes: true, .. },
            ) => Deed::Write,
            Ok(Access::Read { .. } | Access::Range { .. }) => Deed::Read,
            Ok(Access::None | Access::Medium) | Err(_) => return,
        };
        self.judged(now, volume, nexus, deed, status);
    }

    /// As [`Relay::heed_judgement`], of a command that did this deed.
    pub(super) fn judged(
        &mut self,
        now: Time,
        volume: VolumeKey,
        nexus: NexusKey,
        deed: Deed,
        status: ScsiStatus,
    ) {
        let standing = self.standing(volume, nexus, deed);
        let conflict = status == ScsiStatus::RESERVATION_CONFLICT;
        self.counters.reservation_conflicts += u64::from(conflict);
        let holding = &mut self.volume_mut(volume).holding;
        match (status, standing) {
            (_, Standing::Free | Standing::Unread) if conflict => {
                holding.conflict = true;
                self.doubt_holding(now, volume, nexus);
            }
            (ScsiStatus::GOOD, Standing::Barred) => self.doubt_holding(now, volume, nexus),
            (ScsiStatus::GOOD, Standing::Unclear) if holding.legacy == Legacy::Other => {
                holding.legacy = Legacy::None;
                self.doubt_holding(now, volume, nexus);
            }
            _ => {}
        }
    }

    /// What a unit attention says of reservations.
    pub(super) fn heed_reservation(
        &mut self,
        now: Time,
        nexus: NexusKey,
        key: VolumeKey,
        found: Sense,
    ) {
        // One that logs in has been told of the reset before its time, and is asked anyway.
        let reset = found.is_reset()
            && found != Sense::NEXUS_LOSS
            && found != Sense::COMMANDS_CLEARED
            && self.nexuses[nexus.0].is_ready();
        if reset {
            // SPC-2 5.5.2: a reset ends RESERVE.
            self.volume_mut(key).holding.legacy = Legacy::None;
        }
        if reset || found.is_reservation_change() {
            self.doubt_holding(now, key, nexus);
        }
    }

    /// The computer's session is gone, the nexus stays: what it has reserved by
    /// RESERVE is released as if that were gone too (SPC-2 5.5.2).
    pub(super) fn release_reserved(&mut self, nexus: NexusKey) {
        for volume in self.volume_keys() {
            if self.volume(volume).holding.legacy == Legacy::Ours(nexus)
                && self.release(volume, nexus, None)
            {
                let lun = self.volume(volume).lun;
                self.keep_unit_attention(nexus, lun, &Sense::NEXUS_LOSS.fixed());
            }
        }
    }

    /// A computer has reset the unit: that ends every RESERVE (SPC-2 5.5.2). One
    /// of ours its own nexus releases for the function of this arrival; one that did
    /// not come by the relay only the storage's own reset can end.
    pub(super) fn end_reserve(&mut self, volume: VolumeKey, arrival: u64) -> Release {
        let legacy = self.volume(volume).holding.legacy;
        match legacy {
            Legacy::None => Release::NotNeeded,
            Legacy::Ours(nexus) if self.release(volume, nexus, Some(arrival)) => Release::Sent,
            Legacy::Ours(_) | Legacy::Other => Release::ByReset,
        }
    }

    /// The nexus that has reserved the unit by RESERVE.
    pub(super) fn find_holder(&self, volume: VolumeKey) -> Option<NexusKey> {
        match self.volume(volume).holding.legacy {
            Legacy::Ours(nexus) if self.nexuses.contains(nexus.0) => Some(nexus),
            _ => None,
        }
    }

    /// Sends a RELEASE of the relay's own. False if there is no room for it.
    pub(super) fn release(
        &mut self,
        volume: VolumeKey,
        nexus: NexusKey,
        released_for: Option<u64>,
    ) -> bool {
        if self.tasks.len() == self.tasks.capacity() {
            return false;
        }
        let lun = self.volume(volume).lun;
        let key = TaskKey(self.tasks.insert(Task {
            lan: None,
            nexus,
            volume: Some(volume),
            lun,
            cdb: reservation::release_6_cdb(),
            cdb_rest: None,
            expected_len: 0,
            begun: Time::ZERO,
            deadline: Time::FAR,
            moved: Time::ZERO,
            arrival: self.arrivals,
            attribute: sluice_proto::iscsi::TaskAttribute::Simple,
            dormant: false,
            work: Work::Pass(PassTask {
                read: false,
                write: false,
                pages: ArrayVec::new(),
                pages_out: 0,
                room: None,
                read_len: 0,
                landed: 0,
                transferred: 0,
                data_complete: true,
                barrier: Some(self.whole(volume)),
                since: 0,
                freed: None,
                passing: false,
                settling: None,
                asked: None,
                losses: 0,
                aborting: false,
                released_for,
            }),
        }));
        self.nexuses[nexus.0].tasks += 1;
        self.start_pass(key);
        true
    }

    /// The nexus has lost its session, and with it what it had reserved by RESERVE
    /// (SPC-2 5.5.2): a RELEASE of the relay's own that has not gone out would
    /// only hold up the volume's writes until the next one.
    pub(super) fn give_up_releases(&mut self, nexus: NexusKey) {
        // One that is not asked and has no computer is the relay's own.
        let releases: Vec<TaskKey> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.nexus == nexus && task.lan.is_none())
            .filter(|(_, task)| matches!(&task.work, Work::Pass(pass) if pass.asked.is_none()))
            .map(|(at, _)| TaskKey(at))
            .collect();
        for release in releases {
            // The function that waits for it is not told that it was done.
            self.pass_mut(release).released_for = None;
            self.abandon(release);
        }
    }

    /// What a change of reservations waits for, and holds up: every block, and it changes none.
    pub(super) fn whole(&self, volume: VolumeKey) -> Access {
        Access::Range {
            lba: 0,
            blocks: self
                .volume(volume)
                .geometry
                .map_or(0, |geometry| geometry.blocks),
            changes: false,
        }
    }

    /// Whether the flush has to go by another nexus than this one; never while
    /// something of it is under way there (C-8).
    pub(super) fn flush_must_move(&self, key: VolumeKey, nexus: NexusKey) -> bool {
        !self.may_carry(key, nexus)
            && self.volume(key).strays == 0
            && self.flush.in_flight(key.0).0 == 0
            && !self.wan_tasks.iter().any(
                |(_, task)| matches!(task.kind, WanKind::FlushSync { volume } if volume == key),
            )
            && self.nexuses.iter().any(|(at, other)| {
                Some(other.target) == self.volume(key).target
                    && other.is_ready()
                    && !other.is_lane()
                    && self.may_carry(key, NexusKey(at))
            })
    }

    /// Whether the nexus may write the log's records, by what was read last:
    /// the storage judges each of them anyway.
    pub(super) fn may_carry(&self, key: VolumeKey, nexus: NexusKey) -> bool {
        let holding = &self.volume(key).holding;
        match holding.standing(nexus, Deed::Write) {
            Standing::Free => true,
            Standing::Unclear => !holding.tried.contains(&nexus),
            Standing::Barred | Standing::Unread => false,
        }
    }

    /// Whether it is known that the nexus may write the volume.
    pub(super) fn is_let_in(&self, key: VolumeKey, nexus: NexusKey) -> bool {
        self.standing(key, nexus, Deed::Write) == Standing::Free
    }

    /// A record or sync of the flush has met a reservation. True: no nexus of
    /// ours may carry it, as far as is known (C-4).
    pub(super) fn flush_conflict(&mut self, now: Time, nexus: NexusKey, key: VolumeKey) -> bool {
        let is_lane = self.nexuses[nexus.0].is_lane();
        if is_lane {
            self.leave_lanes(now, key);
        }
        let known = self.standing(key, nexus, Deed::Write);
        self.judged(
            now,
            key,
            nexus,
            Deed::Write,
            ScsiStatus::RESERVATION_CONFLICT,
        );
        let holding = &mut self.volume_mut(key).holding;
        if !holding.tried.contains(&nexus) {
            let _ = holding.tried.try_push(nexus);
        }
        let target = self.volume(key).target;
        matches!(known, Standing::Barred | Standing::Unclear)
            && !is_lane
            && !self.nexuses.iter().any(|(at, other)| {
                Some(other.target) == target
                    && !other.is_lane()
                    && self.may_carry(key, NexusKey(at))
            })
    }

    /// Something of the flush was GOOD: whoever was in the way is no more.
    pub(super) fn flush_agreed(&mut self, key: VolumeKey) {
        self.volume_mut(key).holding.tried.clear();
    }
}
