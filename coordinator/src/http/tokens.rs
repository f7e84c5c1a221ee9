//! Tokens: random texts that are known by their hashes, compared in a time that tells nothing of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;
use tracing::{info, warn};

use super::config::{Token, TokenHash};
use super::tls::Certificate;

/// How often it is looked whether the settings or the certificate have changed.
const LOOK: Duration = Duration::from_secs(2);

/// What a token begins with, so that it is known for one where it should not be.
const PREFIX: &str = "hive_";

/// A token that is new: it is told once, and kept as its hash.
pub(crate) struct NewToken {
    pub(crate) secret: String,
    pub(crate) hash: TokenHash,
}

impl NewToken {
    /// 256 random bits.
    pub(crate) fn generate() -> anyhow::Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("there is no source of randomness: {error}"))?;
        let secret = format!("{PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
        let hash = hash(&secret);
        Ok(Self { secret, hash })
    }
}

fn hash(secret: &str) -> TokenHash {
    TokenHash(Sha256::digest(secret).into())
}

/// The token that somebody has, if it is one of these. All are compared, so that the time tells nothing.
pub(super) fn find<'a>(tokens: &'a [Token], secret: &str) -> Option<&'a Token> {
    let TokenHash(hash) = hash(secret);
    let mut found = None;
    for token in tokens {
        if bool::from(token.sha256.0.ct_eq(&hash)) {
            found = Some(token);
        }
    }
    found
}

/// Takes over tokens and certificates as their files change, for as long as somebody wants them.
pub(super) async fn reload(file: PathBuf, tokens: watch::Sender<Arc<[Token]>>, certificate: Option<Certificate>) {
    let mut seen = changed(&file);
    let mut seen_certificate = certificate.as_ref().and_then(Certificate::changed);
    while !tokens.is_closed() {
        tokio::time::sleep(LOOK).await;
        let now = changed(&file);
        if now != seen {
            seen = now;
            take_over(&file, &tokens);
        }
        let Some(certificate) = &certificate else { continue };
        let now = certificate.changed();
        if now != seen_certificate {
            seen_certificate = now;
            certificate.take_over();
        }
    }
}

pub(super) fn changed(file: &Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|found| found.modified()).ok()
}

fn take_over(file: &Path, tokens: &watch::Sender<Arc<[Token]>>) {
    match crate::config::Config::load(Some(file)) {
        // Who had locked themselves out by their tokens would open the API to everybody by taking out the last one.
        Ok(config) if config.http.tokens.is_empty() && !tokens.borrow().is_empty() => {
            warn!(
                "the settings have no tokens any more: those that were there stay until the coordinator is restarted"
            );
        }
        Ok(config) if config.http.tokens[..] == tokens.borrow()[..] => {}
        Ok(config) => {
            info!(count = config.http.tokens.len(), "the tokens of the API have changed");
            tokens.send_replace(config.http.tokens.into());
        }
        Err(error) => warn!(%error, "the settings have changed and cannot be read: the tokens stay as they were"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Role;

    #[test]
    fn a_token_is_known_by_its_hash_and_each_is_another() {
        let (one, other) = (NewToken::generate().unwrap(), NewToken::generate().unwrap());
        let tokens = [&one, &other].map(|new| Token { name: new.secret.clone(), role: Role::Read, sha256: new.hash });

        assert_ne!(one.secret, other.secret);
        assert_eq!(find(&tokens, &other.secret).unwrap().name, other.secret);
        assert!(find(&tokens, "hive_").is_none());
        assert!(find(&[], &one.secret).is_none());
    }

    #[test]
    fn tokens_are_taken_over_from_the_file_and_never_all_taken_away() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let new = NewToken::generate().unwrap();
        let line = |name: &str| {
            format!("[[http.tokens]]\nname = \"{name}\"\nrole = \"read\"\nsha256 = \"{}\"\n", String::from(new.hash))
        };
        let (tokens, _kept) = watch::channel::<Arc<[Token]>>(Arc::new([]));
        let names = || tokens.borrow().iter().map(|token| token.name.clone()).collect::<Vec<_>>();
        let write = |text: String| {
            std::fs::write(file.path(), text).unwrap();
            take_over(file.path(), &tokens);
        };

        write(line("ci"));
        assert_eq!(names(), ["ci"]);
        write("[http]\nadress = 1\n".to_owned());
        assert_eq!(names(), ["ci"]);
        write(String::new());
        assert_eq!(names(), ["ci"]);
        write(line("dash"));
        assert_eq!(names(), ["dash"]);
    }
}
