//! The daemon's side: a reader that also sends commands and takes completions.

use std::ops::Deref;
use std::path::Path;

use super::layout::{self, RING};
use super::map::{self, Cells, Role};
use super::{SegmentError, SegmentReader};
use crate::ring::{Consumer, Producer, PushError};
use crate::tables::{Command, Completion, MESSAGE_WORDS};

/// The one sender of commands to a data plane.
#[derive(Debug)]
pub struct ControlLink {
    reader: SegmentReader,
    commands: Producer<Cells>,
    completions: Consumer<Cells>,
}

/// Why a command was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The data plane takes no commands at the moment.
    Full,
    /// The data plane's index into the ring is impossible.
    Fault,
}

impl ControlLink {
    /// Opens the segment for commands. Answers to an earlier daemon are dropped.
    ///
    /// # Errors
    /// As [`SegmentReader::open`], or another daemon has it.
    pub fn open(path: &Path) -> Result<Self, SegmentError> {
        let reader = SegmentReader::map(path, true)?;
        let locked = map::try_lock(&reader.mapping.file, Role::Control);
        match locked {
            Ok(true) => {}
            Ok(false) => {
                return Err(SegmentError::ControlRuns {
                    path: path.to_owned(),
                });
            }
            Err(source) => {
                return Err(SegmentError::Io {
                    path: path.to_owned(),
                    action: "lock it",
                    source,
                });
            }
        }
        let commands = Producer::attach(Cells::new(&reader.mapping, layout::COMMANDS), RING);
        let completions = Consumer::attach(Cells::new(&reader.mapping, layout::COMPLETIONS), RING);
        Ok(Self {
            reader,
            commands,
            completions,
        })
    }

    /// Sends a command under an id that no other command in flight has.
    ///
    /// # Errors
    /// The ring is full or broken.
    pub fn send(&mut self, id: u64, command: &Command) -> Result<(), SendError> {
        self.commands
            .push(&command.encode(id))
            .map_err(|error| match error {
                PushError::Full => SendError::Full,
                PushError::Fault(_) => SendError::Fault,
            })
    }

    /// The next answer. What is none is skipped: its command runs into its bound.
    pub fn next_completion(&mut self) -> Option<Completion> {
        let mut message = [0; MESSAGE_WORDS];
        for _ in 0..RING.slots {
            match self.completions.pop(&mut message) {
                Ok(false) => return None,
                Ok(true) => {
                    let completion = Completion::decode(&message);
                    if completion.is_some() {
                        return completion;
                    }
                }
                // What stood in the ring is dropped; the next answer comes through.
                Err(_) => {}
            }
        }
        None
    }
}

impl Deref for ControlLink {
    type Target = SegmentReader;

    fn deref(&self) -> &SegmentReader {
        &self.reader
    }
}
