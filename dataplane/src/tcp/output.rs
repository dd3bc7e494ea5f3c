//! Flows that were touched get their turn to send; time passes.

use std::time::Duration;

use sluice_hugepages::pool::{Frame, Pool};
use sluice_proto::Time;
use smoltcp::socket::tcp::State;

use super::accepted::has_finished;
use super::flow::{Flow, Stack};
use super::time_wait::TimeWait;
use super::wire::Egress;
use super::{CloseReason, Slot, Tcp};

/// A flow that found the pool exhausted, or that wants a turn and then says
/// nothing, or whose acknowledged bytes packets still have, tries again after this.
pub(super) const RETRY: Duration = Duration::from_micros(250);

/// What made a flow's state change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    Segment { reset: bool },
    Time,
}

impl Tcp {
    /// Lets time pass, and lets every flow that a segment, its owner or a
    /// timer has touched send what it can, in turn: at most
    /// `packets_per_poll` packets, IPv4 with [`HEADROOM`] in front, appended
    /// to `out`. What did not get its turn has it next time.
    ///
    /// [`HEADROOM`]: sluice_hugepages::pool::HEADROOM
    pub fn poll(&mut self, now: Time, pool: &mut Pool, out: &mut Vec<Frame>) {
        while let Some(index) = self.wheel.expire(now) {
            self.ready.push(index);
        }
        self.expire_half_open(now);
        self.expire_time_wait(now);
        let mut device = Egress::new(pool, out);
        let mut budget = self.config.packets_per_poll;
        while budget > 0
            && let Some(index) = self.ready.pop()
        {
            budget = budget.saturating_sub(self.turn(now, index, budget, &mut device));
        }
        self.counters.lost_no_frame += device.lost;
        device.finish();
    }

    /// When [`poll`](Self::poll) has work next; `Time::ZERO` if at once.
    #[must_use]
    pub fn deadline(&self) -> Time {
        if !self.ready.is_empty() || !self.events.is_empty() {
            return Time::ZERO;
        }
        self.next_timer()
    }

    pub(super) fn next_timer(&self) -> Time {
        let half_open = self
            .half_open
            .front()
            .and_then(|index| match self.table.get(index)? {
                Slot::HalfOpen(half_open) => Some(half_open.expires(self.config.handshake_timeout)),
                _ => None,
            });
        let time_wait = self
            .time_wait
            .front()
            .and_then(|index| match self.table.get(index)? {
                Slot::TimeWait(time_wait) => Some(time_wait.expires),
                _ => None,
            });
        [self.wheel.next(), half_open, time_wait]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Time::FAR)
    }

    /// One flow's turn; packets written.
    fn turn(&mut self, now: Time, index: u32, budget: usize, device: &mut Egress<'_>) -> usize {
        let Some(Slot::Flow(flow)) = self.table.get_mut(index) else {
            unreachable!("only flows are made ready")
        };
        self.counters.flow_polls += 1;
        if flow.closing {
            let linger = *flow.linger.get_or_insert(now + self.config.linger);
            if now >= linger && flow.state_now() != State::Closed {
                flow.abort();
                self.counters.lingered_out += 1;
            }
        }
        let turn = budget.min(self.config.packets_per_turn);
        device.exhausted = false;
        let written = flow.transmit(now, turn, device);
        self.counters.segments_out += written as u64;
        let mut has_new_room = false;
        if let Stack::Connected(stack) = &mut flow.stack {
            stack.count(&mut self.counters);
            has_new_room = stack.take_new_room();
        }
        let (aborted, linger) = (flow.aborted, flow.linger);
        let due = flow.due(now);
        let exhausted = device.exhausted;
        if exhausted {
            self.counters.waits_for_pool += 1;
        }
        if has_new_room {
            self.raise(index, |pending| pending.ready = true);
        }
        if aborted {
            // Its RST is out; if the pool had no room for it, the peer's next
            // segment brings one.
            self.end(index, CloseReason::Reset, device.pool);
        } else if self.settle(index, device.pool, Cause::Time) {
            match due {
                _ if exhausted => self.wheel.arm(index, now + RETRY),
                _ if written >= turn => self.ready.push(index),
                Some(at) if at <= now => self.wheel.arm(index, now + RETRY),
                Some(at) => self
                    .wheel
                    .arm(index, linger.map_or(at, |linger| at.min(linger))),
                None => match linger {
                    Some(linger) => self.wheel.arm(index, linger),
                    None => self.wheel.disarm(index),
                },
            }
            let acknowledged = !exhausted && due.is_none_or(|at| at > now);
            self.enter_time_wait(now, index, acknowledged, device.pool);
        }
        written
    }

    /// Tells of what has changed in a flow's state; false if that was its end.
    pub(super) fn settle(&mut self, index: u32, pool: &mut Pool, cause: Cause) -> bool {
        let Some(Slot::Flow(flow)) = self.table.get_mut(index) else {
            unreachable!("the caller looked")
        };
        let state = flow.state_now();
        let before = std::mem::replace(&mut flow.state, state);
        if state == before {
            return true;
        }
        // Its owner may have closed it before it was answered: then it never is ESTABLISHED.
        let synchronized = !matches!(
            state,
            State::Closed | State::Listen | State::SynSent | State::SynReceived
        );
        let opened = !flow.opened && synchronized;
        let finished = !flow.finished && has_finished(state);
        flow.finished |= finished;
        let was_open = flow.opened;
        // Our owner has closed before the peer had answered our SYN.
        let given_up = flow.closing && !was_open;
        let ended = flow.ended();
        if opened {
            // Accepted flows are opened when they are made.
            flow.opened = true;
            self.counters.connected += 1;
            self.raise(index, |pending| pending.connected = true);
        }
        if finished {
            self.raise(index, |pending| pending.finished = true);
        }
        if state != State::Closed {
            return true;
        }
        let reason = match (ended, cause) {
            (Some(reason), _) => reason,
            (None, Cause::Segment { reset: true }) if was_open => CloseReason::Reset,
            (None, Cause::Segment { reset: true }) => CloseReason::Refused,
            (None, Cause::Segment { reset: false }) => CloseReason::Finished,
            (None, Cause::Time) if before == State::TimeWait || given_up => CloseReason::Finished,
            (None, Cause::Time) => CloseReason::TimedOut,
        };
        self.end(index, reason, pool);
        false
    }

    /// Gives back what a flow holds. Its slot stays until its owner knows.
    pub(super) fn end(&mut self, index: u32, reason: CloseReason, pool: &mut Pool) {
        self.forget_work(index);
        self.table.unbind(index);
        let Some(Slot::Flow(flow)) = self.table.replace(index, Slot::Closed(reason)) else {
            unreachable!("the caller looked")
        };
        let aborted = flow.aborted;
        Flow::dissolve(*flow, pool);
        self.counters.closed += 1;
        if aborted {
            self.free(index);
        } else {
            self.events.push(index);
        }
    }

    /// A flow in TIME-WAIT that has said its last word becomes a note of its
    /// numbers, and gives back what it holds.
    fn enter_time_wait(&mut self, now: Time, index: u32, acknowledged: bool, pool: &mut Pool) {
        let Some(Slot::Flow(flow)) = self.table.get(index) else {
            return;
        };
        if flow.state != State::TimeWait || !acknowledged {
            return;
        }
        let (snd_nxt, rcv_nxt) = flow.numbers();
        let note = TimeWait {
            snd_nxt,
            rcv_nxt,
            expires: now + self.config.time_wait,
        };
        let tuple = flow.tuple;
        self.end(index, CloseReason::Finished, pool);
        self.remember(tuple, note);
    }
}
