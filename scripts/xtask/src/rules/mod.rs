//! Rules that no compiler knows, one per file.

pub(crate) mod duplicates;
pub(crate) mod layers;
pub(crate) mod length;
pub(crate) mod licences;
pub(crate) mod metrics;
pub(crate) mod units;
pub(crate) mod unsafe_code;

/// Fails with one problem per line.
pub(crate) fn verdict(problems: Vec<String>) -> anyhow::Result<()> {
    if problems.is_empty() {
        return Ok(());
    }
    anyhow::bail!("{}", problems.join("\n"))
}
