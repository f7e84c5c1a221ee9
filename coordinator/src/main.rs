//! The program `coordinator`.

use std::process::ExitCode;

/// A task is a handful of small allocations on its way through: this allocator makes them cheap.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    coordinator::cli::main()
}
