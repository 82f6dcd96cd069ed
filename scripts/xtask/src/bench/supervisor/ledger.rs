//! When our supervisor knew that a child was ready: the record it keeps for a successor says so, in the clock of the stamps.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// By instance: its process, and when it was known to be ready. Unit: ns of `CLOCK_MONOTONIC`. A process that was adopted and whose health
/// was not heard yet is not in it.
pub(super) type Ready = BTreeMap<String, (u32, u64)>;

pub(super) fn read(path: &Path) -> anyhow::Result<Ready> {
    parse(&fs::read_to_string(path)?)
}

/// One line per change: a checksum and JSON.
fn parse(text: &str) -> anyhow::Result<Ready> {
    let mut zero_ns = None;
    let mut found = BTreeMap::new();
    // The last line may be half written.
    for line in text.lines().filter_map(|l| serde_json::from_str::<Value>(l.split_once(' ')?.1).ok()) {
        if let Some(zero) = line.pointer("/Node/zero_ns").and_then(Value::as_u64) {
            zero_ns = Some(zero);
        }
        let Some(instance) = line.pointer("/Instance/instance") else { continue };
        let name = instance.get("name").and_then(Value::as_str).context("an instance has a name")?;
        let ready = |run: &Value| {
            let at = run.pointer("/times/ready")?;
            let ns = at.get("secs")?.as_u64()? * 1_000_000_000 + at.get("nanos")?.as_u64()?;
            Some((u32::try_from(run.get("pid")?.as_u64()?).ok()?, ns))
        };
        let heard = |run: &&Value| run.get("unconfirmed").is_none_or(Value::is_null);
        match instance.get("run").filter(heard).and_then(ready) {
            Some(ready) => found.insert(name.to_owned(), ready),
            None => found.remove(name),
        };
    }
    let zero_ns = zero_ns.context("the record has no clock")?;
    Ok(found.into_iter().map(|(name, (pid, at))| (name, (pid, zero_ns + at))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_last_word_of_each() {
        let line = |name: &str, ready: &str| {
            format!("00 {{\"Instance\":{{\"instance\":{{\"name\":\"{name}\",\"run\":{{\"pid\":7,\"times\":{{\"ready\":{ready}}}}}}}}}}}")
        };
        let at = "{\"secs\":1,\"nanos\":5}";
        let lines =
            ["00 {\"Node\":{\"zero_ns\":100}}".into(), line("api@0", at), line("cluster@0", at), line("api@0", "null"), "00 {\"Ins".into()];
        assert_eq!(parse(&lines.join("\n")).unwrap(), Ready::from([("cluster@0".into(), (7, 1_000_000_105))]));
        assert!(parse("").is_err());
    }
}
