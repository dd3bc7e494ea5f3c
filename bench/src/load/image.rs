//! What the volume should hold, as a file: brought up to date with each write
//! that is acknowledged, so that several runs, a cut session and a restarted
//! relay in between leave one truth to compare a storage's image with.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::workload::STAMP_LEN;

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the image {path}: {source}")]
pub struct ImageError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

/// A sparse file; a block that no write was acknowledged for reads as zeroes.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    held: [u8; STAMP_LEN as usize],
}

impl Image {
    /// Opens or makes the file, at least `span_bytes` long; what it holds stays.
    ///
    /// # Errors
    /// The file cannot be opened or made longer.
    pub fn open(path: &Path, span_bytes: u64) -> Result<Self, ImageError> {
        let failed = |action| {
            move |source| ImageError {
                action,
                path: path.to_owned(),
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        let len = file.metadata().map_err(failed("look at"))?.len();
        if len < span_bytes {
            file.set_len(span_bytes).map_err(failed("extend"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            held: [0; STAMP_LEN as usize],
        })
    }

    /// A write of `bytes` at stamp block `block` was acknowledged.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn acknowledged(&mut self, block: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.file
            .write_all_at(bytes, block * u64::from(STAMP_LEN))
            .map_err(|source| self.failed("write", source))
    }

    /// How many of the blocks that `bytes` are, from `block` on, are not as acknowledged.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn wrong(&mut self, block: u64, bytes: &[u8]) -> Result<u64, ImageError> {
        let mut wrong = 0;
        for (at, read) in (block..).zip(bytes.chunks(STAMP_LEN as usize)) {
            let held = &mut self.held[..read.len()];
            if let Err(source) = self.file.read_exact_at(held, at * u64::from(STAMP_LEN)) {
                return Err(self.failed("read", source));
            }
            wrong += u64::from(*held != *read);
        }
        Ok(wrong)
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> ImageError {
        ImageError {
            action,
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_what_was_acknowledged_over_two_runs() {
        let path =
            std::env::temp_dir().join(format!("sluice-image-{}-test.img", std::process::id()));
        let stamp = [7; STAMP_LEN as usize];
        Image::open(&path, 1 << 20)
            .unwrap()
            .acknowledged(3, &stamp)
            .unwrap();
        let mut image = Image::open(&path, 1 << 20).unwrap();
        assert_eq!(image.wrong(3, &stamp).unwrap(), 0);
        assert_eq!(image.wrong(2, &[0; 2 * STAMP_LEN as usize]).unwrap(), 1);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        std::fs::remove_file(&path).unwrap();
    }
}
