//! The command line: names, each with a value.

/// Gives each name with its value to `take`, which answers false for one that it does not know.
pub fn each(mut take: impl FnMut(&str, String) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or_else(|| anyhow::anyhow!("{name} needs a value"))?;
        anyhow::ensure!(take(&name, value)?, "{name} is not known");
    }
    Ok(())
}
