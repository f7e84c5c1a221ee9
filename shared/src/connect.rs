//! A NATS connection with the settings that a long-lived part of the mesh needs.
//!
//! What async-nats does by default is made for short programs: it pings every minute, so a dead link goes
//! unnoticed for three; it reconnects without jitter, so a broker that restarts is met by all its clients in
//! the same millisecond; and a permission error is told to nobody.
//!
//! Files of certificates are read again for each connection that is made, so a new certificate holds from the next one
//! on, and none is broken off for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::names::MeshName;
use crate::role::{self, Operation, Role};
use crate::subject::Subjects;

/// What a log must leave out: async-nats tells the password of the address that it connects to.
pub const QUIET: &str = "async_nats=warn";

/// How often the server is asked whether it is there, if it says nothing by itself. The third question that stays without an
/// answer ends the connection, and a new one is tried.
///
/// After a cut, TCP sends again what was lost at ever longer intervals: after one of six seconds up to six more. A connection
/// that is made anew is through within three.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Where the broker is and who we are. Flags have the environment twins of the `nats` command line.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Settings {
    /// Address of the NATS server; several of a cluster are separated by commas.
    #[arg(long = "nats", env = "NATS_URL", value_name = "URL", default_value = "nats://127.0.0.1:4222", global = true)]
    pub url: String,
    /// Credentials file (JWT and NKey).
    #[arg(long, env = "NATS_CREDS", value_name = "FILE", global = true)]
    pub creds: Option<PathBuf>,
    /// File that holds an NKey seed.
    #[arg(long, env = "NATS_NKEY", value_name = "FILE", global = true)]
    pub nkey: Option<PathBuf>,
    /// User name, where the server asks for one.
    #[arg(long, env = "NATS_USER", value_name = "NAME", global = true)]
    pub user: Option<String>,
    /// Password of the user. By environment only: an argument could be read by anybody on the host.
    #[arg(skip = std::env::var("NATS_PASSWORD").ok())]
    pub password: Option<String>,
    /// Certificate authority that the server's certificate is checked against.
    #[arg(long, env = "NATS_CA", value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, where the server asks for one.
    #[arg(long, env = "NATS_CERT", value_name = "FILE", requires = "tls_key", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// The key of our certificate.
    #[arg(long, env = "NATS_KEY", value_name = "FILE", requires = "tls_cert", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Prefix of the subjects by which answers come [default: one of the user's own, where it has an NKey, or _INBOX].
    #[arg(long, env = "NATS_INBOX_PREFIX", value_name = "PREFIX", global = true)]
    pub inbox_prefix: Option<String>,
    /// Name of the mesh, the first token of all its subjects.
    #[arg(long, env = "HIVE_MESH", value_name = "NAME", default_value = "hive", global = true)]
    pub mesh: MeshName,
    /// What the server has refused on connections with these settings.
    #[arg(skip)]
    pub violations: Violations,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the password nor one inside the URL belongs into a log.
        f.debug_struct("Settings").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            creds: None,
            nkey: None,
            user: None,
            password: None,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            inbox_prefix: None,
            mesh: MeshName::default(),
            violations: Violations::default(),
        }
    }
}

/// How long to go on when the server does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For ever: a service waits for its broker.
    Endless,
    /// So long: a person waits at a prompt.
    Limited(Duration),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is none.
    #[error("`{url}` is not the address of a NATS server: write nats://host:4222")]
    BadUrl {
        /// The address without any password in it.
        url: String,
    },
    /// A file of keys or certificates cannot be used.
    #[error("failed to read {what} `{}`", path.display())]
    File {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The server says no.
    #[error("the NATS server at {url} refuses these credentials: set --creds, --nkey or --user and NATS_PASSWORD")]
    Refused {
        /// The address without any password in it.
        url: String,
        /// What it said.
        source: async_nats::ConnectError,
    },
    /// The server does not answer.
    #[error("no NATS server answers at {url}: is it running, and is --nats (NATS_URL) right?")]
    NoAnswer {
        /// The address without any password in it.
        url: String,
        /// What the last try ended with.
        source: async_nats::ConnectError,
    },
}

/// Counts what a connection went through, for metrics and for the curious.
#[derive(Debug, Default)]
pub struct Counters {
    /// How often the connection was lost.
    pub disconnects: AtomicU64,
    /// Errors that the server told, permission violations above all.
    pub server_errors: AtomicU64,
    /// Of these, what this user may not do.
    pub violations: AtomicU64,
    /// How often messages were dropped because a subscription was not read fast enough.
    pub slow_consumers: AtomicU64,
}

/// Something that the NATS server does not let this user do.
///
/// It says so on the connection only: who asked for it waits for an answer that never comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What was tried.
    pub operation: Operation,
    /// Where.
    pub subject: String,
    /// The roles that may do it.
    pub roles: Vec<Role>,
}

impl Violation {
    /// Reads what the server said, such as `Permissions Violation for Publish to "hive.result.t1"`.
    pub fn parse(said: &str, subjects: &Subjects) -> Option<Self> {
        let (_, what) = said.split_once("Permissions Violation for ")?;
        let operation = if what.starts_with("Publish") { Operation::Publish } else { Operation::Subscribe };
        let subject = what.split('"').nth(1)?.to_owned();
        let roles = role::roles_that_may(operation, &subject, subjects);
        Some(Self { operation, subject, roles })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            Operation::Publish => "publish",
            Operation::Subscribe => "subscribe",
        };
        write!(f, "permissions violation: this user of the NATS server may not {operation} to `{}`", self.subject)?;
        match self.roles.as_slice() {
            [] => f.write_str("; no role of the mesh may"),
            roles => {
                let roles: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                write!(f, "; role needed: {}", roles.join(" or "))
            }
        }
    }
}

impl std::error::Error for Violation {}

/// Tells of the first violation, however many connections there are.
#[derive(Clone, Debug)]
pub struct Violations(Arc<watch::Sender<Option<Violation>>>);

impl Default for Violations {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }
}

impl Violations {
    /// Waits for one; returns at once if there was one before.
    pub async fn first(&self) -> Violation {
        let mut told = self.0.subscribe();
        let first = told.wait_for(Option::is_some).await.map(|violation| violation.clone());
        match first {
            Ok(Some(violation)) => violation,
            // The sender is ours, so there is always one to come.
            _ => std::future::pending().await,
        }
    }

    fn tell(&self, violation: Violation) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(violation);
            }
            is_first
        });
    }
}

/// Several crates bring a cryptography each; without a choice, TLS dares to begin with none.
pub fn choose_cryptography() {
    // Somebody may have chosen before.
    let _ = async_nats::rustls::crypto::ring::default_provider().install_default();
}

impl Settings {
    /// Connects under a name that the broker's monitoring shows. A server that does not answer is asked again,
    /// ever more slowly, and the wait is logged.
    pub async fn connect(&self, name: &str, patience: Patience) -> Result<async_nats::Client, ConnectError> {
        Ok(self.connect_counted(name, patience).await?.0)
    }

    /// The same, with counters of what happens to the connection.
    pub async fn connect_counted(
        &self,
        name: &str,
        patience: Patience,
    ) -> Result<(async_nats::Client, Arc<Counters>), ConnectError> {
        let url = self.url_without_secrets();
        let servers: Vec<async_nats::ServerAddr> = self
            .url
            .split(',')
            .map(|part| part.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| ConnectError::BadUrl { url: url.clone() })?;
        let counters = Arc::new(Counters::default());
        let started = std::time::Instant::now();
        let mut delay = Duration::from_millis(100);
        loop {
            let options = self.options(name, &counters, &servers).await?;
            let source = match options.connect(servers.clone()).await {
                Ok(client) => return Ok((client, counters)),
                Err(error) => error,
            };
            match source.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                    return Err(ConnectError::Refused { url, source });
                }
                ConnectErrorKind::ServerParse => return Err(ConnectError::BadUrl { url }),
                _ => {}
            }
            if let Patience::Limited(limit) = patience
                && started.elapsed() + delay > limit
            {
                return Err(ConnectError::NoAnswer { url, source });
            }
            warn!(%url, error = %source, retry_in = ?delay, "no NATS server answers, trying again");
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(Duration::from_secs(5));
        }
    }

    async fn options(
        &self,
        name: &str,
        counters: &Arc<Counters>,
        servers: &[async_nats::ServerAddr],
    ) -> Result<ConnectOptions, ConnectError> {
        choose_cryptography();
        let mut options = ConnectOptions::new()
            .name(name)
            .ping_interval(PING_INTERVAL)
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(2)))
            .subscription_capacity(1 << 18)
            .client_capacity(1 << 14)
            .reconnect_delay_callback(|attempts| {
                let exponential = Duration::from_millis(10 << attempts.min(8));
                jittered(exponential.min(Duration::from_secs(1)))
            })
            .event_callback({
                let listener = Listener {
                    name: name.to_owned(),
                    counters: counters.clone(),
                    subjects: Subjects::new(self.mesh.clone()),
                    violations: self.violations.clone(),
                };
                move |event| {
                    listener.hear(&event);
                    std::future::ready(())
                }
            });
        let mut public_key = None;
        if let Some(path) = &self.creds {
            let what = "credentials file";
            let creds = read(what, path).await?;
            public_key = seed_in(&creds).and_then(public_key_of);
            let failed = |source| ConnectError::File { what, path: path.clone(), source };
            options = options.credentials(&creds).map_err(failed)?;
        }
        if let Some(path) = &self.nkey {
            let what = "NKey file";
            let text = read(what, path).await?;
            let bad = || std::io::Error::other("it holds no seed of a user (SU…)");
            let failed = |source| ConnectError::File { what, path: path.clone(), source };
            let seed = seed_in(&text).ok_or_else(|| failed(bad()))?;
            public_key = Some(public_key_of(seed).ok_or_else(|| failed(bad()))?);
            options = options.nkey(seed.to_owned());
        }
        let own_prefix = public_key.map(|key| role::inbox_prefix(&key));
        if let Some(prefix) = self.inbox_prefix.clone().or(own_prefix) {
            options = options.custom_inbox_prefix(prefix);
        }
        // A server that lets in who says nothing does not ask for what the address says, so it is said unasked.
        let named =
            servers.iter().find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())));
        if let Some(user) = &self.user {
            options = options.user_and_password(user.clone(), self.password.clone().unwrap_or_default());
        } else if let Some((user, password)) = named {
            options = options.user_and_password(user, password);
        }
        // async-nats reads them itself, for each connection; here a file that is not there is told at once.
        if let Some(path) = &self.tls_ca {
            read("certificates of the authority", path).await?;
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
            read("certificate", cert).await?;
            read("key of the certificate", key).await?;
            options = options.add_client_certificate(cert.clone(), key.clone()).require_tls(true);
        }
        Ok(options)
    }

    /// The address as it may be shown: a password in it is left out.
    pub fn url_without_secrets(&self) -> String {
        let shown = self.url.split(',').map(|part| match (part.find("://"), part.rfind('@')) {
            (Some(scheme), Some(at)) if at > scheme => format!("{}://{}", &part[..scheme], &part[at + 1..]),
            (None, Some(at)) => part[at + 1..].to_owned(),
            _ => part.to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }
}

/// Up to the given time: those who lost the same broker do not come back in lock-step.
fn jittered(limit: Duration) -> Duration {
    limit.mul_f64(0.5 + fastrand::f64() / 2.0)
}

async fn read(what: &'static str, path: &Path) -> Result<String, ConnectError> {
    let failed = |source| ConnectError::File { what, path: path.to_owned(), source };
    tokio::fs::read_to_string(path).await.map_err(failed)
}

/// The seed of a user in a file of credentials or in one that holds nothing else.
fn seed_in(text: &str) -> Option<&str> {
    text.lines().map(str::trim).find(|line| line.starts_with("SU") && line.len() == 58)
}

fn public_key_of(seed: &str) -> Option<String> {
    nkeys::KeyPair::from_seed(seed).ok().map(|keys| keys.public_key())
}

/// Hears what happens to one connection.
struct Listener {
    name: String,
    counters: Arc<Counters>,
    subjects: Subjects,
    violations: Violations,
}

impl Listener {
    fn hear(&self, event: &Event) {
        let Self { name, counters, .. } = self;
        match event {
            Event::Connected => info!(connection = name, "connected to NATS"),
            Event::Disconnected => {
                counters.disconnects.fetch_add(1, Ordering::Relaxed);
                warn!(connection = name, "lost the connection to NATS, reconnecting");
            }
            Event::ServerError(error) => self.hear_error(&error.to_string()),
            Event::SlowConsumer(_) => {
                counters.slow_consumers.fetch_add(1, Ordering::Relaxed);
                warn!(connection = name, "messages were dropped because they were not read fast enough");
            }
            Event::LameDuckMode => info!(connection = name, "the NATS server is about to leave"),
            other => debug!(connection = name, event = %other, "NATS connection"),
        }
    }

    fn hear_error(&self, error: &str) {
        let Self { name, counters, subjects, violations } = self;
        counters.server_errors.fetch_add(1, Ordering::Relaxed);
        let Some(violation) = Violation::parse(error, subjects) else {
            return warn!(connection = name, error, "the NATS server refused something");
        };
        let count = counters.violations.fetch_add(1, Ordering::Relaxed) + 1;
        warn!(target: "permissions", connection = name, count, "{violation}");
        violations.tell(violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_the_address_is_never_shown() {
        let shown = |url: &str| Settings { url: url.to_owned(), ..Settings::default() }.url_without_secrets();

        assert_eq!(shown("nats://me:secret@a:4222,nats://b:4222"), "nats://a:4222,nats://b:4222");
        assert_eq!(shown("me:secret@a"), "a");
        assert_eq!(shown("127.0.0.1:4222"), "127.0.0.1:4222");
    }

    #[test]
    fn a_violation_says_what_was_refused_and_which_role_is_needed() {
        let parse = |said: &str| Violation::parse(said, &Subjects::default()).map(|violation| violation.to_string());

        let publish = parse(r#"nats: Permissions Violation for Publish to "hive.result.t1""#).unwrap();
        assert!(publish.contains("publish to `hive.result.t1`") && publish.ends_with("coordinator"), "{publish}");
        let subscribe = parse(r#"Permissions Violation for Subscription to "hive.>" using queue "q""#).unwrap();
        assert!(subscribe.contains("subscribe to `hive.>`") && subscribe.ends_with("no role of the mesh may"));
        assert_eq!(parse("Stale Connection"), None);
    }

    #[test]
    fn the_seed_is_found_alone_and_in_credentials() {
        let keys = nkeys::KeyPair::new_user();
        let seed = keys.seed().unwrap();
        let creds = format!("-----BEGIN NATS USER JWT-----\neyJ0\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------\n");

        for text in [creds, format!("{seed}\n")] {
            assert_eq!(seed_in(&text).and_then(public_key_of), Some(keys.public_key()));
        }
        assert_eq!(seed_in("SAAB\n"), None);
    }

    #[tokio::test]
    async fn the_first_violation_is_told_whenever_it_is_asked_for() {
        let violations = Violations::default();
        let violation =
            |subject: &str| Violation { operation: Operation::Publish, subject: subject.to_owned(), roles: Vec::new() };

        violations.tell(violation("a"));
        violations.tell(violation("b"));

        assert_eq!(violations.first().await, violation("a"));
    }
}
