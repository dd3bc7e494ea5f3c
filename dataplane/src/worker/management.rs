//! Task management functions (RFC 7143 11.5, 11.6; SAM-5 clause 7).
//!
//! What always holds: only commands without a status end (C-3), what is in the
//! log stays there; and a function is answered *complete* only when nothing of
//! what it ended can take effect any more. A write that is not in the log yet
//! is dropped at once. A passing command that is out at the storage and may
//! change something is aborted there, and the answer waits for the storage's,
//! for [`FUNCTION_MAX`] at most; then the function is *rejected*, and the
//! computer goes on to the next of its own means. Answers to everything else
//! that is out are swallowed.
//!
//! A reset ends reservations by RESERVE at the storage too; of a unit that is not
//! cached it is the storage's own. Mode parameters are left as they are.
//!
//! A computer's commands that another computer's function ends get TASK ABORTED
//! (as with TAS = 1, SPC-5 8.4.8), so that it need not wait for its own timeout.

use arrayvec::ArrayVec;
use sluice_proto::Time;
use sluice_proto::iscsi::{TaskFunction, TaskFunctionResponse, TaskId};
use sluice_proto::scsi::{Access, ScsiStatus, Sense, SenseKey, same_lun, sense};

use super::nexus::TARGET_LUNS_MAX;
use super::relay::{Net, Relay};
use super::reservation::Release;
use super::task::{LanKey, NexusKey, PassTask, Task, TaskKey, VolumeKey, Work};
use super::wan::Ended;

/// Longest wait for the storage: common initiators give a function 15 s or more.
const FUNCTION_MAX: std::time::Duration = std::time::Duration::from_secs(10);
/// Functions that wait for the storage at a time; one more is rejected.
pub(super) const FUNCTIONS_MAX: usize = 64;

/// What a function ends.
#[derive(Clone, Copy, Debug)]
enum Scope {
    Task(TaskKey),
    /// One computer's commands for a unit.
    TaskSet {
        nexus: NexusKey,
        lun: u64,
    },
    /// All computers' commands for a unit.
    Unit {
        target: usize,
        lun: u64,
    },
    Target(usize),
}

/// A function that waits for commands out at the storage.
#[derive(Debug)]
pub(super) struct Function {
    lan: LanKey,
    tag: u32,
    /// It covers what arrived before.
    arrival: u64,
    scope: Scope,
    waits: usize,
    deadline: Time,
    cold: bool,
    reset: Reset,
    /// Of its end, if it has one.
    response: TaskFunctionResponse,
    /// RELEASEs that it waits for and the storage had no time for, to be sent again.
    releases_again: ArrayVec<(VolumeKey, NexusKey), TARGET_LUNS_MAX>,
}

/// What a function has the storage reset.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reset {
    No,
    /// By this nexus, as soon as that can: it is one of what the function waits for.
    Wanted(NexusKey, ArrayVec<u64, TARGET_LUNS_MAX>),
    /// This nexus is at it.
    Asked(NexusKey, ArrayVec<u64, TARGET_LUNS_MAX>),
}

impl Relay {
    /// Does a task management function. True if it was a costly one: the
    /// session's next PDU is then for the next step.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, the facts of one request"
    )]
    pub(super) fn task_management(
        &mut self,
        net: &mut Net<'_>,
        now: Time,
        lan: LanKey,
        tag: u32,
        function: TaskFunction,
        lun: u64,
        referenced: Option<TaskId>,
    ) -> bool {
        let Some(nexus) = self.lans[lan.0].nexus else {
            self.answer_function(lan, tag, TaskFunctionResponse::Rejected);
            return false;
        };
        let target = self.nexuses[nexus.0].target;
        let scope = match function {
            TaskFunction::AbortTask => {
                let task = referenced.and_then(|task| self.lans[lan.0].task(task));
                match task.filter(|task| same_lun(self.tasks[task.0].lun, lun)) {
                    Some(task) => Scope::Task(task),
                    None => {
                        self.answer_function(lan, tag, TaskFunctionResponse::TaskDoesNotExist);
                        return false;
                    }
                }
            }
            TaskFunction::AbortTaskSet | TaskFunction::ClearTaskSet | TaskFunction::LunReset
                if !self.unit_exists(nexus, lun) =>
            {
                self.answer_function(lan, tag, TaskFunctionResponse::LunDoesNotExist);
                return false;
            }
            TaskFunction::AbortTaskSet => Scope::TaskSet { nexus, lun },
            TaskFunction::ClearTaskSet | TaskFunction::LunReset => Scope::Unit { target, lun },
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => Scope::Target(target),
            // No ACA here (NormACA = 0); the connection answers for the others.
            _ => {
                self.answer_function(lan, tag, TaskFunctionResponse::NotSupported);
                return false;
            }
        };
        if self.functions.len() == FUNCTIONS_MAX {
            self.answer_function(lan, tag, TaskFunctionResponse::Rejected);
            return false;
        }
        self.arrivals += 1;
        self.counters.functions += 1;
        let mut waiting = Function {
            lan,
            tag,
            arrival: self.arrivals,
            scope,
            waits: 0,
            deadline: now + FUNCTION_MAX,
            cold: function == TaskFunction::TargetColdReset,
            reset: Reset::No,
            response: TaskFunctionResponse::Complete,
            releases_again: ArrayVec::new(),
        };
        match scope {
            Scope::Task(task) => waiting.waits = self.end_task(lan, task),
            _ => {
                for at in 0..self.tasks.capacity() {
                    let key = TaskKey(at);
                    if self
                        .tasks
                        .get(at)
                        .is_some_and(|task| self.covers(&waiting, key, task))
                    {
                        waiting.waits += self.end_task(lan, key);
                    }
                }
            }
        }
        let reset = match function {
            TaskFunction::LunReset | TaskFunction::TargetWarmReset => Some(Sense::BUS_DEVICE_RESET),
            TaskFunction::TargetColdReset => Some(Sense::POWER_ON_OR_RESET),
            _ => None,
        };
        if let Some(sense) = reset {
            self.tell_of_reset(nexus, scope, sense);
            let (releases, luns) = self.reset_at_storage(nexus, scope, waiting.arrival);
            waiting.waits += releases;
            if !luns.is_empty() {
                waiting.waits += 1;
                waiting.reset = Reset::Wanted(nexus, luns);
            }
        }
        if waiting.waits > 0 {
            self.functions.push(waiting);
            self.ask_for_resets();
        } else {
            self.complete(net, now, &waiting);
        }
        !matches!(scope, Scope::Task(_))
    }

    fn answer_function(&mut self, lan: LanKey, tag: u32, response: TaskFunctionResponse) {
        self.lans[lan.0].conn.answer_task_management(tag, response);
        self.touch_lan(lan);
    }

    fn complete(&mut self, net: &mut Net<'_>, now: Time, function: &Function) {
        self.answer_function(function.lan, function.tag, function.response);
        let (true, Scope::Target(target)) = (function.cold, function.scope) else {
            return;
        };
        // RFC 7143 11.5.1: as at power on, all sessions of the target end.
        self.begin_closing(now, function.lan);
        for at in 0..self.nexuses.capacity() {
            if let Some(nexus) = self.nexuses.get(at)
                && nexus.target == target
                && let Some(lan) = nexus.lan
                && lan != function.lan
            {
                self.lose_lan(net, lan);
            }
        }
    }

    /// A unit that the storage has told of, or that the log knows. Before the
    /// storage was asked, after a start, every unit counts.
    fn unit_exists(&self, nexus: NexusKey, lun: u64) -> bool {
        let nexus = &self.nexuses[nexus.0];
        self.find_volume(nexus.target, lun).is_some()
            || nexus.probe.luns.is_empty()
            // A longer list was cut off: the rest is served, uncached.
            || nexus.probe.luns.is_full()
            || nexus.probe.luns.iter().any(|&known| same_lun(known, lun))
    }

    /// RFC 7143 4.2.3.2: the tasks of a function are those that came before it.
    fn covers(&self, function: &Function, key: TaskKey, task: &Task) -> bool {
        let target = self.nexuses[task.nexus.0].target;
        task.arrival < function.arrival
            && match function.scope {
                Scope::Task(only) => only == key,
                Scope::TaskSet { nexus, lun } => nexus == task.nexus && same_lun(lun, task.lun),
                Scope::Unit { target: of, lun } => of == target && same_lun(lun, task.lun),
                Scope::Target(of) => of == target,
            }
    }

    /// A computer has logged out with commands that have no status: they end, and what is
    /// out at the storage is aborted there (RFC 7143 11.14).
    pub(super) fn end_tasks_of(&mut self, lan: LanKey) {
        for at in 0..self.lans[lan.0].tasks.len() {
            if let Some(task) = self.lans[lan.0].tasks[at] {
                self.tell_of_end(lan, task);
                self.end_task(lan, task);
            }
        }
    }

    /// It ends with its connection, without a status; the computer hears of that when it is
    /// back (RFC 7143 11.14.5).
    pub(super) fn tell_of_end(&mut self, lan: LanKey, task: TaskKey) {
        let Some(nexus) = self.lans[lan.0].nexus else {
            return;
        };
        let Task { volume, lun, .. } = self.tasks[task.0];
        // It takes no room from what says more, nor from a unit that has no other way to
        // be told.
        let kept = &self.nexuses[nexus.0].unit_attentions;
        let is_told = kept.iter().any(|(of, _)| same_lun(*of, lun));
        if volume.is_some() && !is_told && !kept.is_full() {
            self.keep_unit_attention(nexus, lun, &Sense::CLEARED_BY_ISCSI_EVENT.fixed());
        }
    }

    /// Ends a command without a status. 1 if it may still change something at
    /// the storage.
    fn end_task(&mut self, by: LanKey, key: TaskKey) -> usize {
        match self.tasks[key.0].lan {
            Some((lan, number)) if lan == by => {
                self.tasks[key.0].lan = None;
                let session = &mut self.lans[lan.0];
                session.tasks[usize::from(number.0)] = None;
                session.conn.abort(number);
                self.leave_line(lan, key);
                self.touch_lan(lan);
                self.abandon(key);
            }
            Some(_) => self.give_up(key, ScsiStatus::TASK_ABORTED, &[]),
            // Its computer has gone, or it was ended before.
            None => {}
        }
        let Some(Task {
            work: Work::Pass(pass),
            nexus,
            ..
        }) = self.tasks.get_mut(key.0)
        else {
            return 0;
        };
        let Some(wan_task) = pass.asked.filter(|_| may_change_something(pass)) else {
            return 0;
        };
        if !std::mem::replace(&mut pass.aborting, true) {
            let nexus = *nexus;
            if let Some(conn) = self.nexuses[nexus.0].conn.as_mut() {
                // With too many under way, or none to send it: its answer is waited for.
                let _ = conn.abort_task(wan_task as u64);
            }
            self.touch_nexus(nexus);
        }
        1
    }

    /// Every computer of the units is told, the one that asked too (SAM-5 5.14:
    /// for every I_T nexus).
    fn tell_of_reset(&mut self, by: NexusKey, scope: Scope, sense: Sense) {
        let target = self.nexuses[by.0].target;
        for volume in self.volume_keys() {
            let lun = self.volume(volume).lun;
            let hit = match scope {
                Scope::Unit { lun: unit, .. } => same_lun(lun, unit),
                _ => true,
            };
            if !hit || self.volume(volume).target != Some(target) {
                continue;
            }
            for at in 0..self.nexuses.capacity() {
                if self
                    .nexuses
                    .get(at)
                    .is_some_and(|nexus| nexus.target == target && nexus.established)
                {
                    self.keep_unit_attention(NexusKey(at), lun, &sense.fixed());
                }
            }
        }
    }

    /// What a reset ends at the storage beyond the commands: reservations by
    /// RESERVE, and of a unit that is not cached everything. How many RELEASEs the
    /// function of this arrival has to wait for, and the units that the storage is
    /// to reset.
    fn reset_at_storage(
        &mut self,
        by: NexusKey,
        scope: Scope,
        arrival: u64,
    ) -> (usize, ArrayVec<u64, TARGET_LUNS_MAX>) {
        let target = self.nexuses[by.0].target;
        let (mut releases, mut luns) = (0, ArrayVec::new());
        if let Scope::Unit { lun, .. } = scope
            && self.find_volume(target, lun).is_none()
        {
            luns.push(lun);
        }
        for volume in self.volume_keys() {
            let lun = self.volume(volume).lun;
            let hit = match scope {
                Scope::Unit { lun: unit, .. } => same_lun(lun, unit),
                _ => true,
            };
            if !hit || self.volume(volume).target != Some(target) {
                continue;
            }
            match self.end_reserve(volume, arrival) {
                Release::NotNeeded => {}
                Release::Sent => releases += 1,
                Release::ByReset => {
                    // As many as a target may have.
                    let _ = luns.try_push(lun);
                }
            }
        }
        (releases, luns)
    }

    /// Has the storage do the resets that functions wait for, where a nexus can now.
    fn ask_for_resets(&mut self) {
        for at in 0..self.functions.len() {
            if let Reset::Wanted(nexus, luns) = self.functions[at].reset.clone()
                && self.reset_units(nexus, luns.clone())
            {
                self.functions[at].reset = Reset::Asked(nexus, luns);
            }
        }
    }

    /// The storage knows no such unit; nor does a function that is of this unit alone.
    pub(super) fn unit_is_missing(&mut self, nexus: NexusKey, missing: u64) {
        for function in &mut self.functions {
            if matches!(function.reset, Reset::Asked(asked, _) if asked == nexus)
                && matches!(function.scope, Scope::Unit { lun, .. } if same_lun(lun, missing))
            {
                function.response = TaskFunctionResponse::LunDoesNotExist;
            }
        }
    }

    /// The storage has reset what this nexus asked it to.
    pub(super) fn reset_is_done(&mut self, nexus: NexusKey) {
        for function in &mut self.functions {
            if matches!(function.reset, Reset::Asked(asked, _) if asked == nexus) {
                function.reset = Reset::No;
                function.waits -= 1;
            }
        }
        self.functions_moved = true;
    }

    /// The nexus will not do it: its session is lost, and it may after the next
    /// login; or the storage has refused, and the function is *rejected*.
    pub(super) fn reset_is_given_up(&mut self, nexus: NexusKey, is_refused: bool) {
        for function in &mut self.functions {
            match &function.reset {
                Reset::Asked(asked, luns) if *asked == nexus => {
                    function.reset = Reset::Wanted(nexus, luns.clone());
                    if is_refused {
                        function.deadline = Time::ZERO;
                        self.functions_moved = true;
                    }
                }
                _ => {}
            }
        }
    }

    /// A passing command has been answered: if it is a RELEASE that a function waits
    /// for, GOOD ends that, and what says nothing of it has it sent again, with the
    /// next sweep. For any other answer the function waits in vain, and is *rejected*.
    pub(super) fn release_answered(&mut self, key: TaskKey, status: ScsiStatus, sense: &[u8]) {
        let Task { nexus, volume, .. } = self.tasks[key.0];
        let arrival = self.pass_mut(key).released_for.take();
        let mut functions = self.functions.iter_mut();
        let function = functions.find(|function| Some(function.arrival) == arrival);
        let (Some(function), Some(volume)) = (function, volume) else {
            return;
        };
        let is_attention = status == ScsiStatus::CHECK_CONDITION
            && sense::parse(sense)
                .is_some_and(|received| received.sense.key == SenseKey::UNIT_ATTENTION);
        let is_busy = [ScsiStatus::BUSY, ScsiStatus::TASK_SET_FULL].contains(&status);
        if status == ScsiStatus::GOOD {
            function.waits -= 1;
            self.functions_moved = true;
        } else if is_attention || is_busy {
            // One a unit of the target at most.
            function.releases_again.push((volume, nexus));
        }
    }

    /// Sends again what the storage had no time for. What it holds no more, a reset
    /// that it has told of having ended it, need not be released.
    fn release_again(&mut self) {
        for at in 0..self.functions.len() {
            let arrival = self.functions[at].arrival;
            for (volume, nexus) in self.functions[at].releases_again.take() {
                if self.find_holder(volume) != Some(nexus) {
                    self.functions[at].waits -= 1;
                } else if !self.release(volume, nexus, Some(arrival)) {
                    self.functions[at].releases_again.push((volume, nexus));
                }
            }
        }
    }

    /// A command that a function ended is over at the storage too.
    pub(super) fn ended_at_storage(&mut self, key: TaskKey, task: &Task) {
        for at in 0..self.functions.len() {
            if self.covers(&self.functions[at], key, task) {
                self.functions[at].waits -= 1;
            }
        }
        self.functions_moved = true;
    }

    /// Answers functions that have nothing more to wait for, or waited too long.
    pub(super) fn sweep_functions(&mut self, net: &mut Net<'_>, now: Time) {
        self.functions_moved = false;
        self.ask_for_resets();
        self.release_again();
        for at in (0..self.functions.len()).rev() {
            let function = &self.functions[at];
            if function.waits > 0 && now < function.deadline {
                continue;
            }
            let function = self.functions.swap_remove(at);
            if function.waits == 0 {
                self.complete(net, now, &function);
                // A cold reset takes sessions, and their functions, with it.
                return self.functions_moved = true;
            }
            self.answer_function(function.lan, function.tag, TaskFunctionResponse::Rejected);
        }
    }

    /// The session has gone, and nobody waits for its answers.
    pub(super) fn forget_functions(&mut self, lan: LanKey) {
        self.functions.retain(|function| function.lan != lan);
    }

    /// The storage has answered an ABORT TASK: the command gets no answer any more.
    pub(super) fn aborted_at_storage(&mut self, net: &mut Net<'_>, now: Time, wan_task: usize) {
        let Some(super::task::WanKind::Forward { task }) =
            self.wan_tasks.get(wan_task).map(|task| task.kind)
        else {
            return;
        };
        self.take_wan_task(wan_task);
        self.pass_answered(net, now, task, Ended::aborted());
    }
}

/// Whether it matters if the storage still does the command.
fn may_change_something(pass: &PassTask) -> bool {
    pass.write
        || matches!(
            pass.barrier,
            Some(Access::Medium | Access::Range { changes: true, .. })
        )
}
