//! What the id of a task is made of that comes by an intake.

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use shared::{HookName, TaskId};

/// What is filled in.
const INTAKE: &str = "{intake}";
const DELIVERY: &str = "{delivery}";
const DIGEST: &str = "{digest}";

/// The template that holds unless something else is said.
pub(crate) const DEFAULT: &str = "{intake}-{delivery}";

/// Hexadecimal digits of a digest in an id: 128 bits.
const DIGEST_LENGTH: usize = 32;

/// A delivery's id that is longer, or has other characters than a task's id, is given by its digest.
const LONGEST_DELIVERY: usize = 40;

/// Checks a template by filling in the longest values there can be.
pub(crate) fn check(template: &str, intake: &HookName) -> Result<(), String> {
    if !template.contains(DELIVERY) && !template.contains(DIGEST) {
        return Err(format!("a task's id must tell deliveries apart: write `{DELIVERY}` or `{DIGEST}` into it"));
    }
    let longest = "x".repeat(LONGEST_DELIVERY);
    let filled = template.replace(INTAKE, intake.as_str()).replace(DELIVERY, &longest).replace(DIGEST, &longest);
    TaskId::new(&filled).map(drop).map_err(|error| format!("it does not make a task's id: {error}"))
}

/// The id of the task that a delivery becomes. One that comes again makes the same.
pub(crate) fn fill(template: &str, intake: &HookName, delivery: Option<&str>, body: &[u8]) -> String {
    let digest = digest(body);
    let delivery = delivery.map_or_else(|| digest.clone(), as_token);
    template.replace(INTAKE, intake.as_str()).replace(DELIVERY, &delivery).replace(DIGEST, &digest)
}

fn as_token(delivery: &str) -> String {
    let fits = delivery.len() <= LONGEST_DELIVERY && TaskId::new(delivery).is_ok();
    if fits { delivery.to_owned() } else { digest(delivery.as_bytes()) }
}

fn digest(bytes: &[u8]) -> String {
    let mut text = HEXLOWER.encode(&Sha256::digest(bytes));
    text.truncate(DIGEST_LENGTH);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intake() -> HookName {
        HookName::new("github").unwrap()
    }

    #[test]
    fn a_delivery_makes_the_same_id_each_time_and_another_makes_another() {
        let fill = |delivery, body: &str| fill(DEFAULT, &intake(), delivery, body.as_bytes());

        assert_eq!(fill(Some("72d3162e-cc78-11e3"), "a"), "github-72d3162e-cc78-11e3");
        assert_eq!(fill(Some("msg.2/3"), "a"), fill(Some("msg.2/3"), "b"));
        assert_ne!(fill(Some("msg.2/3"), "a"), fill(Some("msg.2/4"), "a"));
        assert_eq!(fill(None, "a"), fill(None, "a"));
        assert_ne!(fill(None, "a"), fill(None, "b"));
        assert!(TaskId::new(fill(Some(&"x".repeat(500)), "a")).is_ok());
    }

    #[test]
    fn what_makes_no_id_is_refused_when_it_is_set() {
        let check = |template: &str| check(template, &intake());

        assert_eq!(check(DEFAULT), Ok(()));
        assert_eq!(check("push-{digest}"), Ok(()));
        assert!(check("{intake}").unwrap_err().contains("tell deliveries apart"));
        assert!(check("a.b-{delivery}").unwrap_err().contains("task id"));
        assert!(check("{header}-{delivery}").is_err());
        assert!(check(&format!("{}{{delivery}}", "x".repeat(100))).is_err());
    }
}
