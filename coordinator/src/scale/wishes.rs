//! Keeps how many agents of a pool are wished for, so that the next leader goes on with it.
//!
//! A wish is written before the orders are carried out that come with it, and only over the revision that was read. A
//! new leader writes what it finds at once, under its own epoch: whoever led before can write nothing from then on, and
//! so orders nothing any more.

use async_nats::jetstream::kv::{self, Operation, UpdateErrorKind};
use scheduler::scaling::Wish;
use serde::{Deserialize, Serialize};
use shared::Epoch;
use tracing::warn;

const PREFIX: &str = "wishes.";

/// How often a write is tried that finds another revision than was read: the copy that was read may lag behind.
const TRIES: usize = 5;

/// Whether this key of the settings' bucket is that of a wish.
pub(crate) fn is_key(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Why a wish was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WishError {
    /// Another coordinator leads.
    #[error("a leader of epoch {0} has taken the pool over")]
    Replaced(Epoch),
    /// The broker did not answer, or said no.
    #[error("the wish could not be {what}: {said}")]
    Store {
        /// What was tried.
        what: &'static str,
        /// What was said to that.
        said: String,
    },
}

fn refused(what: &'static str, error: &(impl std::error::Error + 'static)) -> WishError {
    WishError::Store { what, said: crate::chain(error) }
}

/// What is stored.
#[derive(Debug, Deserialize, Serialize)]
struct Stored<W> {
    epoch: Epoch,
    wish: W,
}

/// The wish of one pool as it is kept by one leader.
#[derive(Debug)]
pub(crate) struct Kept {
    key: String,
    epoch: Epoch,
    revision: u64,
    body: Vec<u8>,
}

impl Kept {
    /// Takes over what is kept of a pool, under this epoch. Whoever led before can change it no more.
    pub(crate) async fn take_over(bucket: &kv::Store, pool: &str, epoch: Epoch) -> Result<(Self, Wish), WishError> {
        let mut kept = Self { key: format!("{PREFIX}{pool}"), epoch, revision: 0, body: Vec::new() };
        for _ in 0..TRIES {
            let wish = kept.read(bucket).await?;
            if kept.write(bucket, &wish).await? {
                return Ok((kept, wish));
            }
        }
        Err(kept.contended())
    }

    /// Keeps this wish from now on, if it is another.
    pub(crate) async fn keep(&mut self, bucket: &kv::Store, wish: &Wish) -> Result<(), WishError> {
        if self.body == self.encode(wish) {
            return Ok(());
        }
        for _ in 0..TRIES {
            if self.write(bucket, wish).await? {
                return Ok(());
            }
            // Our own write before may have been stored without our being told so.
            self.read(bucket).await?;
        }
        Err(self.contended())
    }

    fn encode(&self, wish: &Wish) -> Vec<u8> {
        serde_json::to_vec(&Stored { epoch: self.epoch, wish }).expect("a wish is JSON")
    }

    /// Reads what is stored, and at which revision.
    async fn read(&mut self, bucket: &kv::Store) -> Result<Wish, WishError> {
        let entry = bucket.entry(self.key.as_str()).await.map_err(|error| refused("read", &error))?;
        let Some(entry) = entry else {
            self.revision = 0;
            return Ok(Wish::default());
        };
        self.revision = entry.revision;
        if entry.operation != Operation::Put {
            return Ok(Wish::default());
        }
        match serde_json::from_slice::<Stored<Wish>>(&entry.value) {
            Ok(stored) if stored.epoch > self.epoch => Err(WishError::Replaced(stored.epoch)),
            Ok(stored) => Ok(stored.wish),
            Err(error) => {
                warn!(key = self.key, %error, "what was wished for cannot be read: the pool begins with who is there");
                Ok(Wish::default())
            }
        }
    }

    /// Whether it was written: it is not if the revision is another than was read.
    async fn write(&mut self, bucket: &kv::Store, wish: &Wish) -> Result<bool, WishError> {
        let body = self.encode(wish);
        match bucket.update(self.key.as_str(), body.clone().into(), self.revision).await {
            Ok(revision) => {
                (self.revision, self.body) = (revision, body);
                Ok(true)
            }
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(refused("written", &error)),
        }
    }

    fn contended(&self) -> WishError {
        WishError::Store { what: "written", said: format!("`{}` is changed by others all the time", self.key) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_as_it_was_written() {
        let kept = Kept { key: "wishes.workers".to_owned(), epoch: Epoch(7), revision: 3, body: Vec::new() };

        let read: Stored<Wish> = serde_json::from_slice(&kept.encode(&Wish::default())).unwrap();

        assert_eq!((read.epoch, read.wish), (Epoch(7), Wish::default()));
        assert!(is_key(&kept.key) && !is_key("pools.workers"));
    }
}
