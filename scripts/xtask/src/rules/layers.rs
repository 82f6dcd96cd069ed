//! Who may depend on whom (style §2).

use crate::rules::verdict;
use crate::workspace::Metadata;

/// Layers in ascending order. A crate may use crates of lower layers only; see [`may_use`] for what is narrower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Types,
    Contracts,
    Basics,
    Frame,
    ClusterPart,
    Program,
    Testkit,
    Tool,
    Xtask,
}

/// Layer of each crate of the workspace.
const CRATES: &[(&str, Layer)] = &[
    ("wk-types", Layer::Types),
    ("wk-proto", Layer::Contracts),
    ("wk-wire", Layer::Contracts),
    ("wk-config", Layer::Basics),
    ("wk-node", Layer::Basics),
    ("wk-telemetry", Layer::Basics),
    ("wk-rpc", Layer::Basics),
    ("wk-lifecycle", Layer::Frame),
    ("wk-link", Layer::Frame),
    ("wk-store", Layer::ClusterPart),
    ("wk-raft", Layer::ClusterPart),
    ("base2histogram", Layer::ClusterPart),
    ("wk-supervisor", Layer::Program),
    ("wk-cluster", Layer::Program),
    ("wk-gateway", Layer::Program),
    ("wk-api", Layer::Program),
    ("wk-worker", Layer::Program),
    ("wk-plugin-host", Layer::Program),
    ("wk-testkit", Layer::Testkit),
    ("wk-bench-child", Layer::Tool),
    ("wk-load", Layer::Tool),
    ("xtask", Layer::Xtask),
];

/// Outside crates with one user.
const SINGLE_USERS: &[(&str, &str)] = &[("openraft", "wk-raft"), ("rocksdb", "wk-store"), ("io-uring", "wk-gateway"), ("axum", "wk-api")];

pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for package in metadata.members() {
        let user = package.name.as_str();
        if layer(user).is_none() {
            problems.push(format!("{user} has no layer: add it to rules/layers.rs"));
        }
        for dependency in &package.dependencies {
            let dev = dependency.kind.as_deref() == Some("dev");
            if let Some(problem) = judge(user, &dependency.name, dev) {
                problems.push(problem);
            }
        }
    }
    verdict(problems)
}

fn layer(name: &str) -> Option<Layer> {
    CRATES.iter().find(|(n, _)| *n == name).map(|(_, l)| *l)
}

/// What is wrong with this edge, if anything.
fn judge(user: &str, used: &str, dev: bool) -> Option<String> {
    let only = SINGLE_USERS.iter().find(|(name, _)| *name == used);
    if let Some((_, owner)) = only.filter(|(_, owner)| *owner != user) {
        let testkit = layer(user) == Some(Layer::Testkit);
        return (!dev && !testkit).then(|| format!("{user} uses {used}: only {owner} may"));
    }
    let (from, to) = (layer(user)?, layer(used)?);
    let allowed = may_use(user, from, used, to) || (dev && (to <= Layer::Frame || to == Layer::Testkit || user == used));
    (!allowed).then(|| format!("{user} ({from:?}) uses {used} ({to:?})"))
}

fn may_use(user: &str, from: Layer, used: &str, to: Layer) -> bool {
    match from {
        Layer::Types | Layer::Xtask => false,
        Layer::Contracts | Layer::Basics | Layer::Frame => to < from,
        // Raft stands on the store; both belong to the cluster daemon.
        Layer::ClusterPart => to < from || (user == "wk-raft" && used == "wk-store"),
        Layer::Program => to <= Layer::Frame || (user == "wk-cluster" && to == Layer::ClusterPart),
        Layer::Testkit | Layer::Tool => to <= Layer::Frame,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges() {
        for (user, used, dev, ok) in [
            ("wk-gateway", "wk-link", false, true),
            ("wk-gateway", "wk-worker", false, false),
            ("wk-gateway", "wk-store", false, false),
            ("wk-cluster", "wk-store", false, true),
            ("wk-raft", "wk-store", false, true),
            ("wk-store", "wk-raft", false, false),
            ("wk-config", "wk-rpc", false, false),
            ("wk-types", "wk-proto", false, false),
            ("wk-api", "wk-testkit", false, false),
            ("wk-api", "wk-testkit", true, true),
            ("wk-supervisor", "rocksdb", false, false),
            ("wk-store", "rocksdb", false, true),
            ("wk-load", "wk-wire", false, true),
            ("wk-api", "serde", false, true),
        ] {
            assert_eq!(judge(user, used, dev).is_none(), ok, "{user} -> {used}");
        }
    }
}
