//! A port that wraps another and writes what passes to a pcap file
//! (nanosecond timestamps, both directions, as Wireshark and tshark read it).
//!
//! For looking, not for production: it copies every frame and writes to a file
//! from the worker. Bounded: at the size given the capture ends and the port
//! goes on; a file that cannot be written does the same.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use sluice_hugepages::pool::{BURST_LEN, Burst, Frame, Pool};
use sluice_proto::Time;

use super::parts;
use super::{Port, PortError};

/// A capture to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureSpec {
    pub path: PathBuf,
    /// Bytes of a frame that are kept. 128 keeps the headers of iSCSI over TCP.
    pub snap_len: u32,
    /// Bytes at which the capture ends.
    pub file_len_max: u64,
    /// What [`Time::ZERO`] is in nanoseconds since 1970, so that timestamps can be read.
    pub epoch_nanos: u64,
}

const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;
/// Written out when this much has come together.
const WRITE_LEN: usize = 64 * 1024;

/// See the module.
#[derive(Debug)]
pub struct TracedPort {
    inner: Port,
    spec: CaptureSpec,
    /// `None` when the capture has ended.
    file: Option<File>,
    file_len: u64,
    buffer: Vec<u8>,
    /// Frames that passed after the capture ended.
    not_captured: u64,
}

impl TracedPort {
    pub(super) fn create(inner: Port, spec: &CaptureSpec) -> Result<Self, PortError> {
        let failed = |source| PortError::Capture {
            path: spec.path.display().to_string(),
            source,
        };
        let mut file = File::create(&spec.path).map_err(failed)?;
        let mut header = Vec::with_capacity(FILE_HEADER_LEN);
        // Magic of nanosecond files, version 2.4, zone and accuracy 0, snap length, LINKTYPE_ETHERNET.
        for word in [0xa1b2_3c4d, 2 | 4 << 16, 0, 0, spec.snap_len, 1] {
            header.extend_from_slice(&u32::to_le_bytes(word));
        }
        file.write_all(&header).map_err(failed)?;
        let burst_len = BURST_LEN * (RECORD_HEADER_LEN + spec.snap_len as usize);
        Ok(Self {
            inner,
            spec: spec.clone(),
            file: Some(file),
            file_len: header.len() as u64,
            buffer: Vec::with_capacity(WRITE_LEN + burst_len),
            not_captured: 0,
        })
    }

    pub(super) fn inner(&self) -> &Port {
        &self.inner
    }

    pub(super) fn inner_mut(&mut self) -> &mut Port {
        &mut self.inner
    }

    /// Frames that passed after the capture ended.
    #[must_use]
    pub fn not_captured(&self) -> u64 {
        self.not_captured
    }

    pub(super) fn rx(&mut self, now: Time, pool: &mut Pool, out: &mut Burst) -> usize {
        let before = out.len();
        let count = self.inner.rx(now, pool, out);
        for frame in &out[before..] {
            self.record(now, pool, frame);
        }
        self.write_if(WRITE_LEN);
        count
    }

    pub(super) fn tx(&mut self, now: Time, pool: &mut Pool, burst: &mut Burst) {
        // Frames are gone once they are taken, so all are recorded, and those left over forgotten.
        let mut ends = [0; BURST_LEN];
        let (start, offered) = (self.buffer.len(), burst.len());
        let not_captured = self.not_captured;
        for (frame, end) in burst.iter().zip(&mut ends) {
            self.record(now, pool, frame);
            *end = self.buffer.len();
        }
        self.inner.tx(now, pool, burst);
        let taken = offered - burst.len();
        self.buffer
            .truncate(if taken == 0 { start } else { ends[taken - 1] });
        if self.not_captured > not_captured {
            self.not_captured = not_captured + taken as u64;
        }
        self.write_if(WRITE_LEN);
    }

    fn record(&mut self, now: Time, pool: &Pool, frame: &Frame) {
        if self.file.is_none() {
            self.not_captured += 1;
            return;
        }
        let len = pool.packet_len(frame);
        let kept = len.min(self.spec.snap_len as usize);
        let nanos = self.spec.epoch_nanos.saturating_add(now.as_nanos());
        let seconds = nanos / 1_000_000_000;
        let header = [seconds, nanos % 1_000_000_000, kept as u64, len as u64];
        for word in header {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "seconds until 2106; lengths of a packet"
            )]
            self.buffer.extend_from_slice(&(word as u32).to_le_bytes());
        }
        let start = self.buffer.len();
        parts::copy_to(pool, frame, &mut self.buffer);
        self.buffer.truncate(start + kept);
    }

    fn write_if(&mut self, len: usize) {
        if self.buffer.len() < len {
            return;
        }
        let Some(file) = &mut self.file else { return };
        let full = self.file_len + self.buffer.len() as u64 > self.spec.file_len_max;
        if full || file.write_all(&self.buffer).is_err() {
            self.file = None;
        }
        self.file_len += self.buffer.len() as u64;
        self.buffer.clear();
    }

    pub(super) fn close(mut self, pool: &mut Pool) {
        self.write_if(1);
        self.inner.close(pool);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::memory::MemorySpec;

    struct Captured {
        nanos: u64,
        len: u32,
        bytes: Vec<u8>,
    }

    fn read(path: &std::path::Path) -> Vec<Captured> {
        let file = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(20)), (0xa1b2_3c4d, 0x0004_0002, 1));
        let (mut at, mut records) = (FILE_HEADER_LEN, Vec::new());
        while at < file.len() {
            let kept = word(at + 8) as usize;
            let start = at + RECORD_HEADER_LEN;
            records.push(Captured {
                nanos: u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4)),
                len: word(at + 12),
                bytes: file[start..start + kept].to_vec(),
            });
            at = start + kept;
        }
        records
    }

    fn spec(name: &str, file_len_max: u64) -> CaptureSpec {
        let path = std::env::temp_dir().join(format!("sluice-{name}-{}.pcap", std::process::id()));
        CaptureSpec {
            path,
            snap_len: 40,
            file_len_max,
            epoch_nanos: 5_000_000_000,
        }
    }

    #[test]
    fn keeps_what_passed_and_not_what_stayed() {
        let spec = spec("passed", 1 << 20);
        let mut pool = Pool::anonymous(4);
        let memory = MemorySpec {
            queue_frames: 3,
            ..MemorySpec::default()
        };
        let mut port = Port::memory(&memory).with_capture(&spec).unwrap();
        let mut burst = Burst::new();
        for number in 0..3u8 {
            port.memory_mut()
                .unwrap()
                .inject(&mut pool, &[number; 60])
                .unwrap();
        }
        port.rx(Time::from_nanos(17), &mut pool, &mut burst);
        for _ in 0..2 {
            let mut frame = pool.alloc_frame().unwrap();
            parts::write(&mut pool, &mut frame, &[9; 30]);
            burst.push(frame);
        }
        // The queue takes three of five.
        port.tx(Time::from_nanos(18), &mut pool, &mut burst);
        assert_eq!(burst.len(), 2);
        burst.drain(..).for_each(|frame| pool.release(frame));
        port.close(&mut pool);
        let records = read(&spec.path);
        assert_eq!(records.len(), 6);
        for (at, record) in records.iter().enumerate() {
            assert_eq!(record.nanos, 5_000_000_017 + u64::from(at >= 3));
            assert_eq!(record.len, 60);
            assert_eq!(record.bytes, [u8::try_from(at % 3).unwrap(); 40]);
        }
        assert_eq!(pool.stats().frames_in_use, 0);
    }

    #[test]
    fn ends_at_its_size_and_the_port_goes_on() {
        let spec = spec("bounded", 150_000);
        let mut pool = Pool::anonymous(4);
        let mut port = Port::memory(&MemorySpec::default())
            .with_capture(&spec)
            .unwrap();
        let mut burst = Burst::new();
        for number in 0..5000 {
            port.memory_mut()
                .unwrap()
                .inject(&mut pool, &[1; 60])
                .unwrap();
            assert_eq!(
                port.rx(Time::ZERO, &mut pool, &mut burst),
                1,
                "frame {number}"
            );
            pool.release(burst.remove(0));
        }
        let Port::Traced(traced) = &port else {
            panic!("{port:?}")
        };
        let not_captured = traced.not_captured();
        port.close(&mut pool);
        assert!(std::fs::metadata(&spec.path).unwrap().len() <= 150_000);
        let captured = read(&spec.path).len() as u64;
        assert!(
            captured > 2000 && not_captured > 1000,
            "{captured}, {not_captured}"
        );
    }
}
