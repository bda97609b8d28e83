//! Arguments, log, signals; everything else is the library.

use std::process::ExitCode;

use clap::Parser;
use muster::cli::{self, Cli};

/// As a shell shows a program that SIGPIPE has ended.
const OUTPUT_GONE: i32 = 128 + 13;

fn main() -> ExitCode {
    spare_output();
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

/// Whoever reads standard output may go (`| head`), and a disk may be full: the standard library panics there, people get a sentence or,
/// as from any program that is told so by a signal, nothing.
fn spare_output() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload_as_str().unwrap_or_default();
        let Some(why) = said.strip_prefix("failed printing to stdout: ") else { return before(panic) };
        if why.contains("Broken pipe") {
            std::process::exit(OUTPUT_GONE);
        }
        eprintln!("muster: standard output cannot be written: {why}; what the command was to do is done all the same");
        std::process::exit(1);
    }));
}
