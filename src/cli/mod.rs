//! The command line.

mod backup;
mod demo;
mod doctor;
mod local;
mod outpost;
mod remote;
mod simulate;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{CommandFactory, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{self, Config};
use crate::intake::authority;
use crate::model::Role;
use crate::server::Server;

const CONFIG_DEFAULT: &str = "muster.toml";

/// The version and, where the build was told it (`GIT_COMMIT`), the commit: `0.1.0 (0123456789ab)`. Nothing of the machine or the hour.
static VERSION: LazyLock<String> = LazyLock::new(|| match option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty()) {
    Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
    None => env!("CARGO_PKG_VERSION").to_owned(),
});

/// Muster calls your phones in, hands them their orders, and tells you which ones followed them.
#[derive(Debug, Parser)]
#[command(name = "muster", version = VERSION.as_str(), about, propagate_version = true)]
pub struct Cli {
    /// The settings file.
    #[arg(long, global = true, env = "MUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve {
        /// Print the settings in force, secrets hidden, and end.
        #[arg(long)]
        print_config: bool,
        /// Listen here, for everything, instead of where `listen` or [[listener]] say.
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<std::net::SocketAddr>,
        /// Leave the schema alone; refuse to start where it is not this version's.
        #[arg(long)]
        no_migrate: bool,
    },
    /// The whole loop on this machine: server, stand-ins for FCM and APNs, 230 simulated phones, console.
    Demo {
        /// End by itself after so many seconds (up to 30 later where phones are still under way), with a failure unless every phone completed
        /// the loop.
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Keep everything in this folder instead of a temporary one.
        #[arg(long, value_name = "DIR")]
        keep: Option<PathBuf>,
    },
    /// A fleet of simulated phones against any server; ends with 1 where phones failed.
    Simulate(Box<simulate::Options>),
    /// A relay in a DMZ: hands on to the server what devices say, and nothing else.
    Edge(Box<outpost::EdgeOptions>),
    /// A node that keeps the files of apps, which prove themselves with service tokens of the server.
    StorageNode(Box<outpost::StorageOptions>),
    /// Bring the database to this version's schema.
    Migrate,
    /// Write the whole database to a file, also while servers run.
    Backup { file: PathBuf },
    /// Read a backup into an empty database, SQLite or PostgreSQL, whichever it came from.
    Restore { file: PathBuf },
    /// Look at settings, database, clock, certificates and push credentials, change no data, and end with 1 where something is at fault.
    Doctor {
        /// Tell it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask a server whether it is ready, and end with 1 where it is not: the health check of a container.
    Health {
        #[arg(default_value = "http://127.0.0.1:8080")]
        url: String,
    },
    /// Print what a shell needs to complete this command line.
    Completion { shell: clap_complete::Shell },
    /// Operators of the console.
    #[command(subcommand)]
    Operator(OperatorCommand),
    /// Keys of the API.
    #[command(subcommand)]
    Key(KeyCommand),
    /// The device CA.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Push credentials: how the senders stand, and the road to an MDM push certificate and to its yearly renewal.
    Push {
        #[command(flatten)]
        access: remote::PushAccess,
        #[command(subcommand)]
        verb: remote::Push,
    },
    /// Make labels, policies and assignments be what the files of a folder say.
    Apply {
        #[command(flatten)]
        access: remote::Access,
        #[command(flatten)]
        folder: remote::Folder,
    },
    /// Devices of a running server.
    Device {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Device,
    },
    /// Jobs of a running server.
    Job {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Job,
    },
    /// Tasks of a running server.
    Task {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Task,
    },
    /// Policies of a running server.
    Policy {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Policy,
    },
    /// Labels of a running server.
    Label {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Label,
    },
    /// Users of a running server.
    User {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::User,
    },
    /// Enrollment tokens of a running server.
    Token {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Token,
    },
    /// Events of a running server.
    Event {
        #[command(flatten)]
        access: remote::Access,
        #[command(subcommand)]
        verb: remote::Event,
    },
}

#[derive(Debug, Subcommand)]
enum OperatorCommand {
    /// Add an operator, or name one that exists, and print a one-time sign-in link (15 minutes).
    Add {
        name: String,
        /// viewer, operator or admin. Without it one who is there keeps the present role, and a new one is an operator.
        #[arg(long)]
        role: Option<Role>,
    },
}

#[derive(Debug, Subcommand)]
enum CaCommand {
    /// Print the certificates of the device CA, PEM: the one in use first, then those that its devices may still have.
    Show,
    /// Make a new device CA. Running servers issue from it within five seconds; what the former one issued stays good.
    Rotate,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make an API key and print it, alone, on standard output.
    Add {
        name: String,
        #[arg(long, default_value = "operator")]
        role: Role,
    },
}

/// Does what the command line says.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = || -> anyhow::Result<Config> {
        let file = cli.config.as_deref().unwrap_or(Path::new(CONFIG_DEFAULT));
        Ok(Config::load(file, cli.config.is_some(), config::environment())?)
    };
    match cli.command {
        Command::Serve { print_config, listen, no_migrate } => {
            let mut config = config()?;
            if let Some(address) = listen {
                config.listen = address;
                config.listeners.clear();
            }
            config.migrate &= !no_migrate;
            config.check()?;
            if print_config {
                print!("{}", config.print());
                return Ok(ExitCode::SUCCESS);
            }
            serve(config).await?;
        }
        Command::Demo { seconds, keep } => return demo::run(seconds, keep).await,
        Command::Simulate(options) => return simulate::run(*options).await,
        Command::Edge(options) => outpost::edge(*options).await?,
        Command::StorageNode(options) => outpost::storage_node(*options).await?,
        Command::Migrate => local::migrate(&config()?).await?,
        Command::Backup { file } => println!("{} rows", backup::backup(&config()?, &Clock::system(), &file).await?),
        Command::Restore { file } => println!("{} rows", backup::restore(&config()?, &file).await?),
        Command::Doctor { json } => return doctor::run(&config(), &Clock::system(), json).await,
        Command::Health { url } => return Ok(local::health(&url).await),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
        }
        Command::Operator(OperatorCommand::Add { name, role }) => local::operator_add(&config()?, &name, role).await?,
        Command::Push { access, verb } => verb.run(&access.into()).await?,
        Command::Apply { access, folder } => folder.run(&access).await?,
        Command::Device { access, verb } => remote::run(&access, verb.call()).await?,
        Command::Job { access, verb } => remote::run(&access, verb.call()?).await?,
        Command::Task { access, verb } => remote::run(&access, verb.call()).await?,
        Command::Policy { access, verb } => remote::run(&access, verb.call()?).await?,
        Command::Label { access, verb } => remote::run(&access, verb.call()).await?,
        Command::User { access, verb } => remote::run(&access, verb.call()).await?,
        Command::Token { access, verb } => remote::run(&access, verb.call()).await?,
        Command::Event { access, verb } => remote::run(&access, verb.call()).await?,
        Command::Ca(CaCommand::Show) => local::ca_show(&config()?).await?,
        Command::Ca(CaCommand::Rotate) => local::ca_rotate(&config()?).await?,
        Command::Key(KeyCommand::Add { name, role }) => local::key_add(&config()?, &name, role).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let server = Server::start(config, Clock::system()).await?;
    if let Some(address) = server.address() {
        tracing::info!(%address, public_url = %server.app.config.public_url, "muster serves");
    }
    let stop = CancellationToken::new();
    tokio::spawn(stop_on_signal(stop.clone()));
    // The first start makes it, so that nobody who enrolls waits for it.
    authority::prepare(&server.app);
    server.run(stop).await?;
    tracing::info!("muster has stopped");
    Ok(())
}

/// Cancels `stop` on SIGTERM or SIGINT.
pub async fn stop_on_signal(stop: CancellationToken) {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                tokio::select! {
                    _ = interrupt => {}
                    _ = terminate.recv() => {}
                }
            }
            Err(_) => {
                interrupt.await.ok();
            }
        }
    }
    #[cfg(not(unix))]
    interrupt.await.ok();
    stop.cancel();
}
