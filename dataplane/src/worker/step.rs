//! The run-to-completion step: frames in, routed or delivered; TCP; the relay;
//! frames out. Nothing below reads a clock or makes a system call but the
//! ports' own receive and transmit.

use arrayvec::ArrayVec;
use sluice_hugepages::log::Log;
use sluice_hugepages::pool::{BURST_LEN, Burst, Frame, Pool};
use sluice_hugepages::tables::{BufferState, Command, Outcome};
use sluice_proto::Time;

use super::publish::Publisher;
use super::relay::{Net, Relay};
use crate::driver::Port;
use crate::net::{Local, LocalKind, Router, TxQueues};
use crate::tcp::{FourTuple, Tcp};

/// What the worker reaches outside itself.
#[derive(Debug)]
pub struct Io<'a> {
    /// The router's, and behind them the one to the kernel, if there is one.
    pub ports: &'a mut [Port],
    /// The control segment: commands in, rows out. None where nobody looks on.
    pub control: Option<&'a mut Publisher>,
}

/// What a step did, and when the next is due though nothing arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    pub did_work: bool,
    pub deadline: Time,
}

/// Counters of the step itself, for `show runtime`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepCounters {
    pub steps: u64,
    pub steps_idle: u64,
    pub frames: u64,
}

/// One core's worth of data plane.
#[derive(Debug)]
pub struct Worker {
    /// Before the pool, whose pages its sockets' buffers are.
    pub tcp: Tcp,
    pub relay: Relay,
    pub router: Router,
    pub pool: Pool,
    pub counters: StepCounters,
    tx: TxQueues,
    /// IPv4 packets that TCP has made and the router has yet to address.
    outbox: Vec<Frame>,
    burst: Burst,
    locals: ArrayVec<Local, BURST_LEN>,
}

impl Worker {
    pub fn new(pool: Pool, router: Router, tcp: Tcp, mut relay: Relay) -> Self {
        let locals = router.ports().map(|port| port.address);
        relay.reservations.add_locals(locals);
        // The kernel's is behind the network's.
        let ports = router.ports().len() + usize::from(router.kernel_port().is_some());
        Self {
            tcp,
            relay,
            router,
            pool,
            counters: StepCounters::default(),
            tx: TxQueues::new(ports),
            outbox: Vec::with_capacity(OUTBOX_LEN),
            burst: Burst::new(),
            locals: ArrayVec::new(),
        }
    }

    /// One round over everything that is there to do.
    pub fn step(&mut self, now: Time, io: &mut Io<'_>) -> Next {
        // What the step before answered has gone out with it.
        self.relay.count_answered(now);
        let mut did_work = self.receive(now, io);
        while let Some((flow, event)) = self.tcp.next_event() {
            did_work = true;
            let mut net = Net {
                tcp: &mut self.tcp,
                pool: &mut self.pool,
            };
            self.relay.flow_event(&mut net, now, flow, event);
        }
        let mut net = Net {
            tcp: &mut self.tcp,
            pool: &mut self.pool,
        };
        did_work |= self.relay.work(&mut net, now);
        self.tcp.poll(now, &mut self.pool, &mut self.outbox);
        self.relay.note_departures(&self.tcp, now);
        self.router.poll(now, &mut self.pool, &mut self.tx);
        did_work |= self.transmit(now, io);
        self.counters.steps += 1;
        self.counters.steps_idle += u64::from(!did_work);
        let mut deadline = self.deadline();
        if let Some(control) = &mut io.control {
            control.run(now, self, io.ports);
            deadline = deadline.min(control.deadline());
        }
        if !did_work {
            // The next one may be long in coming.
            self.relay.count_answered(now);
        }
        Next { did_work, deadline }
    }

    /// Whether frames wait for a port to take more.
    pub fn tx_waiting(&self, port: u8) -> bool {
        !self.tx.port(port).is_empty()
    }

    /// When the next step is due though nothing arrives.
    pub fn deadline(&self) -> Time {
        self.tcp
            .deadline()
            .min(self.relay.deadline())
            .min(self.router.deadline())
    }

    /// Carries out a command of the control process: how it ended, how many volumes it was
    /// about, and what there is of buffers if it was about those.
    pub fn command_from_control(
        &mut self,
        now: Time,
        command: &Command,
    ) -> (Outcome, u32, BufferState) {
        let mut net = Net {
            tcp: &mut self.tcp,
            pool: &mut self.pool,
        };
        if let Some((outcome, buffers)) = self.relay.command_about_buffers(&mut net, now, command) {
            return (outcome, 0, buffers);
        }
        let (outcome, volumes) = self.relay.command_from_control(now, command);
        (outcome, volumes, BufferState::default())
    }

    /// Asks every computer to log out, and lets none in: see [`Relay::begin_stop`].
    pub fn begin_stop(&mut self, within_s: u16) {
        let mut net = Net {
            tcp: &mut self.tcp,
            pool: &mut self.pool,
        };
        self.relay.begin_stop(&mut net, within_s);
    }

    /// Ends the sessions that are left.
    pub fn cut_off(&mut self) {
        let mut net = Net {
            tcp: &mut self.tcp,
            pool: &mut self.pool,
        };
        self.relay.cut_off(&mut net);
    }

    /// Ends the worker as a crash would, and hands out the one thing that outlives it.
    pub fn into_log(self) -> Log {
        self.relay.into_log()
    }

    /// One burst of each port: forwarded by the router, or handed to TCP.
    fn receive(&mut self, now: Time, io: &mut Io<'_>) -> bool {
        let mut did_work = false;
        for (port, index) in io.ports.iter_mut().zip(0_u8..) {
            port.rx(now, &mut self.pool, &mut self.burst);
            if self.burst.is_empty() {
                continue;
            }
            did_work = true;
            self.counters.frames += self.burst.len() as u64;
            if self.router.kernel_port() == Some(index) {
                self.router
                    .input_kernel(now, &mut self.pool, &mut self.burst, &mut self.tx);
                continue;
            }
            self.router.input_burst(
                now,
                &mut self.pool,
                index,
                &mut self.burst,
                &mut self.tx,
                &mut self.locals,
            );
            for local in self.locals.drain(..) {
                let Local { frame, kind, .. } = local;
                match kind {
                    LocalKind::Segment(_) => {
                        self.tcp.input(now, &mut self.pool, frame, &mut self.outbox);
                    }
                    LocalKind::PacketTooBig(told) => {
                        self.pool.release(frame);
                        let tuple = FourTuple {
                            local: told.source,
                            remote: told.destination,
                        };
                        self.tcp.packet_too_big(now, &tuple, told.seq, told.mtu);
                    }
                }
            }
        }
        did_work
    }

    /// Everything that is to go out, as far as the links take it.
    fn transmit(&mut self, now: Time, io: &mut Io<'_>) -> bool {
        let mut did_work = !self.outbox.is_empty();
        for frame in self.outbox.drain(..) {
            self.router.output(now, &mut self.pool, frame, &mut self.tx);
        }
        for (port, index) in io.ports.iter_mut().zip(0_u8..) {
            while !self.tx.port(index).is_empty() {
                did_work = true;
                let waiting = self.tx.port(index).len();
                self.tx.fill_burst(index, &mut self.burst);
                port.tx(now, &mut self.pool, &mut self.burst);
                if !self.burst.is_empty() {
                    // The link takes no more now; what is left keeps its place.
                    self.tx.put_back(index, &mut self.burst);
                    did_work = waiting > self.tx.port(index).len();
                    break;
                }
            }
        }
        did_work
    }
}

/// TCP packets made between two flushes of the outbox: as many as the frames of
/// the largest window that one step may open.
const OUTBOX_LEN: usize = 4096;
