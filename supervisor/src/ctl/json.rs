//! Forms for machines. The status document is a stable schema, version 1: fields are added, never renamed or removed
//! (`testdata/status/v1.json` and the files that follow it hold it in place).

use serde_json::{Value, json};
use wk_proto::node::v1::State;
use wk_proto::supervisor::v1 as pb;

use super::cli::Output;

/// Lower-case word of a state; of one that a newer supervisor has, its number.
pub(super) fn state_name(state: i32) -> String {
    State::try_from(state).map_or_else(|_| state.to_string(), |s| s.as_str_name().trim_start_matches("STATE_").to_ascii_lowercase())
}

/// The document of `wkctl status -o json`.
pub(super) fn status(snapshot: &pb::Snapshot) -> Value {
    let instances: Vec<Value> = snapshot.instances.iter().map(instance).collect();
    let ops = snapshot
        .ops
        .iter()
        .map(|o| json!({ "op": o.op, "kind": o.kind, "names": o.names, "state": o.state, "age_ms": o.age_ms, "held_up_by": o.held_up_by }));
    let overrides = snapshot.overrides.iter().map(|o| json!({ "daemon": o.daemon, "slots": o.slots, "configured": o.configured }));
    json!({
        "schema": 1, "node_id": snapshot.node_id, "supervisor_pid": snapshot.supervisor_pid, "overall": snapshot.overall,
        "admitted": snapshot.admitted, "up_ms": snapshot.up_ms, "epoch": snapshot.epoch, "config_hash": snapshot.config_hash,
        "addresses": snapshot.addresses, "data_dir": snapshot.data_dir, "runtime_dir": snapshot.runtime_dir,
        "instances": instances, "timing": snapshot.timing.as_ref().map(timing), "ops": ops.collect::<Vec<_>>(),
        "overrides": overrides.collect::<Vec<_>>(), "containment": snapshot.containment,
        "waiting_keys": snapshot.waiting_keys, "config_refused": snapshot.config_refused,
    })
}

/// One instance of it.
pub(super) fn instance(i: &pb::InstanceStatus) -> Value {
    json!({
        "name": i.name, "state": state_name(i.state), "pid": i.pid, "generation": i.generation, "up_ms": i.up_ms,
        "restarts": i.restarts, "last_restart_ms_ago": i.last_restart_ms_ago, "why": i.why, "cpu_ms": i.cpu_ms,
        "memory_bytes": i.memory_bytes, "open_fds": i.open_fds, "fds_max": i.fds_max, "crash_loop": i.crash_loop, "held": i.held,
        "wanted": i.wanted, "adopted": i.adopted, "pending_restart": i.pending_restart,
        "components": i.components.iter().map(|c| json!({"name": c.name, "serving": c.serving})).collect::<Vec<_>>(),
    })
}

/// A start.
pub(super) fn timing(t: &pb::Timing) -> Value {
    let rows = t.rows.iter().map(|r| {
        json!({
            "name": r.name, "wait_us": r.wait_us, "exec_us": r.exec_us, "init_us": r.init_us, "handshake_us": r.handshake_us,
            "ready_at_us": r.ready_at_us, "own_us": r.own_us, "critical": r.critical,
        })
    });
    json!({ "total_us": t.total_us, "sum_us": t.sum_us, "overhead_us": t.overhead_us, "rows": rows.collect::<Vec<_>>() })
}

/// One value of a stream: a line of JSON, or a document of YAML.
pub(super) fn of_stream(value: &Value, output: Output) -> String {
    if output == Output::Yaml { format!("---\n{}", yaml(value)) } else { value.to_string() }
}

/// The graph of requirements with its present states.
pub(super) fn graph(graph: &pb::GraphReply) -> Value {
    let nodes = graph.nodes.iter().map(|n| {
        json!({
            "daemon": n.daemon, "requires": n.requires, "required": n.required, "slots": n.slots, "ready": n.ready, "state": n.state,
        })
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

/// The same value as YAML: block style, strings quoted as in JSON (which YAML contains).
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text.trim_end().to_owned()
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&format!("{pad}{key}:"));
                below(value, depth + 1, text);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                let mut item = String::new();
                block(value, depth + 1, &mut item);
                // The dash takes the place of the first indentation.
                text.push_str(&format!("{pad}- {}\n", item.trim()));
            }
        }
        plain => text.push_str(&format!("{pad}{plain}\n")),
    }
}

fn below(value: &Value, depth: usize, text: &mut String) {
    let nested = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    if nested {
        text.push('\n');
        block(value, depth, text);
    } else {
        text.push_str(&format!(" {value}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_is_blocks_of_json_scalars() {
        let value = json!({ "a": 1, "b": [], "c": { "d": "x: y" }, "e": [{ "f": true, "g": [1, 2] }, "h"] });
        let text = yaml(&value);
        assert_eq!(text, "a: 1\nb: []\nc:\n  d: \"x: y\"\ne:\n  - f: true\n    g:\n      - 1\n      - 2\n  - \"h\"");
    }

    /// Catalogue row 70: a state of a newer supervisor is shown as its number.
    #[test]
    fn row_70_an_unknown_state_is_its_number() {
        assert_eq!(state_name(State::Ready.into()), "ready");
        assert_eq!(state_name(99), "99");
    }
}
