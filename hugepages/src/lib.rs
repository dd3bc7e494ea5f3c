//! All memory that outlives a process or is shared by two.
//!
//! Rooms: [`region`] maps memory, [`pool`] cuts the communication memory into
//! pages and frames, [`log`] keeps acknowledged writes, [`ring`] carries
//! commands and completions, [`shm`] is the mechanism of the control segment
//! and [`tables`] is what stands in it. [`fuse`] is where tests stop the world;
//! [`prefetch`] asks for memory early.

pub mod atomic;
pub mod fuse;
pub mod log;
pub mod pool;
pub mod prefetch;
pub mod region;
pub mod ring;
pub mod shm;
pub mod tables;
