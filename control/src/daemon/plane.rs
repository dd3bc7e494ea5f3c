//! The data plane as the daemon sees it: there or not, and one command after
//! another over the ring.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_hugepages::shm::{ControlLink, SegmentError, SegmentReader, Vitality, monotonic_ns};
use sluice_hugepages::tables::{Command, Completion};
use thiserror::Error;

/// A data plane looks for commands at every step and at least once a heartbeat
/// period; a hundred of those without an answer is a stuck one.
pub const COMPLETION_BOUND: Duration = Duration::from_secs(2);
/// How often the ring is looked at while an answer is due.
const POLL_PERIOD: Duration = Duration::from_micros(500);

/// Why the data plane did not take a command.
#[derive(Debug, Error)]
pub enum PlaneError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("the data plane (segment {}) {how}, last sign of life {} s ago; start it again", segment.display(), silent_for.as_secs())]
    Gone {
        segment: PathBuf,
        how: &'static str,
        silent_for: Duration,
    },
    #[error("the data plane takes no commands (its ring is {what}); see `sluicectl show runtime`")]
    Ring { what: &'static str },
    #[error("the data plane did not answer within {} s; see `sluicectl show runtime`", COMPLETION_BOUND.as_secs())]
    NoAnswer,
    #[error("the data plane was restarted before it answered; ask again")]
    Restarted,
}

/// The attachment to a segment that comes and goes.
#[derive(Debug)]
pub(super) struct Plane {
    segment: PathBuf,
    link: Option<ControlLink>,
    next_id: u64,
    /// What was last said about it in the log, so that it is said once.
    said: String,
}

impl Plane {
    pub fn new(segment: &Path) -> Self {
        Self {
            segment: segment.to_owned(),
            link: None,
            // Ids of an earlier daemon's commands are smaller, or long answered.
            next_id: monotonic_ns(),
            said: String::new(),
        }
    }

    /// Attaches, or attaches again if the segment was exchanged; answers the
    /// number of the data plane's start if one is alive.
    pub fn attach(&mut self) -> Result<u64, PlaneError> {
        let attached = self.try_attach();
        let say = match &attached {
            Ok(instance) => format!("attached to data plane {instance:x}"),
            Err(error) => error.to_string(),
        };
        // Numbers of seconds change all the time and are no news.
        let news = |text: &str| {
            text.split(", last sign")
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        if news(&say) != news(&self.said) {
            match &attached {
                Ok(_) => log::info!("{say}"),
                Err(_) => log::warn!("{say}"),
            }
            self.said = say;
        }
        attached
    }

    fn try_attach(&mut self) -> Result<u64, PlaneError> {
        if self.link.as_ref().is_some_and(|link| link.is_replaced()) {
            self.link = None;
        }
        let link = match self.link.take() {
            Some(link) => link,
            None => ControlLink::open(&self.segment)?,
        };
        let link = self.link.insert(link);
        let (how, silent_for) = match link.vitality(monotonic_ns()) {
            Vitality::Alive => return Ok(link.instance()),
            Vitality::Stuck { silent_for } => ("is stuck", silent_for),
            Vitality::Stopped { silent_for } => ("was stopped", silent_for),
            Vitality::Dead { silent_for } => ("died", silent_for),
        };
        Err(PlaneError::Gone {
            segment: self.segment.clone(),
            how,
            silent_for,
        })
    }

    /// The tables of the segment that is attached to.
    pub fn reader(&self) -> Option<&SegmentReader> {
        self.link.as_deref()
    }

    /// Sends a command and waits for its answer, within [`COMPLETION_BOUND`].
    pub fn command(&mut self, command: &Command) -> Result<Completion, PlaneError> {
        let instance = self.attach()?;
        let link = self.link.as_mut().expect("attach has just put it there");
        let id = self.next_id;
        self.next_id += 1;
        link.send(id, command).map_err(|error| PlaneError::Ring {
            what: match error {
                sluice_hugepages::shm::SendError::Full => "full",
                sluice_hugepages::shm::SendError::Fault => "broken",
            },
        })?;
        let sent = Instant::now();
        loop {
            while let Some(completion) = link.next_completion() {
                // Another id is the answer to a command given up before.
                if completion.id == id {
                    return Ok(completion);
                }
            }
            if link.instance() != instance {
                return Err(PlaneError::Restarted);
            }
            if sent.elapsed() > COMPLETION_BOUND {
                return Err(PlaneError::NoAnswer);
            }
            std::thread::sleep(POLL_PERIOD);
        }
    }
}
