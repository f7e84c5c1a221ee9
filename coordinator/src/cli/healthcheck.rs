//! `coordinator healthcheck`: whether the coordinator beside this one is well, or a NATS server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use shared::health;

use super::output;
use crate::config::Config;

/// Tell whether the coordinator on this host is well, for probes where there is no shell.
///
/// It asks the coordinator's own API (`/readyz`), at the address that `serve` has by the same flag, variable or file;
/// or with --monitor a NATS server's monitoring (`/healthz`). It prints one line.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit codes:
  0  it is well
  1  it is not, and why")]
pub struct Args {
    /// Address of the coordinator's API [default: 127.0.0.1:8080].
    #[arg(long, env = "HIVE_HTTP", value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// The coordinator's file of settings (TOML).
    #[arg(long, env = "HIVE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask a NATS server instead, by its monitoring (its `http` setting), such as http://127.0.0.1:8222.
    #[arg(long, value_name = "URL")]
    monitor: Option<reqwest::Url>,
}

/// How long the coordinator may take, where connections are encrypted.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks, and tells.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (line, code) = match ask(&args).await? {
        Ok(said) => (format!("well: {said}"), ExitCode::SUCCESS),
        Err(unwell) => (format!("unwell: {unwell}"), ExitCode::from(output::FAILED)),
    };
    output::line(&output::escape(&line))?;
    Ok(code)
}

/// What it says that is asked, or why it is not well.
async fn ask(args: &Args) -> anyhow::Result<Result<String, String>> {
    if let Some(url) = &args.monitor {
        let addresses = url.socket_addrs(|| None).with_context(|| format!("`{url}` is not the address of a server"))?;
        let address = addresses.first().with_context(|| format!("`{url}` has no address"))?;
        return Ok(health::ask(*address, "/healthz").await.map_err(|unwell| crate::chain(&unwell)));
    }
    let http = Config::load(args.config.as_deref())?.http;
    let address = health::from_here(args.http.unwrap_or(http.address));
    if http.tls_certificate.is_some() {
        return Ok(ask_encrypted(address).await.map_err(|unwell| format!("{unwell:#}")));
    }
    Ok(health::ask(address, "/readyz").await.map_err(|unwell| crate::chain(&unwell)))
}

/// The certificate is this host's own, and need not be for its address.
async fn ask_encrypted(address: SocketAddr) -> anyhow::Result<String> {
    let client =
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().timeout(PATIENCE).build()?;
    let answer = client.get(format!("https://{address}/readyz")).send().await?;
    let (status, said) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status.is_success(), "it answered {status}: {}", said.trim());
    Ok(said.trim().to_owned())
}
