//! Keeps the book of alerts in a key of the settings' bucket. It is written over the revision that was read only, so a
//! leader that was replaced writes nothing any more, and tells nothing.

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use tracing::warn;

use super::kept::Kept;

const KEY: &str = "alerts";

/// Whether this key of the settings' bucket is ours.
pub(crate) fn is_key(key: &str) -> bool {
    key == KEY
}

/// Why the book was not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// Another coordinator has written it: it leads.
    #[error("another coordinator keeps the alerts now")]
    Replaced,
    /// The broker did not answer, or said no.
    #[error("the alerts could not be {what}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// What was said to that.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is kept in the bucket, at a revision.
#[derive(Debug)]
pub(crate) struct Keeper {
    bucket: kv::Store,
    revision: u64,
}

impl Keeper {
    /// Reads what is kept.
    pub(crate) async fn open(bucket: kv::Store) -> Result<(Self, Kept), KeepError> {
        let entry = bucket.entry(KEY).await;
        let entry = entry.map_err(|error| KeepError::Store { what: "read", source: error.into() })?;
        let Some(entry) = entry else { return Ok((Self { bucket, revision: 0 }, Kept::default())) };
        let read = |body: &[u8]| match serde_json::from_slice(body) {
            Ok(kept) => kept,
            Err(error) => {
                warn!(%error, "what was kept of alerts cannot be read: they begin anew");
                Kept::default()
            }
        };
        let kept = if entry.operation == Operation::Put { read(&entry.value) } else { Kept::default() };
        Ok((Self { bucket, revision: entry.revision }, kept))
    }

    /// Writes what is kept from now on.
    pub(crate) async fn write(&mut self, kept: &Kept) -> Result<(), KeepError> {
        let body = serde_json::to_vec(kept);
        let body = body.map_err(|error| KeepError::Store { what: "written", source: error.into() })?;
        match self.bucket.update(KEY, body.into(), self.revision).await {
            Ok(revision) => {
                self.revision = revision;
                Ok(())
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Err(KeepError::Replaced),
            Err(error) => Err(KeepError::Store { what: "written", source: error.into() }),
        }
    }
}
