//! One
