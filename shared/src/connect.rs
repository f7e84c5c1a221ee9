//! A NATS connection with the settings that a long-lived part of the mesh needs.
//!
//! What async-nats does by default is made for short programs: it pings every minute, so a dead link goes
//! unnoticed for three; it reconnects without jitter, so a broker that restarts is met by all its clients in
//! the same millisecond; and a permission error is told to nobody.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use tracing::{debug, info, warn};

use crate::names::MeshName;

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
    /// Name of the mesh, the first token of all its subjects.
    #[arg(long, env = "HIVE_MESH", value_name = "NAME", default_value = "hive", global = true)]
    pub mesh: MeshName,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
            mesh: MeshName::default(),
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
    /// How often messages were dropped because a subscription was not read fast enough.
    pub slow_consumers: AtomicU64,
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
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(Duration::from_secs(2)))
            .subscription_capacity(1 << 18)
            .client_capacity(1 << 14)
            .reconnect_delay_callback(|attempts| {
                let exponential = Duration::from_millis(10 << attempts.min(8));
                jittered(exponential.min(Duration::from_secs(1)))
            })
            .event_callback({
                let (name, counters) = (name.to_owned(), counters.clone());
                move |event| {
                    log_event(&name, &counters, &event);
                    std::future::ready(())
                }
            });
        if let Some(path) = &self.creds {
            options = options.credentials_file(path).await.map_err(|source| ConnectError::File {
                what: "credentials file",
                path: path.clone(),
                source,
            })?;
        }
        if let Some(path) = &self.nkey {
            let seed = tokio::fs::read_to_string(path).await.map_err(|source| ConnectError::File {
                what: "NKey file",
                path: path.clone(),
                source,
            })?;
            options = options.nkey(seed.trim().to_owned());
        }
        // A server that lets in who says nothing does not ask for what the address says, so it is said unasked.
        let named =
            servers.iter().find_map(|server| Some((server.username()?.to_owned(), server.password()?.to_owned())));
        if let Some(user) = &self.user {
            options = options.user_and_password(user.clone(), self.password.clone().unwrap_or_default());
        } else if let Some((user, password)) = named {
            options = options.user_and_password(user, password);
        }
        if let Some(path) = &self.tls_ca {
            options = options.add_root_certificates(path.clone()).require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.tls_cert, &self.tls_key) {
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

fn log_event(name: &str, counters: &Counters, event: &Event) {
    match event {
        Event::Connected => info!(connection = name, "connected to NATS"),
        Event::Disconnected => {
            counters.disconnects.fetch_add(1, Ordering::Relaxed);
            warn!(connection = name, "lost the connection to NATS, reconnecting");
        }
        Event::ServerError(error) => {
            counters.server_errors.fetch_add(1, Ordering::Relaxed);
            warn!(connection = name, %error, "the NATS server refused something");
        }
        Event::SlowConsumer(_) => {
            counters.slow_consumers.fetch_add(1, Ordering::Relaxed);
            warn!(connection = name, "messages were dropped because they were not read fast enough");
        }
        Event::LameDuckMode => info!(connection = name, "the NATS server is about to leave"),
        other => debug!(connection = name, event = %other, "NATS connection"),
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
}
