//! Messages: tags, requests as borrowed views, summaries and failures.

pub mod failure;
pub mod request;
pub mod summary;
pub mod tag;

pub use failure::Failure;
pub use request::{Begin, Route, Run};
pub use summary::{Outcome, Summary};
