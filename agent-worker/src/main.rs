//! The program `agent-worker`.

use std::process::ExitCode;

use agent_worker::cli;
use clap::Parser;

/// A task is a handful of small allocations on its way through: this allocator makes them cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs tasks of the mesh on this host.
#[derive(Parser)]
#[command(name = "agent-worker", version)]
struct Program {
    #[command(flatten)]
    args: cli::Args,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match cli::run(Program::parse().args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent-worker: {error:#}");
            cli::exit_code(&error)
        }
    }
}
