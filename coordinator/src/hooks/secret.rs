//! Secrets: one that is signed with, and for a while the one before it.

use std::fmt;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use shared::api::Refusal;

/// How a secret of Standard Webhooks begins.
const PREFIX: &str = "whsec_";

/// Bytes of a secret that is made here, and of those that may be brought along.
const BYTES: usize = 32;
const BYTES_ALLOWED: std::ops::RangeInclusive<usize> = 24..=64;

/// How long the old secret goes on unless something else is said.
const OVERLAP: Duration = Duration::from_secs(24 * 3600);

/// The secrets of a webhook or an intake.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Secrets {
    current: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Previous {
    secret: String,
    #[serde(with = "humantime_serde")]
    until: SystemTime,
}

impl Secrets {
    /// One secret.
    pub(crate) fn new(secret: String) -> Self {
        Self { current: secret, previous: None }
    }

    /// Takes a new secret; the one before goes on for a while.
    pub(crate) fn rotate(&mut self, secret: String, until: SystemTime) {
        let before = std::mem::replace(&mut self.current, secret);
        self.previous = Some(Previous { secret: before, until });
    }

    /// The secrets that hold at this time, the newest first.
    pub(crate) fn valid(&self, now: SystemTime) -> impl Iterator<Item = &str> {
        let previous = self.previous.iter().filter(move |previous| previous.until > now);
        std::iter::once(self.current.as_str()).chain(previous.map(|previous| previous.secret.as_str()))
    }

    /// Until when the one before goes on, if it still does.
    pub(crate) fn old_until(&self, now: SystemTime) -> Option<SystemTime> {
        self.previous.as_ref().map(|previous| previous.until).filter(|until| *until > now)
    }
}

/// Secrets do not get into logs.
impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

/// A new secret.
pub(crate) fn generate() -> Result<String, Refusal> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| Refusal { error: format!("this host has no randomness for a secret: {error}"), code: 500 })?;
    Ok(format!("{PREFIX}{}", BASE64.encode(&bytes)))
}

/// The bytes of a secret of Standard Webhooks.
pub(crate) fn key(secret: &str) -> Option<Vec<u8>> {
    BASE64.decode(secret.strip_prefix(PREFIX).unwrap_or(secret).as_bytes()).ok()
}

/// Checks a secret that somebody brings along.
pub(crate) fn check(secret: &str) -> Result<(), Refusal> {
    if secret.starts_with(PREFIX) && key(secret).is_some_and(|key| BYTES_ALLOWED.contains(&key.len())) {
        return Ok(());
    }
    let error = "the secret is not one of Standard Webhooks: write `whsec_` and 24 to 64 bytes in base64, or none, and \
                 one is made";
    Err(Refusal { error: error.to_owned(), code: 400 })
}

/// Until when the old secret goes on, from what was said about it.
pub(crate) fn overlap_until(overlap: Option<&str>, now: SystemTime) -> Result<SystemTime, Refusal> {
    let overlap = overlap.map_or(Ok(OVERLAP), humantime::parse_duration);
    let overlap = overlap.map_err(|error| Refusal { error: format!("overlap: {error}: write `24h`"), code: 400 })?;
    now.checked_add(overlap).ok_or_else(|| Refusal { error: "overlap: write `24h` or so".to_owned(), code: 400 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_rotation_both_secrets_hold_for_a_while() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let mut secrets = Secrets::new("old".to_owned());

        secrets.rotate("new".to_owned(), now + Duration::from_secs(60));

        assert_eq!(secrets.valid(now).collect::<Vec<_>>(), ["new", "old"]);
        assert_eq!(secrets.valid(now + Duration::from_secs(60)).collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn a_second_rotation_ends_the_oldest() {
        let now = SystemTime::UNIX_EPOCH;
        let mut secrets = Secrets::new("first".to_owned());

        secrets.rotate("second".to_owned(), now + Duration::from_secs(60));
        secrets.rotate("third".to_owned(), now + Duration::from_secs(60));

        assert_eq!(secrets.valid(now).collect::<Vec<_>>(), ["third", "second"]);
    }

    #[test]
    fn what_is_made_is_what_may_be_brought_along() {
        let secret = generate().unwrap();

        assert!(check(&secret).is_ok(), "{secret}");
        assert_ne!(secret, generate().unwrap());
        for bad in ["", "hunter2", "whsec_", "whsec_c2hvcnQ=", "c2hvcnQ=", "whsec_not base64"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_does_not_get_into_a_log() {
        assert!(!format!("{:?}", Secrets::new("hush".to_owned())).contains("hush"));
    }
}
