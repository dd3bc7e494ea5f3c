//! Asking the storage who holds a volume, and reading its answers (SPC-4 6.15).
//!
//! READ FULL STATUS says all there is to know. A storage without it is asked for
//! the reservation, and for the keys: with the registrations that passed here
//! they prove as much in most cases, and nothing in the others. When to ask, and
//! what follows, is [`super::reservation`]'s.

use std::time::Duration;

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::Direction;
use sluice_proto::scsi::reservation::{self, Change, Held, Kind, ReserveIn};
use sluice_proto::scsi::{ScsiStatus, SenseKey, sense};

use super::holding::{Legacy, Registrant};
use super::nexus::WanState;
use super::relay::{Net, Relay};
use super::staging::StagePage;
use super::task::{NexusKey, VolumeKey, WanKind};

/// Bytes asked for: some 200 registrants with names of usual length.
const ANSWER_LEN: u16 = 48 * 1024;
/// Pause before a question that was not answered is asked again.
const REST: Duration = Duration::from_millis(100);

/// What is asked, in order; the later ones where the first is not known to the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    FullStatus,
    Reservation,
    Keys,
}

impl Relay {
    pub(super) fn ask_holding(&mut self, now: Time, key: VolumeKey) {
        if self.volume(key).holding.asked.is_some() {
            return;
        }
        let stamp = self.next_stamp();
        let question = if self.volume(key).holding.full_status {
            Question::FullStatus
        } else {
            Question::Reservation
        };
        self.put_question(now, key, question, stamp);
    }

    /// Asks, or leaves it to the sweep when there is no way to.
    fn put_question(&mut self, now: Time, key: VolumeKey, question: Question, stamp: u64) {
        self.volume_mut(key).holding.asked = None;
        let Some(target) = self.volume(key).target else {
            return;
        };
        let preferred = self.volume(key).holding.asks.map(|nexus| nexus.0);
        let nexus = preferred
            .into_iter()
            .chain(self.nexuses.iter().map(|(at, _)| at))
            .find(|&at| {
                self.nexuses.get(at).is_some_and(|nexus| {
                    nexus.target == target
                        && matches!(nexus.state, WanState::Ready | WanState::Probing)
                        && nexus.window() > 0
                })
            })
            .map(NexusKey);
        let full = self.wan_tasks.len() == self.wan_tasks.capacity();
        let (Some(nexus), false) = (nexus, full) else {
            return;
        };
        let Some(page) = self.staging.take() else {
            return;
        };
        self.counters.reservation_questions += 1;
        let action = match question {
            Question::FullStatus => ReserveIn::ReadFullStatus,
            Question::Reservation => ReserveIn::ReadReservation,
            Question::Keys => ReserveIn::ReadKeys,
        };
        let volume = self.volume_mut(key);
        volume.holding.asked = Some(stamp);
        volume.holding.asked_at = now;
        let lun = volume.lun;
        let kind = WanKind::Holding {
            volume: key,
            question,
            page,
            received: 0,
        };
        let data = Direction::In(u32::from(ANSWER_LEN));
        self.submit(now, nexus, kind, lun, action.cdb(ANSWER_LEN), data);
    }

    /// The question went down with its session.
    pub(super) fn holding_lost(&mut self, key: VolumeKey, page: StagePage) {
        self.staging.give(page);
        self.volume_mut(key).holding.asked = None;
    }

    /// Asks again what could not be asked, or was not answered.
    pub(super) fn recheck_holding(&mut self, now: Time, key: VolumeKey) {
        let holding = &self.volume(key).holding;
        if holding.wanted > holding.read && now.since(holding.asked_at) >= REST {
            self.ask_holding(now, key);
        }
    }

    /// An answer: on to the next question, or it is known.
    pub(super) fn holding_answered(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        key: VolumeKey,
        question: Question,
        (page, received): (StagePage, u32),
        (status, sense): (ScsiStatus, &[u8]),
    ) {
        let holding = &mut self.volume_mut(key).holding;
        let stamp = holding.asked.take();
        if stamp.is_none_or(|stamp| stamp < holding.doubted) {
            // Out of date when it came: by it, a registration that has passed
            // meanwhile would be none.
            self.staging.give(page);
            return self.ask_holding(now, key);
        }
        let found = sense::parse(sense).map(|received| received.sense);
        let attention = found.is_some_and(|sense| sense.key == SenseKey::UNIT_ATTENTION);
        let next = match status {
            ScsiStatus::GOOD => self.read_holding(net, key, question, page, received),
            // Known to the storage or not, it says nothing else.
            ScsiStatus::CHECK_CONDITION if !attention => self.holding_unknown(key, question),
            ScsiStatus::RESERVATION_CONFLICT => {
                let holding = &mut self.volume_mut(key).holding;
                holding.held = None;
                if holding.legacy == Legacy::None {
                    holding.legacy = Legacy::Other;
                }
                None
            }
            _ => {
                self.staging.give(page);
                if attention {
                    self.ask_holding(now, key);
                }
                return;
            }
        };
        self.staging.give(page);
        let Some(stamp) = stamp else { return };
        if let Some(question) = next {
            return self.put_question(now, key, question, stamp);
        }
        self.holding_read(now, key, stamp);
    }

    /// The storage does not answer this question: the next one, if there is one.
    fn holding_unknown(&mut self, key: VolumeKey, question: Question) -> Option<Question> {
        let holding = &mut self.volume_mut(key).holding;
        match question {
            Question::FullStatus => {
                holding.full_status = false;
                return Some(Question::Reservation);
            }
            // It has no persistent reservations.
            Question::Reservation => {
                holding.held = None;
                holding.registrants.clear();
            }
            Question::Keys => {
                holding.registrants.clear();
                holding.sure = false;
            }
        }
        None
    }

    fn read_holding(
        &mut self,
        net: &mut Net<'_>,
        key: VolumeKey,
        question: Question,
        page: StagePage,
        received: u32,
    ) -> Option<Question> {
        let Self {
            volumes,
            nexuses,
            staging,
            ..
        } = self;
        let volume = volumes[usize::from(key.0)]
            .as_mut()
            .expect("a volume key names a volume of the directory");
        let target = volume.target;
        let holding = &mut volume.holding;
        let data = &staging.bytes(net.pool, page)[..received as usize];
        match question {
            Question::FullStatus => {
                let Ok(listed) = reservation::full_status(data) else {
                    return self.holding_unknown(key, question);
                };
                let mut found = ArrayVec::new();
                let mut sure = true;
                for (at, nexus) in nexuses
                    .iter()
                    .filter(|(_, nexus)| Some(nexus.target) == target)
                {
                    let ours = listed
                        .clone()
                        .find(|port| port.is(&nexus.initiator_name, nexus.wan_isid));
                    if let Some(port) = ours {
                        let registrant = Registrant {
                            nexus: NexusKey(at),
                            key: port.key,
                            holds: port.holds.is_some(),
                        };
                        sure &= found.try_push(registrant).is_ok();
                    }
                }
                // One that passed here is listed by its key, under a name that we do
                // not read as its port's: this storage has to be asked otherwise.
                let misnamed = holding.registrants.iter().any(|known| {
                    found.iter().all(|ours| ours.nexus != known.nexus)
                        && listed.clone().any(|port| port.key == known.key)
                });
                if misnamed {
                    return self.holding_unknown(key, question);
                }
                holding.held = listed.clone().find_map(|port| {
                    let key = port.key;
                    port.holds.map(|kind| Held { key, kind })
                });
                holding.registrants = found;
                holding.sure = sure;
                None
            }
            Question::Reservation => {
                match reservation::held(data) {
                    Ok(held) => holding.held = held,
                    // What cannot be read counts as held, nobody knows by whom.
                    Err(_) => {
                        let kind = Kind::ExclusiveAccess;
                        holding.held = Some(Held { key: 0, kind });
                        holding.registrants.clear();
                        holding.sure = false;
                        return None;
                    }
                }
                (holding.held.is_some() || !holding.registrants.is_empty())
                    .then_some(Question::Keys)
            }
            Question::Keys => match reservation::keys(data) {
                Ok(keys) => {
                    holding.match_keys(keys);
                    None
                }
                Err(_) => self.holding_unknown(key, question),
            },
        }
    }

    /// It is known again, as of when it was asked: what waited goes on.
    fn holding_read(&mut self, now: Time, key: VolumeKey, stamp: u64) {
        let holding = &mut self.volume_mut(key).holding;
        holding.read = stamp;
        let unexplained = std::mem::take(&mut holding.conflict) && !holding.is_held();
        if unexplained {
            holding.legacy = Legacy::Other;
        }
        if !holding.is_held() && stamp > holding.doubted && !self.is_reserving(key) {
            self.mark_reserved(key, false);
        }
        let holding = &self.volume(key).holding;
        if holding.wanted > holding.read {
            self.ask_holding(now, key);
        }
        self.commit_behind(now, key);
        self.flush_volume(now, key);
    }

    /// A command that may reserve the volume waits to pass, or is at the storage: what
    /// the directory says for its sake stays.
    fn is_reserving(&self, key: VolumeKey) -> bool {
        let mut barriers = self.volume(key).barriers.iter();
        barriers.any(|&(task, _)| Change::from_cdb(&self.tasks[task.0].cdb).is_some())
    }
}
