//! Indexes and constraints: made sure of as `indexes` says, and known to whoever asks.

mod keeper;
mod known;
mod statement;

pub(crate) use keeper::{keep, need};
pub(crate) use known::Known;
pub(crate) use statement::advice;
