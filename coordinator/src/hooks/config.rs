//! Settings of webhooks.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Settings of webhooks, out and in.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Networks of private, loopback and other addresses that are not public, to which webhooks may be sent all the same.
    ///
    /// Whoever may set a webhook can let the coordinator send requests there.
    pub allow: Vec<IpNet>,
    /// How long the receiver of a webhook may take to answer.
    ///
    /// A webhook sends one event at a time: longer lets a slow receiver hold it up.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long to wait before an event is sent again the first time; it doubles each time, with jitter.
    #[serde(with = "humantime_serde")]
    pub backoff: Duration,
    /// The longest that it waits, also where the receiver asks for more by `Retry-After`.
    #[serde(with = "humantime_serde")]
    pub longest_backoff: Duration,
    /// How long nothing may be taken before a webhook is disabled.
    ///
    /// Longer outlasts a longer outage of the receiver, but not the age of events (`[streams] event-age`).
    #[serde(with = "humantime_serde")]
    pub disable_after: Duration,
    /// How many attempts of each webhook are kept to be looked at.
    pub log: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            timeout: Duration::from_secs(15),
            backoff: Duration::from_secs(1),
            longest_backoff: Duration::from_secs(10 * 60),
            disable_after: Duration::from_secs(24 * 3600),
            log: 50,
        }
    }
}

impl Config {
    /// What is wrong with them.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(300) {
            problems.push("[webhooks] timeout: write `1s` to `5m`".to_owned());
        }
        if self.backoff < Duration::from_millis(10) || self.backoff > self.longest_backoff {
            problems.push("[webhooks] backoff: write `10ms` or more, and no more than longest-backoff".to_owned());
        }
        if !(1..=1000).contains(&self.log) {
            problems.push("[webhooks] log: write 1 to 1000".to_owned());
        }
        problems
    }
}
