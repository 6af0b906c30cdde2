//! Bolt frames.
