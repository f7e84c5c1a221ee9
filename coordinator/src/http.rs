//! The HTTP side: REST as the table of operations has it, tasks and results as bytes, health, the document and a page to
//! try it, and what keeps all of it safe.
//!
//! `rest` makes the routes, `guard` stands before every request (also before those of routers that others merge in), and
//! `problem` says what went wrong. A path that is open to everybody, or for another role than [`Access::of`] gives it, is
//! named in `access`.

mod access;
mod config;
mod docs;
mod guard;
mod login;
mod problem;
mod raw;
mod rest;
mod tls;
mod tokens;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::middleware;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::api::Services;
use crate::dashboard::Filled;
use crate::metrics::{self, Metrics};
use crate::{dashboard, hooks, live, logs};
use guard::Guard;
pub(crate) use problem::Problem;

pub use access::Access;
pub use config::{Config, Token, TokenHash};
pub(crate) use login::COOKIE;
pub(crate) use tokens::NewToken;

pub use crate::api::Role;

/// Serves the API.
#[derive(Debug)]
pub struct Server {
    services: Services,
    metrics: Metrics,
    config: Config,
    /// Where the settings come from, to be read again when they change.
    config_file: Option<PathBuf>,
    certificate: Option<tls::Certificate>,
}

impl Server {
    /// A server with these settings, whose certificate is read.
    pub fn new(
        services: Services,
        config: Config,
        config_file: Option<PathBuf>,
        metrics: Metrics,
    ) -> anyhow::Result<Self> {
        let certificate = tls::Certificate::load(&config)?;
        Ok(Self { services, metrics, config, config_file, certificate })
    }

    /// Serves until the process ends.
    pub async fn run(self, listener: TcpListener) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        let (tokens, known) = watch::channel(self.config.tokens.clone().into());
        let guard = Guard::new(&self.config, address, self.certificate.is_some(), known);
        if let Some(file) = self.config_file.clone() {
            tokio::spawn(tokens::reload(file, tokens, self.certificate.clone()));
        }
        let service = self.router(Arc::new(guard), address).into_make_service_with_connect_info::<SocketAddr>();
        match self.certificate {
            None => axum::serve(listener, service).await?,
            Some(certificate) => {
                let listener = listener.into_std()?;
                axum_server::from_tcp_rustls(listener, certificate.config())?.serve(service).await?;
            }
        }
        Ok(())
    }

    /// All that is served. Whatever is merged in stands behind the guard too.
    fn router(&self, guard: Arc<Guard>, address: SocketAddr) -> Router {
        let Services { handle, store, client, hooks, .. } = self.services.clone();
        let hub = live::Hub::new(store.clone());
        let logs = logs::stream::router(handle, store, client);
        let pages =
            dashboard::router(self.services.clone(), Some(address), Arc::new(Filled::new(self.services.clone())));
        let limit = self.services.client.nats().max_payload();
        let probes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(self.services.clone());
        Router::new()
            .merge(probes)
            .merge(rest::router(&self.services))
            .merge(docs::router())
            .merge(login::router(guard.clone()))
            .merge(pages)
            .merge(logs)
            .merge(hooks::router(hooks))
            .merge(live::router(hub))
            .merge(metrics::router(self.metrics.clone()))
            .layer(DefaultBodyLimit::max(limit.max(1 << 20)))
            .fallback(problem::no_such_path)
            .method_not_allowed_fallback(problem::no_such_method)
            .layer(middleware::from_fn_with_state(guard, guard::check))
    }
}

async fn readyz(State(services): State<Services>) -> Result<String, Problem> {
    if services.client.nats().connection_state() != async_nats::connection::State::Connected {
        return Err(Problem::new(503, "there is no connection to the NATS server"));
    }
    let status = services.handle.status();
    Ok(if status.leading { format!("leading in epoch {}\n", status.epoch) } else { "standing by\n".to_owned() })
}
