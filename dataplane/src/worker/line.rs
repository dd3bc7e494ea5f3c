//! The line of a session's commands: which may take its place before which
//! (C-5; SAM-5 8.7). A computer's commands are a task set of their own.
//!
//! What always holds: an ORDERED command takes its place after every command
//! of its logical unit that came before it (by CmdSN, which is the order of
//! arrival here), and before every one that came after it; a HEAD OF QUEUE
//! command waits for none, and what has not begun waits for it. Data moves all
//! the same: a write collects its data while it waits, only its commit does not
//! come before its turn. While no session asks for order there is no line, and
//! this costs a look at an empty list.
//!
//! A command *has its place* when it is answered, or in the log, or (a
//! SYNCHRONIZE CACHE) when it is known what it covers.

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::TaskAttribute;
use sluice_proto::scsi::same_lun;

use super::relay::{Net, Relay};
use super::task::{LanKey, SyncTask, Task, TaskKey, Work, WriteState};

/// Units of one session that ORDERED and HEAD OF QUEUE commands are looked at
/// for in one round; the others' turn comes when these have gone on.
const UNITS_MAX: usize = 8;

impl Task {
    fn is_point(&self) -> bool {
        matches!(
            self.attribute,
            TaskAttribute::Ordered | TaskAttribute::HeadOfQueue
        )
    }

    fn has_place(&self) -> bool {
        match &self.work {
            Work::Write(write) => matches!(
                write.state,
                WriteState::Durable { .. } | WriteState::Delayed | WriteState::Journal { .. }
            ),
            Work::Sync(_) => !self.dormant,
            Work::Read(_) | Work::Pass(_) => false,
        }
    }

    /// Nothing but its turn is missing.
    fn awaits_turn(&self) -> bool {
        match &self.work {
            Work::Write(write) => matches!(write.state, WriteState::Dormant(_)),
            _ => self.dormant,
        }
    }
}

impl Relay {
    /// Puts a command that has arrived in its session's line. False if it may
    /// not begin yet.
    pub(super) fn line_up(&mut self, lan: LanKey, key: TaskKey) -> bool {
        let Self { lans, tasks, .. } = self;
        let lan = &mut lans[lan.0];
        let task = &tasks[key.0];
        if lan.line.is_empty() {
            if !task.is_point() {
                return true;
            }
            let earlier = lan.tasks.iter().flatten().copied();
            lan.line
                .extend(earlier.filter(|&other| other != key && !tasks[other.0].has_place()));
            lan.line
                .make_contiguous()
                .sort_unstable_by_key(|key| tasks[key.0].arrival);
        }
        if task.attribute == TaskAttribute::HeadOfQueue {
            lan.line.push_front(key);
        } else {
            lan.line.push_back(key);
        }
        !self.is_blocked(key)
    }

    /// Whether a command must still let others of its session take their place.
    pub(super) fn is_blocked(&self, key: TaskKey) -> bool {
        let task = &self.tasks[key.0];
        let Some((lan, _)) = task.lan else {
            return false;
        };
        let ahead = self.lans[lan.0].line.iter().take_while(|&&at| at != key);
        task.attribute != TaskAttribute::HeadOfQueue
            && self.lans[lan.0].line.contains(&key)
            && ahead.map(|at| &self.tasks[at.0]).any(|other| {
                same_lun(other.lun, task.lun)
                    && (other.is_point() || task.attribute == TaskAttribute::Ordered)
            })
    }

    /// The command has its place, or has gone: others may go on at the
    /// session's next turn.
    pub(super) fn leave_line(&mut self, lan: LanKey, key: TaskKey) {
        let Some(session) = self.lans.get_mut(lan.0) else {
            return;
        };
        if let Some(at) = session.line.iter().position(|&task| task == key) {
            session.line.remove(at);
            session.line_moved = true;
            self.touch_lan(lan);
        }
    }

    /// Lets everything go on whose turn has come.
    pub(super) fn advance_line(&mut self, net: &mut Net<'_>, now: Time, lan: LanKey) {
        while let Some(session) = self.lans.get_mut(lan.0)
            && std::mem::take(&mut session.line_moved)
        {
            while let Some(key) = self.next_in_line(lan) {
                self.take_turn(net, now, key);
            }
            let Self { lans, tasks, .. } = self;
            if let Some(session) = lans.get_mut(lan.0)
                && !session.line.iter().any(|key| tasks[key.0].is_point())
            {
                session.line.clear();
            }
        }
    }

    /// The first command that only waits for its turn, and has it.
    fn next_in_line(&self, lan: LanKey) -> Option<TaskKey> {
        // Units of which something, or a point, stands further ahead.
        let mut some: ArrayVec<u64, UNITS_MAX> = ArrayVec::new();
        let mut points: ArrayVec<u64, UNITS_MAX> = ArrayVec::new();
        for &key in &self.lans.get(lan.0)?.line {
            let task = &self.tasks[key.0];
            let behind = match task.attribute {
                TaskAttribute::HeadOfQueue => false,
                TaskAttribute::Ordered => some.iter().any(|&lun| same_lun(lun, task.lun)),
                _ => points.iter().any(|&lun| same_lun(lun, task.lun)),
            };
            if !behind && task.awaits_turn() {
                return Some(key);
            }
            for (list, counts) in [(&mut some, true), (&mut points, task.is_point())] {
                if counts && !list.contains(&task.lun) && list.try_push(task.lun).is_err() {
                    return None;
                }
            }
        }
        None
    }

    fn take_turn(&mut self, net: &mut Net<'_>, now: Time, key: TaskKey) {
        let task = &mut self.tasks[key.0];
        task.dormant = false;
        match (&task.work, task.volume) {
            (Work::Write(_), _) => self.commit_write(now, key),
            (&Work::Sync(SyncTask { immed, .. }), Some(volume)) => {
                // It covers what has taken its place meanwhile.
                self.tasks[key.0].work = self.plan_sync(volume, immed);
                self.begin(net, key);
            }
            _ => self.begin(net, key),
        }
    }
}
