//! The command line of benches.

/// What the command line says.
pub struct Plan {
    pub seconds: u64,
    pub connections: usize,
    pub devices: usize,
    pub postgres: Option<String>,
}

/// Reads the command line.
pub fn plan(devices: usize, connections: usize) -> anyhow::Result<Plan> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mut plan = Plan { seconds: 8, connections, devices, postgres: None };
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => plan.seconds = value.parse()?,
            "--connections" => plan.connections = value.parse()?,
            "--devices" => plan.devices = value.parse()?,
            "--postgres" => plan.postgres = Some(value),
            _ => anyhow::bail!("{name} is not known"),
        }
    }
    rustls::crypto::ring::default_provider().install_default().ok();
    Ok(plan)
}

/// The databases that are measured: a SQLite file in `folder`, and PostgreSQL where a URL is given.
pub fn databases(plan: &Plan, folder: &std::path::Path) -> Vec<(&'static str, String)> {
    let mut databases = vec![("sqlite", format!("sqlite://{}", folder.join("muster.db").display()))];
    databases.extend(plan.postgres.clone().map(|url| ("postgresql", url)));
    databases
}
