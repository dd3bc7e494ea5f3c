//! Takes connections of the kernel's TCP, and counts and compares what arrives.

use super::{PATTERN_LEN, pattern};
use serde::Serialize;
use std::io::{self, Read};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// A sender that is silent for so long after its time has ended: its reset was lost.
const SILENCE_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub connections: Vec<Received>,
    /// Of all connections together, in the time that counts.
    pub mbit_per_s: f64,
    pub bytes_wrong: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Received {
    pub bytes: u64,
    /// In the time that counts.
    pub bytes_counted: u64,
    pub bytes_wrong: u64,
}

pub fn run(
    listen: SocketAddrV4,
    connections: u16,
    omit: Duration,
    counted: Duration,
) -> io::Result<Report> {
    let listener = TcpListener::bind(listen)?;
    let threads = (0..connections)
        .map(|_| {
            let (stream, _) = listener.accept()?;
            Ok(thread::spawn(move || drain(stream, omit, counted)))
        })
        .collect::<io::Result<Vec<_>>>()?;
    let mut report = Report::default();
    for thread in threads {
        let received = thread.join().expect("it does not panic")?;
        report.mbit_per_s += received.bytes_counted as f64 * 8.0 / counted.as_secs_f64() / 1e6;
        report.bytes_wrong += received.bytes_wrong;
        report.connections.push(received);
    }
    Ok(report)
}

fn drain(mut stream: TcpStream, omit: Duration, counted: Duration) -> io::Result<Received> {
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    let pattern = pattern();
    let mut buffer = vec![0; PATTERN_LEN];
    let mut received = Received::default();
    let mut begun: Option<Instant> = None;
    loop {
        // Never across the pattern's end, so that what should be there is one slice.
        let at = usize::try_from(received.bytes % PATTERN_LEN as u64).expect("short");
        let len = match stream.read(&mut buffer[at..]) {
            Ok(0) => return Ok(received),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if begun.is_some_and(|begun| begun.elapsed() >= omit + counted) {
                    return Ok(received);
                }
                continue;
            }
            // The sender's time is up.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(received),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        let since = now - *begun.get_or_insert(now);
        if since >= omit && since < omit + counted {
            received.bytes_counted += len as u64;
        }
        received.bytes += len as u64;
        let (is, should) = (&buffer[at..at + len], &pattern[at..at + len]);
        if is != should {
            received.bytes_wrong += is
                .iter()
                .zip(should)
                .filter(|(is, should)| is != should)
                .count() as u64;
        }
    }
}
