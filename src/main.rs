//! Arguments, log, signals; everything else is the library.

use std::process::ExitCode;

use clap::Parser;
use muster::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    muster::telemetry::start_log();
    // Fails only where a provider is installed already, which is then the same one.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("muster: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(cli::run(cli));
    muster::telemetry::finish();
    // A blocking read of standard input or a hanging resolver must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("muster: {error:#}");
            ExitCode::FAILURE
        }
    }
}
