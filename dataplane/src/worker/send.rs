//! What goes out to the storage: the commands that wait for a nexus, and the
//! bytes of all that are under way, from the log or a staging page.

use sluice_hugepages::log::{Log, RecordId};
use sluice_proto::Time;
use sluice_proto::iscsi::Direction;
use sluice_proto::scsi::{self, cdb};

use super::nexus::WanState;
use super::relay::{Net, Relay};
use super::staging::STAGE_LEN;
use super::task::{ChunkState, NexusKey, TaskKey, WanKind, Work};
use super::upkeep::nexus_slot;
use super::volume::ReadOut;
use crate::tcp::Tcp;

/// Copies from the payloads of these records, one after the other, beginning so far in.
fn copy_joined(log: &Log, records: impl Iterator<Item = u32>, from: usize, into: &mut [u8]) {
    let (mut skip, mut done) = (from, 0);
    for record in records {
        let payload = log.payload(RecordId(record));
        let Some(rest) = payload.get(skip..) else {
            skip -= payload.len();
            continue;
        };
        let len = rest.len().min(into.len() - done);
        into[done..done + len].copy_from_slice(&rest[..len]);
        (skip, done) = (0, done + len);
        if done == into.len() {
            return;
        }
    }
    unreachable!("a write is as long as its records")
}

impl Relay {
    /// Sends what is queued for the storage, as far as its window and buffer go.
    pub(super) fn transmit_nexus(&mut self, net: &mut Net<'_>, now: Time, key: NexusKey) {
        let Self {
            nexuses,
            tasks,
            wan_tasks,
            staging,
            log,
            flush,
            nexus_timers,
            departing,
            ..
        } = self;
        let Some(nexus) = nexuses.get_mut(key.0) else {
            return;
        };
        let (Some(flow), Some(conn)) = (nexus.flow, nexus.conn.as_mut()) else {
            return;
        };
        if nexus.state == WanState::Connecting {
            return;
        }
        while conn.has_output() {
            net.tcp.draw(net.pool, flow);
            let pool = &*net.pool;
            let (stream_end, leaving) = (nexus.sent, &mut nexus.leaving);
            let sent = net.tcp.send(flow, |out| {
                let begin = out.as_ptr().addr();
                conn.transmit(out, |token, offset, into| {
                    let from = offset as usize;
                    let at = usize::try_from(token).unwrap_or(usize::MAX);
                    let wan_task = wan_tasks
                        .get(at)
                        .expect("data is fetched for commands that are out");
                    if from + into.len() == wan_task.out_len as usize
                        && leaving.len() < leaving.capacity()
                    {
                        // What is filled is a part of what is written now. (Its padding and
                        // digest may follow, in another segment.)
                        let end = into.as_ptr().addr() - begin + into.len();
                        leaving.push_back((stream_end + end as u64, at, wan_task.sent));
                    }
                    match wan_task.kind {
                        WanKind::Flush { record, .. }
                        | WanKind::Stray {
                            record: Some(record),
                            ..
                        } => copy_joined(log, flush.joined(record), from, into),
                        WanKind::Forward { task } => {
                            let Work::Pass(pass) = &tasks[task.0].work else {
                                unreachable!("only passing commands forward data")
                            };
                            if let Some(room) = pass.room {
                                return log.copy_received(room, from, into);
                            }
                            let mut done = 0;
                            while done < into.len() {
                                let at = from + done;
                                let len = (STAGE_LEN - at % STAGE_LEN).min(into.len() - done);
                                let page = staging.bytes(pool, pass.pages[at / STAGE_LEN]);
                                into[done..done + len]
                                    .copy_from_slice(&page[at % STAGE_LEN..at % STAGE_LEN + len]);
                                done += len;
                            }
                        }
                        WanKind::FlushSync { .. }
                        | WanKind::Stray { record: None, .. }
                        | WanKind::Chunk { .. }
                        | WanKind::Check { .. }
                        | WanKind::Holding { .. }
                        | WanKind::Poll { .. }
                        | WanKind::Probe { .. } => {
                            unreachable!("these commands have no data-out")
                        }
                    }
                })
            });
            if sent == 0 {
                break;
            }
            nexus.sent += sent as u64;
            if !nexus.leaving.is_empty() && !nexus.departs {
                nexus.departs = true;
                departing.push(key);
            }
            if !nexus.watched {
                (nexus.watched, nexus.progressed) = (true, now);
                nexus_timers.arm(nexus_slot(key), Time::ZERO);
            }
        }
    }

    /// Notes of which commands the last data has left in this step. By the next time that
    /// its nexus is served, an answer may have come.
    pub fn note_departures(&mut self, tcp: &Tcp, now: Time) {
        let Self {
            departing,
            nexuses,
            wan_tasks,
            ..
        } = self;
        departing.retain(|&key| {
            let nexus = &mut nexuses[key.0];
            let Some(flow) = nexus.flow else {
                nexus.leaving.clear();
                nexus.departs = false;
                return false;
            };
            let unsent = tcp.unsent(flow) as u64;
            let gone = nexus.sent.saturating_sub(unsent);
            while let Some((_, at, given)) = nexus.leaving.pop_front_if(|(end, ..)| *end <= gone) {
                if let Some(task) = wan_tasks.get_mut(at)
                    && task.sent == given
                    && task.nexus == key
                {
                    task.left = Some(now);
                }
            }
            nexus.departs = !nexus.leaving.is_empty();
            nexus.departs
        });
    }

    /// Sends the commands and chunks that wait for this nexus, as far as its window goes.
    pub(super) fn send_wanted(&mut self, now: Time, key: NexusKey) {
        while let Some(nexus) = self.nexuses.get_mut(key.0)
            && nexus.is_ready()
            && nexus.window() > 0
            && self.wan_tasks.len() < self.wan_tasks.capacity()
        {
            let target = nexus.target;
            let Some(&task) = nexus.wanted.front() else {
                return;
            };
            // C-8: an older change could land after it.
            if self.is_fenced_off(target) && self.passes_change(task) {
                return;
            }
            if !self.send_for(now, key, task) {
                self.nexuses[key.0].wanted.pop_front();
            }
        }
    }

    /// Sends one thing that the task wants; false if it wants no more. A task on
    /// the list wants something: one that is answered is on it no more.
    fn send_for(&mut self, now: Time, key: NexusKey, task_key: TaskKey) -> bool {
        let task = &mut self.tasks[task_key.0];
        let (lun, mut cdb, volume) = (task.lun, task.cdb, task.volume);
        let cdb_rest = task.cdb_rest;
        if let (Some(at), Some(_)) = (scsi::fua_byte(&cdb), volume)
            && cdb[at] & cdb::FUA != 0
        {
            // The computer was told that FUA is honoured, and it is: what is read was flushed
            // and synced before, what is changed is before its answer. The storage may not
            // know it.
            cdb[at] &= !(cdb::DPO | cdb::FUA);
        }
        let expected = task.expected_len;
        let direction = match &mut task.work {
            Work::Read(read) => {
                let Some(at) = read
                    .chunks
                    .iter()
                    .position(|chunk| chunk.state == ChunkState::Wanted)
                else {
                    return false;
                };
                let (page, lba, blocks) = (
                    read.chunks[at].page,
                    read.chunks[at].lba,
                    read.chunks[at].blocks,
                );
                let volume = volume.expect("a read has a volume");
                let geometry = self
                    .volume(volume)
                    .geometry
                    .expect("a read was planned with the geometry");
                let len = blocks * geometry.block_len;
                let kind = WanKind::Chunk {
                    task: task_key,
                    volume,
                    page,
                    len,
                    received: 0,
                };
                let wan_task = self.submit(
                    now,
                    key,
                    kind,
                    lun,
                    cdb::read(lba, blocks),
                    Direction::In(len),
                );
                let read = self.read_mut(task_key);
                read.chunks[at].state = ChunkState::Asked(wan_task);
                let wants_more = read
                    .chunks
                    .iter()
                    .any(|chunk| chunk.state == ChunkState::Wanted);
                let state = self.volume_mut(volume);
                state.reads_asked += 1;
                let number = state.reads_asked;
                state.reads_out.push(ReadOut {
                    wan_task,
                    number,
                    lba,
                    blocks: u64::from(blocks),
                });
                return wants_more;
            }
            Work::Pass(pass) if pass.read && pass.write => Direction::Both {
                out_len: expected,
                in_len: pass.read_len,
            },
            Work::Pass(pass) if pass.read => Direction::In(expected),
            Work::Pass(pass) if pass.write => Direction::Out(expected),
            Work::Pass(_) => Direction::None,
            Work::Write(_) | Work::Sync(_) => unreachable!("these go by way of the flush"),
        };
        let wan_task = self.submit_long(
            now,
            key,
            WanKind::Forward { task: task_key },
            lun,
            (cdb, cdb_rest),
            direction,
        );
        let volume = self.tasks[task_key.0].volume;
        let losses = volume.map_or(0, |volume| self.volume(volume).losses);
        let pass = self.pass_mut(task_key);
        (pass.asked, pass.losses) = (Some(wan_task), losses);
        false
    }
}
