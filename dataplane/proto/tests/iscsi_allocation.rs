//! In full feature phase neither side of a connection allocates: not for
//! commands, data in either direction, R2Ts, pings or aborts.

use sluice_proto::iscsi::{
    Command, DigestPolicy, Direction, InitiatorConfig, InitiatorConn, InitiatorEvent, IscsiName,
    Offers, TargetConfig, TargetConn, TargetEvent, TaskAttribute, TaskFunctionResponse,
};
use sluice_proto::scsi::ScsiStatus;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting does
// not allocate (the cell is const-initialised and needs no destructor).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Link {
    initiator: InitiatorConn,
    target: TargetConn,
    to_target: Box<[u8; 65_536]>,
    to_initiator: Box<[u8; 65_536]>,
    /// Bytes of `to_initiator` that wait to be taken.
    waiting: usize,
    ended: u64,
    aborted: u64,
}

impl Link {
    /// One turn of both sides; 16,001 bytes at most, so that PDUs are cut.
    fn turn(&mut self) -> bool {
        let out = &mut self.to_target[..16_001];
        let len = self.initiator.transmit(out, |_, _, slot| slot.fill(7));
        let mut used = 0;
        let mut still = 0;
        while still < 2 {
            let (taken, event) = self.target.receive(&self.to_target[used..len]);
            used += taken;
            still = if event.is_some() { 0 } else { still + 1 };
            match event {
                Some(TargetEvent::Login) => self.target.accept_login(1),
                Some(TargetEvent::Command(command)) if command.write => {
                    self.target.grant(command.task);
                }
                Some(TargetEvent::Command(command)) => {
                    let (task, len) = (command.task, command.expected_len);
                    self.target
                        .data_in(task, 1, 0, 0, len / 2)
                        .expect("room for two pieces a task");
                    let rest = len - len / 2;
                    self.target
                        .data_in(task, 2, 0, len / 2, rest)
                        .expect("room for two pieces a task");
                    self.target.respond(task, ScsiStatus::GOOD, &[], len);
                }
                Some(TargetEvent::WriteComplete { task }) => {
                    let status = ScsiStatus::CHECK_CONDITION;
                    self.target.respond(task, status, &[0x70; 18], 0);
                }
                Some(TargetEvent::TaskManagement { tag, ref_task, .. }) => {
                    if let Some(task) = ref_task {
                        self.target.abort(task);
                    }
                    let response = TaskFunctionResponse::Complete;
                    self.target.answer_task_management(tag, response);
                }
                Some(TargetEvent::Violation(violation)) => panic!("{violation:?}"),
                _ => {}
            }
        }
        assert_eq!(used, len, "the target takes what it is given");
        let out = &mut self.to_initiator[self.waiting..16_001];
        let back = self.waiting + self.target.transmit(out, |_, _, slot| slot.fill(9));
        while self.target.next_released().is_some() {}
        let mut used = 0;
        let mut still = 0;
        while still < 2 {
            let (taken, event) = self.initiator.receive(&self.to_initiator[used..back]);
            used += taken;
            still = if event.is_some() { 0 } else { still + 1 };
            match event {
                Some(InitiatorEvent::Response { .. }) => self.ended += 1,
                Some(InitiatorEvent::TaskManagementResponse { .. }) => self.aborted += 1,
                Some(InitiatorEvent::Violation(violation)) => panic!("{violation:?}"),
                _ => {}
            }
        }
        // A response waits while its task's data is in the PDU under way.
        self.to_initiator.copy_within(used..back, 0);
        self.waiting = back - used;
        len > 0 || back > 0
    }

    fn load(&mut self, rounds: u64) {
        for token in 0..rounds {
            let data = match token % 3 {
                0 => Direction::Out(300_000),
                1 => Direction::In(200_000),
                _ => Direction::Out(4096),
            };
            let command = Command {
                token,
                lun: 0,
                cdb: [0; 16],
                cdb_rest: None,
                attribute: TaskAttribute::Simple,
                data,
            };
            while self.initiator.submit(command).is_err() {
                self.turn();
            }
            if token % 16 == 0 {
                self.turn();
                let _ = self.initiator.abort_task(token);
                self.initiator.ping();
                self.target.ping();
            }
        }
        while self.turn() {}
    }
}

#[test]
fn full_feature_phase_allocates_nothing() {
    let offers = Offers {
        header_digest: DigestPolicy::Preferred,
        data_digest: DigestPolicy::Preferred,
        max_outstanding_r2t: 4,
        max_burst_length: 65_536,
        ..Offers::lan()
    };
    let mut link = Link {
        initiator: InitiatorConn::new(InitiatorConfig {
            initiator_name: IscsiName::from("iqn.2004-03.example.computer:a").unwrap(),
            target_name: Some(IscsiName::from("iqn.2004-03.example.storage:v").unwrap()),
            isid: [0x80, 0, 0, 0, 0, 1],
            offers,
            chap: None,
            max_tasks: 32,
        }),
        target: TargetConn::new(TargetConfig {
            offers,
            ..TargetConfig::default()
        }),
        to_target: Box::new([0; 65_536]),
        to_initiator: Box::new([0; 65_536]),
        waiting: 0,
        ended: 0,
        aborted: 0,
    };
    while link.turn() {}
    assert!(link.target.parameters().data_digest, "digests are on");
    let before = ALLOCATIONS.get();
    link.load(2000);
    assert_eq!(ALLOCATIONS.get() - before, 0, "allocations on the way");
    assert!(link.ended > 1800 && link.aborted > 50, "{}", link.aborted);
}
