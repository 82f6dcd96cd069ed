//! A metric that is declared and never touched is a lie on the dashboard (style §8).

use crate::rules::verdict;
use crate::workspace::Source;

const TYPES: &[&str] = &["IntCounter", "IntGauge", "Histogram", "CounterVec", "GaugeVec", "HistogramVec", "CounterGrid", "HistogramGrid"];

pub(crate) fn check(sources: &[Source]) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for file in sources.iter().filter(|s| s.path.ends_with("/src/metrics.rs") && !s.path.starts_with("daemons/shared/")) {
        let Some(folder) = file.path.strip_suffix("metrics.rs") else { continue };
        for name in file.text.lines().filter_map(declared) {
            let access = format!(".{name}");
            let touches = |s: &&Source| s.path.starts_with(folder) && s.text.contains(&access);
            if !sources.iter().any(|s| touches(&s)) {
                problems.push(format!("{}: {name} is declared and never touched", file.path));
            }
        }
    }
    verdict(problems)
}

/// Name of the field when the line declares one of a metric type.
fn declared(line: &str) -> Option<&str> {
    let (name, kind) = line.trim().trim_end_matches(',').split_once(": ")?;
    let name = name.rsplit(' ').next()?;
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (plain && !name.is_empty() && TYPES.contains(&kind.trim_start_matches("wk_telemetry::"))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_declarations() {
        assert_eq!(declared("    pub(crate) sends: IntCounter,"), Some("sends"));
        assert_eq!(declared("    pub conns: wk_telemetry::IntGauge,"), Some("conns"));
        assert_eq!(declared("    /// text: IntGauge of"), None);
        assert_eq!(declared("    name: String,"), None);
    }
}
