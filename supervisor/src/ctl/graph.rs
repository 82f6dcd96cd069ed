//! The graph of requirements as text, shared by `wkctl graph` and `wksupervisor graph`.

use wk_proto::supervisor::v1 as pb;

use super::cli::GraphFormat;
use crate::console::Paint;

/// Draws the graph. `live`: with states.
#[must_use]
pub fn draw(graph: &pb::GraphReply, format: GraphFormat, live: bool, paint: Paint) -> String {
    match format {
        GraphFormat::Tree => tree(graph, live, paint),
        GraphFormat::Dot => dot(graph, live),
        GraphFormat::Mermaid => mermaid(graph, live),
    }
}

fn node<'a>(graph: &'a pb::GraphReply, name: &str) -> Option<&'a pb::GraphNode> {
    graph.nodes.iter().find(|n| n.daemon == name)
}

/// Requirements that are not implied by another requirement: the tree stays readable.
fn direct<'a>(graph: &'a pb::GraphReply, of: &'a pb::GraphNode) -> Vec<&'a pb::GraphNode> {
    let implied = |name: &str| of.requires.iter().any(|other| other != name && reaches(graph, other, name));
    of.requires.iter().filter(|r| !implied(r)).filter_map(|r| node(graph, r)).collect()
}

fn reaches(graph: &pb::GraphReply, from: &str, to: &str) -> bool {
    node(graph, from).is_some_and(|n| n.requires.iter().any(|r| r == to || reaches(graph, r, to)))
}

fn label(n: &pb::GraphNode, live: bool) -> String {
    let slots = if n.slots > 1 { format!(" ({}/{})", n.ready, n.slots) } else { String::new() };
    let optional = if n.required { "" } else { " (optional)" };
    if live { format!("{}{slots}{optional} {}", n.daemon, n.state) } else { format!("{}{optional}", n.daemon) }
}

fn painted(n: &pb::GraphNode, live: bool, paint: Paint) -> String {
    let text = label(n, live);
    if !live {
        return text;
    }
    let (mark, colour): (_, fn(Paint, &str) -> String) = match n.state.as_str() {
        "ready" => ("●", Paint::good),
        "failed" | "backoff" | "blocked" | "stuck" => ("✗", Paint::bad),
        "down" => ("○", Paint::warn),
        _ => ("◐", Paint::warn),
    };
    let plain = text.strip_suffix(&n.state).unwrap_or(&text).to_owned();
    format!("{plain}{}", colour(paint, &format!("{mark} {}", n.state)))
}

/// From those that nobody requires down to those that require nothing. A part that was drawn before is named only.
fn tree(graph: &pb::GraphReply, live: bool, paint: Paint) -> String {
    let roots = graph.nodes.iter().filter(|n| !graph.nodes.iter().any(|o| o.requires.contains(&n.daemon)));
    let (mut lines, mut drawn) = (Vec::new(), Vec::new());
    for root in roots {
        lines.push(painted(root, live, paint));
        branches(graph, root, "", (live, paint), (&mut lines, &mut drawn));
    }
    lines.join("\n")
}

fn branches<'a>(
    graph: &'a pb::GraphReply,
    of: &'a pb::GraphNode,
    indent: &str,
    (live, paint): (bool, Paint),
    (lines, drawn): (&mut Vec<String>, &mut Vec<&'a str>),
) {
    let below = direct(graph, of);
    for (index, n) in below.iter().enumerate() {
        let last = index + 1 == below.len();
        let known = drawn.contains(&n.daemon.as_str());
        let more = if known && !n.requires.is_empty() { " …" } else { "" };
        lines.push(format!("{indent}{}requires {}{more}", if last { "└─" } else { "├─" }, painted(n, live, paint)));
        if !known {
            drawn.push(&n.daemon);
            let indent = format!("{indent}{}", if last { "  " } else { "│ " });
            branches(graph, n, &indent, (live, paint), (lines, drawn));
        }
    }
}

fn dot(graph: &pb::GraphReply, live: bool) -> String {
    let mut lines = vec!["digraph wukongim {".to_owned(), "  rankdir=LR;".to_owned()];
    for n in &graph.nodes {
        let style = if n.required { "solid" } else { "dashed" };
        lines.push(format!("  \"{}\" [label=\"{}\", style={style}];", n.daemon, label(n, live)));
    }
    for n in &graph.nodes {
        lines.extend(direct(graph, n).iter().map(|r| format!("  \"{}\" -> \"{}\";", n.daemon, r.daemon)));
    }
    lines.push("}".into());
    lines.join("\n")
}

fn mermaid(graph: &pb::GraphReply, live: bool) -> String {
    let id = |name: &str| name.replace(['.', '-'], "_");
    let mut lines = vec!["graph LR".to_owned()];
    lines.extend(graph.nodes.iter().map(|n| format!("  {}[\"{}\"]", id(&n.daemon), label(n, live))));
    for n in &graph.nodes {
        lines.extend(direct(graph, n).iter().map(|r| format!("  {} --> {}", id(&n.daemon), id(&r.daemon))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> pb::GraphReply {
        let node = |daemon: &str, requires: &[&str], state: &str| pb::GraphNode {
            daemon: daemon.into(),
            requires: requires.iter().map(|r| (*r).to_owned()).collect(),
            required: daemon != "plugin-host",
            slots: 1,
            ready: u32::from(state == "ready"),
            state: state.into(),
        };
        let nodes = vec![
            node("cluster", &[], "ready"),
            node("gateway", &["cluster"], "backoff"),
            node("api", &["cluster", "gateway"], "waiting"),
            node("plugin-host", &["cluster", "gateway", "api"], "waiting"),
        ];
        pb::GraphReply { nodes }
    }

    #[test]
    fn a_tree_leaves_out_what_is_implied() {
        let text = draw(&graph(), GraphFormat::Tree, true, Paint { on: false });
        let want =
            "plugin-host (optional) ◐ waiting\n└─requires api ◐ waiting\n  └─requires gateway ✗ backoff\n    └─requires cluster ● ready";
        assert_eq!(text, want);
        assert!(draw(&graph(), GraphFormat::Tree, false, Paint { on: false }).starts_with("plugin-host (optional)\n└─requires api\n"));
    }

    #[test]
    fn documents_have_their_forms() {
        let dot = draw(&graph(), GraphFormat::Dot, false, Paint { on: false });
        assert!(dot.contains("\"api\" -> \"gateway\";") && !dot.contains("\"api\" -> \"cluster\""), "{dot}");
        let mermaid = draw(&graph(), GraphFormat::Mermaid, false, Paint { on: false });
        assert!(mermaid.contains("plugin_host --> api"), "{mermaid}");
    }
}
