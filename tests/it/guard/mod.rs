//! The guard: breakers.

mod breaker;
