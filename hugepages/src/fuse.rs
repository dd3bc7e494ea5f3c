//! Crash points: every store to memory that outlives the process asks a fuse
//! first, so that a test or the simulator can stop the world after any one.
//!
//! What always holds: once the fuse has blown, not one more byte of such
//! memory changes, while the code above runs on unaware until its driver looks
//! at [`Fuse::is_blown`] and throws it away. The same code runs in production,
//! with a fuse that never blows.
//!
//! Not for: power loss, which does not keep memory at all (the journal's part).

/// Counts the stores that are still let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fuse {
    left: u64,
}

impl Fuse {
    /// The fuse of production: at a store a nanosecond it lasts 584 years.
    pub const NEVER: Fuse = Fuse { left: u64::MAX };

    /// Lets `stores` stores through, then no more.
    pub const fn after(stores: u64) -> Fuse {
        Fuse { left: stores }
    }

    /// Takes one store's leave; false when it must not happen.
    #[inline]
    pub fn burn(&mut self) -> bool {
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Whether the world has stopped.
    pub const fn is_blown(&self) -> bool {
        self.left == 0
    }

    /// Stores that happened since the fuse was `Fuse::after(budget)`.
    pub const fn burnt(&self, budget: u64) -> u64 {
        budget - self.left
    }
}

impl Default for Fuse {
    fn default() -> Fuse {
        Fuse::NEVER
    }
}
