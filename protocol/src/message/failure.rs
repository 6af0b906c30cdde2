//! FAILURE in the shape of each version.

use bytes::{BufMut, BytesMut};

use super::tag::Tag;
use crate::chunk;
use crate::packstream::{Value, encode};
use crate::version::Version;

/// A failure of our own, in the driver's language.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Neo4j status code: four parts with dots.
    pub code: &'static str,
    /// GQL status, five characters.
    pub gql_status: &'static str,
    /// The GQL status in words (from 5.7).
    pub description: String,
    /// What happened and what to do.
    pub message: String,
}

impl Failure {
    /// A failure whose description is made from `message`, as Neo4j does for most of its codes.
    pub fn new(code: &'static str, gql_status: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        debug_assert_eq!(code.split('.').count(), 4, "drivers only classify codes with four parts");
        debug_assert_eq!(gql_status.len(), 5, "GQL statuses have five characters");
        Self { code, gql_status, description: message.clone(), message }
    }

    /// Appends the message as `version` has it.
    pub fn write(&self, version: Version, out: &mut BytesMut) {
        chunk::put_message(out, |out| {
            out.put_slice(&[0xB1, Tag::FAILURE.0]);
            let gql = version.features().gql_failure;
            encode::map_header(if gql { 5 } else { 2 }, out);
            encode::string(if gql { "neo4j_code" } else { "code" }, out);
            encode::string(self.code, out);
            encode::string("message", out);
            encode::string(&self.message, out);
            if gql {
                encode::string("gql_status", out);
                encode::string(self.gql_status, out);
                encode::string("description", out);
                encode::string(&self.description, out);
                encode::string("diagnostic_record", out);
                self.diagnostic_record().encode(out);
            }
        });
    }

    fn diagnostic_record(&self) -> Value {
        let class = match self.code.split('.').nth(1) {
            Some("ClientError") => "CLIENT_ERROR",
            Some("TransientError") => "TRANSIENT_ERROR",
            _ => "DATABASE_ERROR",
        };
        Value::map([("_classification", class.into())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::summary::{Outcome, Summary};

    #[test]
    fn each_version_gets_its_shape() {
        let failure =
            Failure::new("Neo.TransientError.Request.NoThreadsAvailable", "51N59", "Sidebolt: busy");
        for version in Version::ALL {
            let mut out = BytesMut::new();
            failure.write(version, &mut out);
            let summary = Summary::parse(&out[2..out.len() - 2]).unwrap();
            assert_eq!(summary.outcome, Outcome::Failure);
            assert_eq!(summary.code(), Some(failure.code));
            assert_eq!(summary.meta.has("code"), version < Version::new(5, 7));
            assert_eq!(summary.meta.has("gql_status"), version >= Version::new(5, 7));
        }
    }
}
