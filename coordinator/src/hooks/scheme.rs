//! How requests are signed that come in: HMAC with SHA-256, over the body and, but for GitHub's, over when it was sent.
//!
//! A signature is compared in constant time. What does not verify is not told apart, so that nobody learns by trying.

use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use shared::api::intakes::IntakeScheme;

use super::secret::{self, Secrets};

/// A request that is signed well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// The id that its sender gave the delivery, if it gave one.
    pub(crate) delivery: Option<String>,
}

/// How requests are verified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Verifier<'a> {
    pub(crate) scheme: IntakeScheme,
    /// The header with the signature.
    pub(crate) header: &'a str,
    pub(crate) secrets: &'a Secrets,
    /// How far the time in a request may be from now.
    pub(crate) tolerance: Duration,
}

/// The header with the signature, where it has its usual name.
pub(crate) fn usual_header(scheme: IntakeScheme) -> &'static str {
    match scheme {
        IntakeScheme::Standard => "webhook-signature",
        IntakeScheme::Github => "X-Hub-Signature-256",
        IntakeScheme::Timestamped => "Stripe-Signature",
    }
}

/// Headers that become the task's, unless something else is said.
pub(crate) fn usual_pass(scheme: IntakeScheme) -> Vec<String> {
    let names: &[&str] = match scheme {
        IntakeScheme::Standard => &["webhook-id"],
        IntakeScheme::Github => &["X-GitHub-Event", "X-GitHub-Delivery"],
        IntakeScheme::Timestamped => &[],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

impl Verifier<'_> {
    /// Verifies a request; nothing if it is not signed well, whatever is wrong with it.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Option<Signed> {
        let get = |name: &str| headers.get(name)?.to_str().ok();
        let signature = get(self.header)?;
        match self.scheme {
            IntakeScheme::Standard => {
                let (id, sent) = (get("webhook-id")?, get("webhook-timestamp")?);
                self.is_fresh(sent, now)?;
                let signatures = signature.split(' ').filter_map(|one| one.strip_prefix("v1,"));
                let signatures = signatures.filter_map(|one| BASE64.decode(one.as_bytes()).ok());
                self.any_matches(signatures, &[id.as_bytes(), b".", sent.as_bytes(), b".", body], now)?;
                Some(Signed { delivery: Some(id.to_owned()) })
            }
            IntakeScheme::Github => {
                let signature = hex(signature.strip_prefix("sha256=")?)?;
                self.any_matches(std::iter::once(signature), &[body], now)?;
                Some(Signed { delivery: get("x-github-delivery").map(str::to_owned) })
            }
            IntakeScheme::Timestamped => {
                let part = |name: &'static str| {
                    signature.split(',').filter_map(move |part| part.trim().strip_prefix(name)?.strip_prefix('='))
                };
                let sent = part("t").next()?;
                self.is_fresh(sent, now)?;
                self.any_matches(part("v1").filter_map(hex), &[sent.as_bytes(), b".", body], now)?;
                Some(Signed { delivery: None })
            }
        }
    }

    fn is_fresh(&self, sent: &str, now: SystemTime) -> Option<()> {
        let sent = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(sent.parse().ok()?))?;
        let apart = now.duration_since(sent).unwrap_or_else(|ahead| ahead.duration());
        (apart <= self.tolerance).then_some(())
    }

    /// Whether one of the signatures is one of these parts by one of the secrets.
    fn any_matches(&self, signatures: impl Iterator<Item = Vec<u8>>, parts: &[&[u8]], now: SystemTime) -> Option<()> {
        let signatures: Vec<_> = signatures.collect();
        for secret in self.secrets.valid(now) {
            let mut mac = Hmac::<Sha256>::new_from_slice(&self.key(secret)?).ok()?;
            parts.iter().for_each(|part| mac.update(part));
            if signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok()) {
                return Some(());
            }
        }
        None
    }

    /// A secret of Standard Webhooks stands for bytes; any other is a text.
    fn key(&self, secret: &str) -> Option<Vec<u8>> {
        match self.scheme {
            IntakeScheme::Standard => secret::key(secret),
            IntakeScheme::Github | IntakeScheme::Timestamped => Some(secret.as_bytes().to_vec()),
        }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    const BODY: &[u8] = b"Hello, World!";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        list.iter().map(pair).collect()
    }

    fn verify(scheme: IntakeScheme, secrets: &Secrets, headers: &HeaderMap, body: &[u8], now: u64) -> Option<Signed> {
        let tolerance = Duration::from_secs(300);
        Verifier { scheme, header: usual_header(scheme), secrets, tolerance }.verify(headers, body, at(now))
    }

    fn signed(delivery: &str) -> Option<Signed> {
        Some(Signed { delivery: Some(delivery.to_owned()) })
    }

    #[test]
    fn githubs_own_example_verifies() {
        // From its documentation, "Validating webhook deliveries".
        let secrets = Secrets::new("It's a Secret to Everybody".to_owned());
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let good = headers(&[("x-hub-signature-256", good), ("x-github-delivery", "d-1")]);
        let github = |headers: &HeaderMap, body: &[u8]| verify(IntakeScheme::Github, &secrets, headers, body, 0);

        assert_eq!(github(&good, BODY), signed("d-1"));
        assert_eq!(github(&good, b"Hello, World?"), None);
        for bad in ["sha256=", "sha256=757107ea", "757107ea0eb2509f", "sha256=zz", ""] {
            assert_eq!(github(&headers(&[("x-hub-signature-256", bad)]), BODY), None, "{bad}");
        }
        assert_eq!(github(&HeaderMap::new(), BODY), None);
    }

    #[test]
    fn what_standard_webhooks_signs_verifies_for_a_while() {
        let secret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
        let signature = standardwebhooks::Webhook::new(secret).unwrap().sign("msg_1", 1000, BODY).unwrap();
        let several = format!("v1,bm9uZQ== {signature} v1a,bm9uZQ==");
        let request =
            |id, time| headers(&[("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", &several)]);
        let standard = |headers: &HeaderMap, body: &[u8], now| {
            verify(IntakeScheme::Standard, &Secrets::new(secret.to_owned()), headers, body, now)
        };

        assert_eq!(standard(&request("msg_1", "1000"), BODY, 1300), signed("msg_1"));
        assert_eq!(standard(&request("msg_1", "1000"), BODY, 700), signed("msg_1"));
        assert_eq!(standard(&request("msg_1", "1000"), BODY, 1301), None, "too old");
        assert_eq!(standard(&request("msg_1", "1000"), BODY, 699), None, "from the future");
        assert_eq!(standard(&request("msg_1", "1001"), BODY, 1000), None, "another time");
        assert_eq!(standard(&request("msg_2", "1000"), BODY, 1000), None, "another id");
        assert_eq!(standard(&request("msg_1", "1000"), b"?", 1000), None, "another body");
    }

    #[test]
    fn a_timestamped_signature_verifies_for_a_while() {
        let secrets = Secrets::new("whsec_stripes".to_owned());
        let mut mac = Hmac::<Sha256>::new_from_slice(b"whsec_stripes").unwrap();
        mac.update(b"1000.Hello, World!");
        let good = HEXLOWER_PERMISSIVE.encode(&mac.finalize().into_bytes());
        let stripe = |signature: &str, now| {
            verify(IntakeScheme::Timestamped, &secrets, &headers(&[("stripe-signature", signature)]), BODY, now)
        };

        let unnamed = Some(Signed { delivery: None });
        assert_eq!(stripe(&format!("t=1000,v1={good}"), 1000), unnamed);
        assert_eq!(stripe(&format!("t=1000, v0=00, v1=00, v1={good}"), 1000), unnamed);
        assert_eq!(stripe(&format!("t=1000,v1={good}"), 1301), None, "too old");
        assert_eq!(stripe(&format!("t=1001,v1={good}"), 1000), None, "another time");
        assert_eq!(stripe(&format!("t=1000,v0={good}"), 1000), None, "another scheme");
        assert_eq!(stripe(&format!("v1={good}"), 1000), None, "no time");
    }

    #[test]
    fn the_old_secret_verifies_until_it_ends() {
        let mut secrets = Secrets::new("It's a Secret to Everybody".to_owned());
        secrets.rotate("the next one".to_owned(), at(60));
        let good = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let request = headers(&[("x-hub-signature-256", good)]);

        assert!(verify(IntakeScheme::Github, &secrets, &request, BODY, 59).is_some());
        assert!(verify(IntakeScheme::Github, &secrets, &request, BODY, 60).is_none());
    }
}
