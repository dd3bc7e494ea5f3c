//! What a run saw, as it is printed.

use hdrhistogram::Histogram;
use serde::Serialize;

#[derive(Debug, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: f64,
    /// Only where there are samples enough to mean something.
    pub p99_us: Option<f64>,
    pub max_us: f64,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub seconds: f64,
    pub writes: u64,
    pub fua_writes: u64,
    pub syncs: u64,
    pub reads: u64,
    pub errors: u64,
    pub retries: u64,
    /// Sessions that broke and were logged in again.
    pub reconnects: u64,
    pub bytes_written: u64,
    pub bytes_read: u64,
    pub blocks_wrong: u64,
    /// Found older than acknowledged, where what is not synchronized may be lost.
    pub blocks_lost: u64,
    pub iops: f64,
    pub write: Latency,
    pub read: Latency,
    pub ping: Latency,
    /// Longest silence between two completions.
    pub gap_max_ms: f64,
    /// The same, with the time without a session.
    pub pause_max_ms: f64,
}

impl Report {
    pub fn answered(&self) -> u64 {
        self.writes + self.reads + self.syncs + self.errors
    }
}

impl Latency {
    /// Of samples in nanoseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Self {
            count: histogram.len(),
            mean_us: histogram.mean() / 1e3,
            p50_us: micros(histogram.value_at_quantile(0.5)),
            p99_us: (histogram.len() >= 1000).then(|| micros(histogram.value_at_quantile(0.99))),
            max_us: micros(histogram.max()),
        }
    }
}
