//! What is done on time's account rather than a packet's: bounds on waiting
//! (C-16), pings, reconnects, periodic flushes, and sessions nobody needs.

use std::ops::Range;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::login_status;
use sluice_proto::scsi::{ScsiStatus, Sense};

use super::admit::CLOSING_MAX;
use super::lan::LanState;
use super::nexus::WanState;
use super::relay::{Net, Relay};
use super::task::{ChunkState, LanKey, NexusKey, Task, TaskKey, VolumeKey, Work, WriteState};

/// A command is looked at once in four sweeps, one at the storage once in
/// sixteen; every bound kept on them is several times that.
const SWEEP_PERIOD: Duration = Duration::from_millis(20);

/// Data that was asked for and has not moved for this long is not waited for:
/// what it would fill is other computers' room too.
const DATA_IDLE_MAX: Duration = Duration::from_secs(3);

/// A command that waits for what the storage is taking, byte by byte, is waited
/// for so long after it came, if that is longer than any other is: still well
/// below the 30 s of Linux (C-16).
const MOVING_MAX: Duration = Duration::from_secs(20);
/// Bytes of a nexus that were sent or acknowledged so long ago show that it moves.
const MOVED_WITHIN: Duration = Duration::from_secs(2);

/// A command at the storage without an answer for this long: twice what Linux waits.
const WAN_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Between two looks at a session whose computer has closed its side, and at a
/// storage's that could not be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two looks at a nexus that nobody needs but its records, or that has
/// bytes outstanding: a fraction of the bounds kept there.
const WATCH_PERIOD: Duration = Duration::from_millis(100);
/// Sessions looked at in one step: a thousand timers that are due at once do
/// not make a packet wait for them all.
const LOOKS_MAX: usize = 32;

/// A session's or nexus's timer.
pub(super) fn lan_slot(key: LanKey) -> u32 {
    slot(key.0)
}

pub(super) fn nexus_slot(key: NexusKey) -> u32 {
    slot(key.0)
}

fn slot(at: usize) -> u32 {
    u32::try_from(at).expect("sessions are counted in 16 bits")
}

/// The slots of a table of commands that this sweep looks at: one part in
/// `parts` of it, so that a long table is not read in one go, and every slot
/// once in as many sweeps.
fn turn(next: &mut usize, capacity: usize, parts: usize) -> Range<usize> {
    let begin = if *next < capacity { *next } else { 0 };
    *next = begin + capacity.div_ceil(parts);
    begin..(*next).min(capacity)
}

impl Relay {
    /// Serves every connection that something happened to, and then what time brings.
    /// Returns whether work is left over.
    pub fn work(&mut self, net: &mut Net<'_>, now: Time) -> bool {
        let mut left_over = false;
        // Serving one may put another on the list: one round over what is there now, and
        // a second for the answers that the first made.
        for _ in 0..2 {
            for _ in 0..self.nexuses_queued.len() {
                let Some(key) = self.nexuses_queued.pop_front() else {
                    break;
                };
                if let Some(nexus) = self.nexuses.get_mut(key.0) {
                    nexus.queued = false;
                    if self.serve_nexus(net, now, key) {
                        self.touch_nexus(key);
                        left_over = true;
                    }
                }
            }
            for _ in 0..self.lans_queued.len() {
                let Some(key) = self.lans_queued.pop_front() else {
                    break;
                };
                if let Some(lan) = self.lans.get_mut(key.0) {
                    lan.queued = false;
                    if self.serve_lan(net, now, key) {
                        self.touch_lan(key);
                        left_over = true;
                    }
                }
            }
        }
        if self.functions_moved {
            self.sweep_functions(net, now);
            left_over = true;
        }
        left_over |= self.work_journal(net, now);
        left_over |= self.compact(now);
        self.answer_delayed(now);
        if self.room_moved {
            self.admit_held(net, now);
        }
        left_over |= self.look(net, now);
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_PERIOD;
            self.sweep(net, now);
        }
        left_over || !self.lans_queued.is_empty() || !self.nexuses_queued.is_empty()
    }

    /// When [`Relay::work`] wants to be called again though nothing arrives.
    pub fn deadline(&self) -> Time {
        let timers = [self.lan_timers.next(), self.nexus_timers.next()];
        let timers = timers.into_iter().flatten();
        let answers = self.delayed.front().map(|&(until, _)| until);
        timers
            .chain(answers)
            .fold(self.next_sweep, |first, at| first.min(at))
    }

    /// Has a session looked at in this step or the next, whenever it was due.
    pub(super) fn look_at_lan(&mut self, key: LanKey) {
        self.lan_timers.arm(lan_slot(key), Time::ZERO);
    }

    /// As [`Self::look_at_lan`], for a nexus.
    pub(super) fn look_at_nexus(&mut self, key: NexusKey) {
        self.nexus_timers.arm(nexus_slot(key), Time::ZERO);
    }

    /// Looks at the sessions and nexuses whose time has come. Each says when it
    /// wants to be looked at again; what shortens that time arms it anew. So an
    /// idle session is touched once in its time of silence.
    /// Returns whether some are left.
    fn look(&mut self, net: &mut Net<'_>, now: Time) -> bool {
        for _ in 0..LOOKS_MAX {
            let lan = self.lan_timers.expire(now);
            let nexus = self.nexus_timers.expire(now);
            if (lan, nexus) == (None, None) {
                return false;
            }
            if let Some(at) = lan {
                let key = LanKey(at as usize);
                if let Some(next) = self.see_to_lan(net, now, key) {
                    self.lan_timers.arm(at, next);
                }
            }
            if let Some(at) = nexus {
                let key = NexusKey(at as usize);
                self.see_to_nexus(net, now, key);
                if self.nexuses.contains(key.0) {
                    self.consider_reset(key);
                    self.retire_nexus(net, now, key);
                }
                if let Some(next) = self.next_look_at_nexus(now, key) {
                    self.nexus_timers.arm(at, next);
                }
            }
        }
        true
    }

    fn sweep(&mut self, net: &mut Net<'_>, now: Time) {
        self.sweep_tasks(net, now);
        self.sweep_functions(net, now);
        self.sweep_wan_tasks(net, now);
        for volume in self.volume_keys() {
            self.recheck(now, volume);
            self.recheck_holding(now, volume);
            self.commit_behind(now, volume);
            self.release_durable(net, now, volume);
            self.sync_passed(now, volume);
            self.flush_volume(now, volume);
            self.advance_drain(volume);
            self.volume_mut(volume).sample_rates(now);
        }
        self.look_at_latency(now);
        self.look_at_paths(net, now);
        self.admit_held(net, now);
        self.feed_starved(net);
    }

    /// What passed through is synced after a flush period or idle time, as records are: a
    /// volume that is left alone becomes durable, and drained.
    fn sync_passed(&mut self, now: Time, key: VolumeKey) {
        if self.flush.records(key.0) == 0
            && !self.flush.is_drained(key.0)
            && now >= self.volume(key).sync_passed_at
        {
            self.ask_flush(key);
        }
    }

    /// C-16: what has waited too long ends BUSY, so that the initiator tries again
    /// long before its own timeout. What is in the log stays there.
    fn sweep_tasks(&mut self, net: &mut Net<'_>, now: Time) {
        for at in turn(&mut self.task_turn, self.tasks.capacity(), 4) {
            let Some(task) = self.tasks.get(at) else {
                continue;
            };
            let idle = now.since(task.moved) >= DATA_IDLE_MAX && task.lacks_data();
            if now < task.deadline && !idle
                || task.lan.is_none() && !self.is_idle(TaskKey(at))
                || task.is_answered_soon()
                || !idle && self.may_wait_longer(now, task)
            {
                continue;
            }
            let counters = &mut self.counters;
            *match &task.work {
                _ if idle => &mut counters.busy_no_data,
                Work::Write(write) if matches!(write.state, WriteState::Held { .. }) => {
                    &mut counters.busy_no_room
                }
                _ => &mut counters.busy_wait_max,
            } += 1;
            match &task.work {
                // It may have been done: BUSY would say that it was not.
                Work::Pass(pass) if pass.asked.is_some() || pass.settling.is_some() => {
                    let sense = Sense::COMMUNICATION_FAILURE.fixed();
                    self.give_up(TaskKey(at), ScsiStatus::CHECK_CONDITION, &sense);
                }
                _ => self.give_up(TaskKey(at), ScsiStatus::BUSY, &[]),
            }
            self.feed_starved(net);
        }
    }

    /// Ending it BUSY would have the computer send it again, to wait for the rest
    /// of what is going on anyway: a long write's flush, or its own data.
    fn may_wait_longer(&self, now: Time, task: &Task) -> bool {
        let flush_nexus = || {
            task.volume
                .and_then(|volume| self.volume(volume).flush_nexus)
        };
        let nexus = match &task.work {
            Work::Pass(pass) if pass.asked.is_some() => Some(task.nexus),
            Work::Pass(_) | Work::Sync(_) => flush_nexus(),
            Work::Write(write) if matches!(write.state, WriteState::Durable { .. }) => {
                flush_nexus()
            }
            Work::Write(_) | Work::Read(_) => None,
        };
        let moved = nexus
            .and_then(|nexus| self.nexuses.get(nexus.0))
            .is_some_and(|nexus| now.since(nexus.progressed) < MOVED_WITHIN);
        moved && now < task.deadline + MOVING_MAX.saturating_sub(self.config.wait_max)
    }

    /// Does what time brings to a session; says when it is to be looked at next.
    fn see_to_lan(&mut self, net: &mut Net<'_>, now: Time, key: LanKey) -> Option<Time> {
        let lan = self.lans.get_mut(key.0)?;
        // a computer that has closed its side is a disconnected one.
        if lan.finished {
            if net.tcp.recv_available(lan.flow) > 0 || lan.conn.has_output() {
                return Some(now + LOOK_AGAIN);
            }
            self.lose_lan(net, key);
            return None;
        }
        match lan.state {
            LanState::Login | LanState::Closing if now < lan.login_deadline => {
                Some(lan.login_deadline)
            }
            LanState::Login | LanState::Closing => {
                let waits = lan.nexus.filter(|_| lan.state == LanState::Login);
                let status = login_status::SERVICE_UNAVAILABLE;
                if let Some(nexus) = waits
                    && self.refuse_waiting_login(net, now, nexus, status)
                    && let Some(lan) = self.lans.get_mut(key.0)
                {
                    // It is told so before its connection ends.
                    lan.login_deadline = now + CLOSING_MAX;
                    return Some(lan.login_deadline);
                }
                self.counters.logins_refused +=
                    u64::from(self.lans[key.0].state == LanState::Login);
                self.lose_lan(net, key);
                None
            }
            LanState::FullFeature => {
                let silence = self.config.silence_max;
                match lan.pinged {
                    // an idle computer is not a disconnected one; one that does not answer is.
                    Some(since) if lan.last_heard <= since => {
                        if now.since(since) >= silence {
                            self.lose_lan(net, key);
                            return None;
                        }
                        return Some(since + silence);
                    }
                    _ => lan.pinged = None,
                }
                if now.since(lan.last_heard) < silence {
                    return Some(lan.last_heard + silence);
                }
                lan.conn.ping();
                lan.pinged = Some(now);
                self.touch_lan(key);
                Some(now + silence)
            }
        }
    }

    /// A storage that answers pings but not a command is as good as gone: what
    /// is out comes back with its session.
    fn sweep_wan_tasks(&mut self, net: &mut Net<'_>, now: Time) {
        for at in turn(&mut self.wan_task_turn, self.wan_tasks.capacity(), 16) {
            if let Some(task) = self.wan_tasks.get(at)
                && now.since(task.sent) >= WAN_ANSWER_MAX
            {
                self.lose_wan(net, now, task.nexus);
            }
        }
    }

    /// Does what time brings to a nexus.
    fn see_to_nexus(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        if !self.nexuses.contains(key.0) {
            return;
        }
        self.entry_grows_old(now, key);
        let nexus = &mut self.nexuses[key.0];
        match nexus.state {
            WanState::Backoff(until) if now >= until => self.connect(net, now, key),
            WanState::Connecting | WanState::LoggingIn | WanState::Probing
                if now >= nexus.state_deadline =>
            {
                self.lose_wan(net, now, key);
                self.refuse_waiting_login(net, now, key, login_status::SERVICE_UNAVAILABLE);
            }
            WanState::Probing => self.ask(now, key),
            WanState::Ready => {
                let unacknowledged = nexus.flow.map_or(0, |flow| net.tcp.unacknowledged(flow));
                if nexus.watched && nexus.is_stalled(now, unacknowledged) {
                    return self.lose_wan(net, now, key);
                }
                nexus.watched = unacknowledged > 0;
                if nexus.leave_by.is_some() {
                    self.touch_nexus(key);
                }
                let nexus = &mut self.nexuses[key.0];
                let silence = self.config.silence_max;
                match nexus.pinged {
                    Some(since) if nexus.last_heard > since => nexus.pinged = None,
                    Some(since) if now.since(since) >= silence => self.lose_wan(net, now, key),
                    None if now.since(nexus.last_heard) >= silence => {
                        if let Some(conn) = nexus.conn.as_mut() {
                            conn.ping();
                        }
                        nexus.pinged = Some(now);
                        self.touch_nexus(key);
                    }
                    _ => {}
                }
                self.ask(now, key);
                self.poll_nexus(now, key);
            }
            _ => {}
        }
    }

    /// When a nexus is to be looked at again; `None` once it is gone.
    fn next_look_at_nexus(&self, now: Time, key: NexusKey) -> Option<Time> {
        let nexus = self.nexuses.get(key.0)?;
        let due = match nexus.state {
            WanState::Backoff(until) => until,
            WanState::Connecting | WanState::LoggingIn => nexus.state_deadline,
            WanState::Probing => now + LOOK_AGAIN,
            WanState::Ready if nexus.leave_by.is_some() || nexus.watched || nexus.has_to_ask() => {
                now + WATCH_PERIOD
            }
            WanState::Ready => {
                nexus.pinged.map_or(nexus.last_heard, |since| since) + self.config.silence_max
            }
            WanState::LoggingOut | WanState::Gone => now + WATCH_PERIOD,
        };
        // It may be the one that a flush waits for to be over.
        Some(if nexus.lan.is_none() {
            due.min(now + WATCH_PERIOD)
        } else {
            due
        })
    }

    /// Nothing of the task is out at the storage.
    fn is_idle(&self, key: TaskKey) -> bool {
        match &self.tasks[key.0].work {
            Work::Read(read) => !read
                .chunks
                .iter()
                .any(|chunk| matches!(chunk.state, ChunkState::Asked(_))),
            Work::Pass(pass) => pass.asked.is_none(),
            Work::Write(_) | Work::Sync(_) => true,
        }
    }
}
