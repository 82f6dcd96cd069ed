//! Two versions of one crate in our programs: only those that are known and cannot be helped (design/dependencies.md).

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::verdict;
use crate::workspace::Metadata;

/// Name and why.
const KNOWN: &[(&str, &str)] = &[
    ("base64", "0.22 of tonic, 0.23 of hyper-util"),
    ("block-buffer", "sha2 0.10 of openraft, md-5 0.11"),
    ("cpufeatures", "sha2 0.10 of openraft, aes 0.9"),
    ("crypto-common", "sha2 0.10 of openraft, md-5 0.11"),
    ("digest", "sha2 0.10 of openraft, md-5 0.11"),
    ("getrandom", "0.2 of ring, 0.3 of ahash and tempfile, 0.4"),
    ("hashbrown", "of several map crates"),
    ("syn", "derive crates of both generations, build only"),
    ("thiserror", "1 of ppp"),
    ("thiserror-impl", "1 of ppp"),
];

pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<()> {
    let linked = metadata.linked();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata.packages.iter().filter(|p| linked.contains(p.id.as_str())) {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let known = |name: &str| KNOWN.iter().any(|(k, _)| *k == name);
    let doubled = |name: &str| versions.get(name).is_some_and(|v| v.len() > 1);
    let new = versions.iter().filter(|(name, v)| v.len() > 1 && !known(name));
    let mut problems: Vec<String> = new.map(|(name, v)| format!("{name}: {}", v.iter().copied().collect::<Vec<_>>().join(", "))).collect();
    problems.extend(KNOWN.iter().filter(|(k, _)| !doubled(k)).map(|(k, _)| format!("{k} is not doubled any more: take it off the list")));
    verdict(problems)
}
