//! What a disk met, in the order in which it came.

use serde::{Deserialize, Serialize};

use crate::load::workload::STAMP_LEN;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// From here on reads see it, and the media may have it.
    Write {
        file: String,
        offset: u64,
        len: u64,
        /// The first word of each block of [`STAMP_LEN`] that begins in it.
        words: Vec<u64>,
    },
    /// An fsync or fdatasync, with a number of its own.
    SyncAsked { file: String, number: u64 },
    /// The media have all that came before it was asked for; only now is it answered.
    Synced { file: String, number: u64 },
}

impl Entry {
    pub fn write(file: &str, offset: u64, data: &[u8]) -> Self {
        let stamp_len = u64::from(STAMP_LEN);
        let begins = usize::try_from(offset.next_multiple_of(stamp_len) - offset);
        let from = begins.map_or(data.len(), |begins| begins.min(data.len()));
        let blocks = data[from..].chunks(STAMP_LEN as usize);
        Self::Write {
            file: file.to_owned(),
            offset,
            len: data.len() as u64,
            words: blocks
                .filter_map(|block| block.first_chunk())
                .map(|word| u64::from_le_bytes(*word))
                .collect(),
        }
    }

    pub fn file(&self) -> &str {
        match self {
            Self::Write { file, .. } | Self::SyncAsked { file, .. } | Self::Synced { file, .. } => {
                file
            }
        }
    }
}
