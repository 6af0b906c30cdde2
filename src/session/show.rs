//! `SHOW PROCEDURES` while `CALL gnn.…` is switched on: goes on to Neo4j with Sidebolt's own procedures among the rows.

use bolt_wire::chunk;
use bolt_wire::message::Run;
use bytes::BytesMut;

use super::requests::Message;
use super::{Session, Step};
use crate::gnn::{Caller, NOTHING, Show};

/// What it is called in a FAILURE.
const NAME: &str = "SHOW PROCEDURES";

impl Session {
    /// Gives the message that goes on to Neo4j: another text over all rows, or the statement as it came. `None` if it was refused or taken
    /// back.
    pub(super) async fn show_procedures(
        &mut self,
        message: Message,
        show: &Show,
        caller: Caller,
    ) -> Step<Option<Message>> {
        let parameters = {
            let mut scratch = BytesMut::new();
            let payload = chunk::payload(&self.inbuf, message.extent, &mut scratch);
            Run::parse(payload).map_or_else(|_| NOTHING.to_vec(), |run| run.parameters.to_vec())
        };
        Ok(match self.wait_in_time(&caller, show.listed(&caller, &parameters)).await? {
            None => None,
            Some(Ok(Some((text, parameter)))) => Some(self.replace_run(message, &text, &[parameter])),
            Some(Ok(None)) => {
                // In a transaction it stands in the buffer still.
                self.terms.shown = caller.in_transaction;
                Some(message)
            }
            Some(Err(trouble)) => {
                self.refuse_gnn(message, trouble, NAME);
                None
            }
        })
    }
}
