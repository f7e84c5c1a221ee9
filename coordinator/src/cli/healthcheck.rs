//! `coordinator healthcheck`: whether the coordinator beside this one is well, or a NATS server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

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

/// Asks, and tells.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (address, path) = whom(&args)?;
    let (line, code) = match health::ask(address, path).await {
        Ok(said) => (format!("well: {said}"), ExitCode::SUCCESS),
        Err(unwell) => (format!("unwell: {}", crate::chain(&unwell)), ExitCode::from(output::FAILED)),
    };
    output::line(&output::escape(&line))?;
    Ok(code)
}

fn whom(args: &Args) -> anyhow::Result<(SocketAddr, &'static str)> {
    if let Some(url) = &args.monitor {
        let addresses = url.socket_addrs(|| None).with_context(|| format!("`{url}` is not the address of a server"))?;
        let address = addresses.first().with_context(|| format!("`{url}` has no address"))?;
        return Ok((*address, "/healthz"));
    }
    let address = match args.http {
        Some(address) => address,
        None => Config::load(args.config.as_deref())?.http.address,
    };
    Ok((health::from_here(address), "/readyz"))
}
