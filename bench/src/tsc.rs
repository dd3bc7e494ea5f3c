//! The time stamp counter: ticks of constant rate, where no other counter is to be had.

/// Ticks since some time long ago, in order with what stands before it.
#[inline]
#[must_use]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        let mut core = 0;
        // SAFETY: every x86-64 has the instruction, and it writes the core's number to where it is told.
        unsafe { std::arch::x86_64::__rdtscp(&raw mut core) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    compile_error!("the benches count ticks of the x86-64 time stamp counter");
}
