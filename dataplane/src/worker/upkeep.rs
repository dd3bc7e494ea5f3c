//! What is done on time's account rather than a packet's: bounds on waiting
//! (C-16), pings, reconnects, periodic flushes, and sessions nobody needs.

use std::ops::Range;
use std::time::Duration;

use sluice_proto::Time;
use sluice_proto::iscsi::login_status;
use sluice_proto::scsi::{ScsiStatus, Sense};

use super::lan::LanState;
use super::nexus::WanState;
use super::relay::{Net, Relay};
use super::task::{ChunkState, LanKey, NexusKey, TaskKey, VolumeKey, Work};

/// Every bound kept here is at least ten times this.
const SWEEP_PERIOD: Duration = Duration::from_millis(20);

/// A command at the storage without an answer for this long: twice what Linux waits.
const WAN_ANSWER_MAX: Duration = Duration::from_secs(60);

/// Slots of a table that one sweep looks at.
pub(super) type Turn = std::iter::Chain<Range<usize>, Range<usize>>;

/// The slots whose turn it is: 16, or as many as let each have its turn in some
/// ten seconds, so that thousands of idle sessions do not fill the caches of
/// the packets between two sweeps. A small table is looked at whole each time.
fn turn(next: &mut usize, capacity: usize) -> Turn {
    let count = (capacity / 512).max(16).min(capacity);
    let begin = *next % capacity.max(1);
    let end = begin + count;
    *next = end % capacity.max(1);
    (begin..end.min(capacity)).chain(0..end.saturating_sub(capacity))
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
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_PERIOD;
            self.sweep(net, now);
        }
        left_over || !self.lans_queued.is_empty() || !self.nexuses_queued.is_empty()
    }

    /// When [`Relay::work`] wants to be called again though nothing arrives.
    pub fn deadline(&self) -> Time {
        self.next_sweep
    }

    fn sweep(&mut self, net: &mut Net<'_>, now: Time) {
        self.sweep_tasks(net, now);
        self.sweep_lans(net, now);
        let nexuses = turn(&mut self.nexus_turn, self.nexuses.capacity());
        self.sweep_nexuses(net, now, &nexuses);
        self.sweep_wan_tasks(net, now);
        for volume in self.volume_keys() {
            self.recheck(now, volume);
            self.commit_behind(now, volume);
            self.release_durable(net, now, volume);
            self.sync_passed(now, volume);
            self.flush_volume(now, volume);
        }
        self.admit_held(net, now);
        self.retire_nexuses(net, now, &nexuses);
    }

    /// What passed through is synced after a flush period, as records are: a
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
        for at in 0..self.tasks.capacity() {
            let Some(task) = self.tasks.get(at) else {
                continue;
            };
            if now < task.deadline || task.lan.is_none() && !self.is_idle(TaskKey(at)) {
                continue;
            }
            self.counters.busy_wait_max += 1;
            match &task.work {
                // It may have been done: BUSY would say that it was not.
                Work::Pass(pass) if pass.asked.is_some() => {
                    let sense = Sense::COMMUNICATION_FAILURE.fixed();
                    self.give_up(TaskKey(at), ScsiStatus::CHECK_CONDITION, &sense);
                }
                _ => self.give_up(TaskKey(at), ScsiStatus::BUSY, &[]),
            }
            self.feed_starved(net, now);
        }
    }

    fn sweep_lans(&mut self, net: &mut Net<'_>, now: Time) {
        for at in turn(&mut self.lan_turn, self.lans.capacity()) {
            let Some(lan) = self.lans.get_mut(at) else {
                continue;
            };
            let key = LanKey(at);
            // a computer that has closed its side is a disconnected one.
            if lan.finished && net.tcp.recv_available(lan.flow) == 0 && !lan.conn.has_output() {
                self.lose_lan(net, key);
                continue;
            }
            match lan.state {
                LanState::Login if lan.conn.is_logged_in() => lan.state = LanState::FullFeature,
                LanState::Login | LanState::Closing if now >= lan.login_deadline => {
                    self.counters.logins_refused += u64::from(lan.state == LanState::Login);
                    if let Some(nexus) = lan.nexus {
                        self.refuse_waiting_login(
                            net,
                            now,
                            nexus,
                            login_status::SERVICE_UNAVAILABLE,
                        );
                    }
                    if self.lans.contains(at) {
                        self.lose_lan(net, key);
                    }
                }
                LanState::Login | LanState::Closing => {}
                LanState::FullFeature => {
                    let silence = self.config.silence_max;
                    match lan.pinged {
                        // an idle computer is not a disconnected one; one that does not answer is.
                        Some(since) if now.since(since) >= silence && lan.last_heard < since => {
                            self.lose_lan(net, key);
                        }
                        Some(since) if lan.last_heard > since => lan.pinged = None,
                        None if now.since(lan.last_heard) >= silence => {
                            lan.conn.ping();
                            lan.pinged = Some(now);
                            self.touch_lan(key);
                        }
                        _ => {}
                    }
                }
            }
        }
    }

    /// A storage that answers pings but not a command is as good as gone: what
    /// is out comes back with its session.
    fn sweep_wan_tasks(&mut self, net: &mut Net<'_>, now: Time) {
        for at in 0..self.wan_tasks.capacity() {
            if let Some(task) = self.wan_tasks.get(at)
                && now.since(task.sent) >= WAN_ANSWER_MAX
            {
                self.lose_wan(net, now, task.nexus);
            }
        }
    }

    fn sweep_nexuses(&mut self, net: &mut Net<'_>, now: Time, slots: &Turn) {
        for at in slots.clone() {
            let Some(nexus) = self.nexuses.get_mut(at) else {
                continue;
            };
            let key = NexusKey(at);
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
                    if nexus.is_stalled(now, unacknowledged) {
                        self.lose_wan(net, now, key);
                        continue;
                    }
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
                }
                _ => {}
            }
        }
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
