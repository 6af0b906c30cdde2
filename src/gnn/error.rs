//! Why a call has no answer, and how its client is told.

use bolt_wire::message::Failure;

use crate::console::SYNTAX;
use crate::failure::Refusal;
use crate::upstream::ConnectError;

/// The code with which Neo4j itself sheds load: every official driver retries it.
const SHED: (&str, &str) = ("Neo.TransientError.Request.NoThreadsAvailable", "51N59");
/// The code of a procedure that failed.
const FAILED: (&str, &str) = ("Neo.ClientError.Procedure.ProcedureCallFailed", "52N37");

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trouble {
    /// Its arguments, or what they name, are wrong.
    Wrong(String),
    /// It cannot be written like that.
    Syntax(String),
    /// It writes, and its session reads.
    ReadOnly(String),
    /// Neo4j's FAILURE, as it came.
    Neo4j(Vec<u8>),
    /// A refusal of Sidebolt's own, or one with its own code.
    Refused(Box<Failure>),
    /// What it needs is gone or busy; trying again may help.
    Passing(String),
    /// Its client has taken it back, or its time is over.
    Cancelled(String),
}

impl Trouble {
    /// It names this, which is wrong.
    pub(crate) fn wrong(text: impl Into<String>) -> Self {
        Self::Wrong(text.into())
    }

    /// The FAILURE, where Neo4j has not written it already.
    pub(crate) fn failure(self, procedure: &str) -> Result<Failure, Vec<u8>> {
        let of =
            |(code, status): (&'static str, &'static str), text: String| Failure::new(code, status, text);
        Ok(match self {
            Self::Wrong(text) => {
                of(FAILED, format!("Failed to invoke procedure `{procedure}`: Caused by: {text}"))
            }
            Self::Syntax(text) => of(SYNTAX, text),
            Self::ReadOnly(text) => of(("Neo.ClientError.Statement.AccessMode", "25N06"), text),
            Self::Neo4j(payload) => return Err(payload),
            Self::Refused(failure) => *failure,
            Self::Passing(text) => of(SHED, format!("Sidebolt: {procedure}: {text}")),
            Self::Cancelled(text) => {
                let code = ("Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration", "25N14");
                of(code, format!("Sidebolt: {procedure}: {text}"))
            }
        })
    }
}

impl From<ConnectError> for Trouble {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(refusal) => refusal.into(),
            ConnectError::Failure(payload) => Self::Neo4j(payload.to_vec()),
        }
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal.to_failure()))
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Refused(Box::new(failure))
    }
}

impl From<gnn::Error> for Trouble {
    fn from(error: gnn::Error) -> Self {
        match error {
            gnn::Error::Cancelled => Self::Cancelled("it was taken back, or its time-out struck".to_owned()),
            other => Self::Wrong(other.to_string()),
        }
    }
}
