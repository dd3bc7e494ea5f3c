//! A site whose worker shows its rows in a control segment, read as `sluicectl` reads them.

#![allow(dead_code, reason = "no test uses all of it")]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sluice_dataplane::worker::publish::{Facts, Publisher, StartFacts};
use sluice_hugepages::shm::{Birth, SegmentReader, SegmentWriter};
use sluice_hugepages::tables::{Backing, Row, StartKind, Volume};
use sluice_sim::site::{Session as Computer, Site, Size, TARGETS};

const GOOD: u8 = 0;

pub struct Shown {
    pub site: Site,
    directory: PathBuf,
    reader: SegmentReader,
}

impl Shown {
    pub fn new(name: &str) -> Self {
        Self::of(name, Size::SMALL)
    }

    pub fn of(name: &str, size: Size) -> Self {
        let name = format!("sluice-rows-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("control.seg");
        let mut site = Site::of(size, |storage| {
            storage.latency_max = Duration::from_millis(2);
        });
        let segment = SegmentWriter::create(&path, Birth::now()).unwrap();
        let facts = Facts {
            core: Some(1),
            frames_backing: (Backing::Anonymous, "a test".to_owned()),
            log_backing: Backing::Anonymous,
            log_bytes: size.log_len as u64,
            journal: None,
            ticks_per_second: 1,
            start: StartFacts {
                kind: StartKind::New,
                records: 0,
                took: Duration::ZERO,
            },
        };
        site.control = Some(Publisher::new(segment, facts));
        let reader = SegmentReader::open(&path).unwrap();
        Self {
            site,
            directory,
            reader,
        }
    }

    pub fn rows<T: Row>(&mut self) -> Vec<T> {
        self.site.run(Duration::from_millis(300));
        let table = self.reader.rows::<T>();
        assert_eq!((table.stale, table.malformed), (0, 0));
        table.rows.into_iter().map(|(_, row)| row).collect()
    }

    /// The row of the first target's unit, which is what the tests write to.
    pub fn volume(&mut self) -> Volume {
        let mut rows = self.rows::<Volume>();
        assert_eq!(rows.len(), 2, "one a configured unit");
        let at = rows
            .iter()
            .position(|row| row.target.as_str() == TARGETS[0]);
        rows.swap_remove(at.unwrap())
    }

    pub fn write(&mut self, computer: &mut Computer, lba: u64) {
        assert_eq!(self.site.write(computer, lba, 1), Some(GOOD));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
