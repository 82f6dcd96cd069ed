//! Completion: the shells ask `wkctl complete LINE`, so that names come from the node as it is now and commands and options from the
//! definitions in [`super::cli`]. Nothing is ever said on standard error: without a supervisor the fixed names are offered.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory};
use nix::sys::signal::Signal;
use wk_config::Env;
use wk_proto::supervisor::v1 as pb;
use wk_types::{Daemon, InstanceName};

use super::cli::{Cli, Shell};
use super::json::state_name;
use super::{EXIT_OK, Failure, find, systemd};
use crate::names;

/// The shell waits for the answer, and somebody for the shell.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Told to the scripts: folders, which the shells know best.
const DIRECTORIES: &str = ":directories";

/// What may stand at the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    /// These words, each with its help.
    Words(Vec<(String, String)>),
    /// Daemons and instances.
    Names,
    /// The same and the supervisor, which has a log too.
    Logs,
    /// `worker.user=`.
    Pools,
    /// Numbers of operations; those that can be cancelled, or all.
    Ops { live: bool },
    /// Signals.
    Signals,
    /// A folder.
    Directories,
    /// Nothing that we know.
    Nothing,
}

/// What the line says before the cursor.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    wanted: Wanted,
    /// What was typed of the word: candidates begin with it.
    word: String,
    /// Goes before each candidate: `--output=`.
    before: String,
    /// Positional words that were given already: not offered again.
    given: Vec<String>,
    runtime: Option<PathBuf>,
    node: Option<u16>,
}

/// The script of a shell.
pub(super) fn script(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("complete/wkctl.bash"),
        Shell::Zsh => include_str!("complete/wkctl.zsh"),
        Shell::Fish => include_str!("complete/wkctl.fish"),
    }
}

/// Prints what may stand at the end of `line`, one candidate a line, with its help behind a tab. `breaks`: bash replaces only what stands behind
/// the last of these characters, and wants no help.
pub(super) async fn run(line: &str, breaks: Option<&str>, env: &Env) -> Result<u8, Failure> {
    let mut root = Cli::command();
    root.build();
    let cursor = read(&root, split(line));
    let found = match &cursor.wanted {
        Wanted::Words(words) => words.clone(),
        Wanted::Directories => {
            writeln!(io::stdout(), "{DIRECTORIES}")?;
            return Ok(EXIT_OK);
        }
        Wanted::Signals => {
            Signal::iterator().map(|s| (s.as_str().trim_start_matches("SIG").to_owned(), format!("signal {}", s as i32))).collect()
        }
        Wanted::Nothing => Vec::new(),
        Wanted::Names | Wanted::Logs | Wanted::Pools | Wanted::Ops { .. } => live(&cursor, env).await,
    };
    let mut out = io::stdout().lock();
    for (value, help) in found {
        if !value.starts_with(&cursor.word) || cursor.given.contains(&value) {
            continue;
        }
        let value = format!("{}{value}", cursor.before);
        match breaks {
            Some(breaks) => writeln!(out, "{}", behind(&value, &format!("{}{}", cursor.before, cursor.word), breaks))?,
            None => writeln!(out, "{value}\t{}", help.lines().next().unwrap_or_default())?,
        }
    }
    Ok(EXIT_OK)
}

/// The part of a candidate that bash puts in the place of the last piece of the word. `@` is a part of that piece.
/// Source: `rl_special_prefixes` in bash's bashline.c.
fn behind<'a>(value: &'a str, typed: &str, breaks: &str) -> &'a str {
    let piece = |(at, c): (usize, char)| if c == '@' { at } else { at + c.len_utf8() };
    let cut = typed.char_indices().rev().find(|(_, c)| breaks.contains(*c)).map_or(0, piece);
    value.get(cut..).unwrap_or(value)
}

/// Words of a command line as a shell sees them; the last one is at the cursor, empty behind a space.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => word.extend(chars.next()),
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (_, c) => word.push(c),
        }
    }
    words.push(word);
    words
}

/// Follows the words through the definitions.
fn read(root: &Command, mut words: Vec<String>) -> Cursor {
    let word = words.pop().unwrap_or_default();
    let mut cursor = Cursor { wanted: Wanted::Nothing, word, before: String::new(), given: Vec::new(), runtime: None, node: None };
    let (mut command, mut option): (&Command, Option<&Arg>) = (root, None);
    for word in words.into_iter().skip(1) {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
            _ => (word.clone(), None),
        };
        if let Some(arg) = option.take() {
            note(&mut cursor, arg, &word);
        } else if let Some(arg) = find_option(command, &name) {
            match value {
                Some(value) => note(&mut cursor, arg, &value),
                // `-ojson`: the value is there already.
                None if !word.starts_with("--") && word.chars().count() > 2 => {}
                None => option = Some(arg).filter(|a| a.get_action().takes_values()),
            }
        } else if let Some(next) = command.find_subcommand(&word).filter(|_| cursor.given.is_empty()) {
            command = next;
        } else if !word.starts_with('-') {
            cursor.given.push(word);
        }
    }
    at_cursor(command, option, &mut cursor);
    cursor
}

/// Remembers which node is meant.
fn note(cursor: &mut Cursor, option: &Arg, value: &str) {
    match option.get_id().as_str() {
        "runtime" => cursor.runtime = Some(PathBuf::from(value)),
        "node" => cursor.node = value.parse().ok(),
        _ => {}
    }
}

fn find_option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let long = word.strip_prefix("--");
    let short = word.strip_prefix('-').and_then(|s| s.chars().next()).filter(|_| long.is_none());
    command.get_arguments().find(|a| (long.is_some() && a.get_long() == long) || (short.is_some() && a.get_short() == short))
}

fn at_cursor(command: &Command, option: Option<&Arg>, cursor: &mut Cursor) {
    if let Some(option) = option {
        cursor.wanted = values(command, option);
        return;
    }
    if let Some((name, value)) = cursor.word.clone().split_once('=').filter(|(name, _)| name.starts_with("--")) {
        (cursor.before, cursor.word) = (format!("{name}="), value.to_owned());
        cursor.wanted = find_option(command, name).map_or(Wanted::Nothing, |arg| values(command, arg));
        return;
    }
    if cursor.word.starts_with('-') {
        let shown = command.get_arguments().filter(|a| !a.is_hide_set());
        let option = |a: &Arg| Some((format!("--{}", a.get_long()?), a.get_help().map(ToString::to_string).unwrap_or_default()));
        cursor.wanted = Wanted::Words(shown.filter_map(option).collect());
        return;
    }
    let subcommands = command.get_subcommands().filter(|c| !c.is_hide_set());
    let words: Vec<(String, String)> =
        subcommands.map(|c| (c.get_name().to_owned(), c.get_about().map(ToString::to_string).unwrap_or_default())).collect();
    let many = |a: &Arg| a.get_num_args().is_some_and(|range| range.max_values() > 1);
    let next = command.get_positionals().nth(cursor.given.len());
    let positional = next.or_else(|| command.get_positionals().last().filter(|a| many(a)));
    cursor.wanted = match positional {
        _ if !words.is_empty() && cursor.given.is_empty() => Wanted::Words(words),
        Some(arg) => values(command, arg),
        None => Wanted::Nothing,
    };
}

/// What an argument takes: its closed set, or what its name means in all commands.
fn values(command: &Command, arg: &Arg) -> Wanted {
    let closed = arg.get_possible_values();
    if arg.get_action().takes_values() && !closed.is_empty() {
        let word = |v: &clap::builder::PossibleValue| (v.get_name().to_owned(), v.get_help().map(ToString::to_string).unwrap_or_default());
        return Wanted::Words(closed.iter().filter(|v| !v.is_hide_set()).map(word).collect());
    }
    match arg.get_id().as_str() {
        "names" if command.get_name() == "logs" => Wanted::Logs,
        "names" | "name" => Wanted::Names,
        "pool" => Wanted::Pools,
        "signal" => Wanted::Signals,
        "id" => Wanted::Ops { live: command.get_name() == "cancel" },
        "runtime" | "dir" => Wanted::Directories,
        _ => Wanted::Nothing,
    }
}

/// Asks the node; what does not answer has no instances and no operations.
async fn live(cursor: &Cursor, env: &Env) -> Vec<(String, String)> {
    let asked = async {
        if systemd::applies(cursor.runtime.as_deref(), cursor.node, env) {
            return None;
        }
        let dir = find::node_dir(cursor.runtime.as_deref(), cursor.node, env).ok()?;
        let mut client = find::dial(&dir, TIMEOUT).await.ok()?;
        let instances = client.status(pb::StatusRequest::default()).await.ok()?.into_inner().instances;
        let ops = client.ops(pb::OpsRequest {}).await.ok()?.into_inner().ops;
        Some((instances, ops))
    };
    let (instances, ops) = tokio::time::timeout(TIMEOUT, asked).await.ok().flatten().unwrap_or_default();
    candidates(&cursor.wanted, &instances, &ops)
}

fn candidates(wanted: &Wanted, instances: &[pb::InstanceStatus], ops: &[pb::OpSummary]) -> Vec<(String, String)> {
    if let Wanted::Ops { live } = wanted {
        let names = |o: &pb::OpSummary| if o.names.is_empty() { "everything".to_owned() } else { o.names.join(" ") };
        let shown = ops.iter().rev().filter(|o| !live || o.state != "done");
        return shown.map(|o| (o.op.to_string(), format!("{} {}, {}", o.kind, names(o), o.state))).collect();
    }
    let fixed = || Daemon::ALL.into_iter().map(|daemon| InstanceName { daemon, slot: 0 }).collect();
    let found: Vec<InstanceName> = instances.iter().filter_map(|i| i.name.parse().ok()).collect();
    let slots: Vec<InstanceName> = if found.is_empty() { fixed() } else { found };
    if *wanted == Wanted::Pools {
        let mut pools: Vec<(String, String)> = Vec::new();
        for daemon in slots.iter().map(|n| n.daemon).filter(|d| matches!(d, Daemon::Worker(_))) {
            let value = format!("{daemon}=");
            let count = instances.iter().filter(|i| i.name.starts_with(&format!("{daemon}@"))).count();
            if pools.iter().all(|(known, _)| *known != value) {
                pools.push((value, if count == 0 { String::new() } else { format!("now {count}") }));
            }
        }
        return pools;
    }
    let state = |name: &str| instances.iter().find(|i| i.name == name).map_or_else(String::new, |i| state_name(i.state));
    let named = names::known(slots).into_iter().filter(|n| !instances.is_empty() || !n.contains('@'));
    let own = (*wanted == Wanted::Logs).then(|| ("supervisor".to_owned(), String::new()));
    named.map(|n| (n.clone(), state(&n))).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(line: &str) -> Cursor {
        let mut root = Cli::command();
        root.build();
        read(&root, split(line))
    }

    fn words(line: &str) -> Vec<String> {
        match cursor(line).wanted {
            Wanted::Words(words) => words.into_iter().map(|(word, _)| word).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn words_are_those_of_a_shell() {
        assert_eq!(split("wkctl why 'a b'\\ c"), ["wkctl", "why", "a b c"]);
        assert_eq!(split("wkctl why "), ["wkctl", "why", ""]);
    }

    #[test]
    fn commands_and_options_come_from_the_definitions() {
        let commands = words("wkctl ");
        assert!(["status", "roll", "op", "completion"].iter().all(|c| commands.iter().any(|w| w == c)), "{commands:?}");
        assert!(!commands.iter().any(|w| w == "complete" || w == "quiesce"), "hidden ones are not offered");
        assert!(words("wkctl --node 1001 op ").contains(&"cancel".to_owned()));
        let options = words("wkctl roll worker --");
        assert!(["--surge", "--canary", "--dry-run", "--runtime"].iter().all(|o| options.iter().any(|w| w == o)), "{options:?}");
        assert_eq!(words("wkctl status -o "), ["table", "json", "yaml", "name"]);
        assert_eq!(words("wkctl completion "), ["bash", "zsh", "fish"]);
        let joined = cursor("wkctl status --output=js");
        assert_eq!((joined.before.as_str(), joined.word.as_str()), ("--output=", "js"));
        assert_eq!(words("wkctl graph --format "), ["tree", "dot", "mermaid"]);
    }

    #[test]
    fn arguments_say_what_is_to_be_asked() {
        let cases = [
            ("wkctl why ", Wanted::Names),
            ("wkctl --runtime /x why wor", Wanted::Names),
            ("wkctl restart api gate", Wanted::Names),
            ("wkctl roll --surge 1 ", Wanted::Names),
            ("wkctl logs -n 5 ", Wanted::Logs),
            ("wkctl scale ", Wanted::Pools),
            ("wkctl signal api ", Wanted::Signals),
            ("wkctl op cancel ", Wanted::Ops { live: true }),
            ("wkctl op wait ", Wanted::Ops { live: false }),
            ("wkctl --runtime ", Wanted::Directories),
            ("wkctl why api ", Wanted::Nothing),
            ("wkctl -ojson why ", Wanted::Names),
            ("wkctl roll --canary ", Wanted::Nothing),
        ];
        for (line, wanted) in cases {
            assert_eq!(cursor(line).wanted, wanted, "{line}");
        }
        let given = cursor("wkctl --runtime=/r --node 7 restart api ga");
        assert_eq!((given.given, given.runtime, given.node), (vec!["api".to_owned()], Some("/r".into()), Some(7)));
    }

    #[test]
    fn without_a_node_the_fixed_names_are_offered() {
        let names = |wanted| candidates(&wanted, &[], &[]).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names(Wanted::Pools), ["worker.user=", "worker.channel=", "worker.push="]);
        assert!(names(Wanted::Logs).contains(&"supervisor".to_owned()) && names(Wanted::Names).contains(&"plugin-host".to_owned()));
        assert!(names(Wanted::Names).iter().all(|n| !n.contains('@')));
        assert!(names(Wanted::Ops { live: false }).is_empty());
    }

    #[test]
    fn bash_gets_only_what_it_replaces() {
        let breaks = "\"'@><=;|&(:";
        assert_eq!(behind("worker.user@1", "worker.user@", breaks), "@1");
        assert_eq!(behind("worker.user@1", "wor", breaks), "worker.user@1");
        assert_eq!(behind("--output=json", "--output=js", breaks), "json");
    }
}
