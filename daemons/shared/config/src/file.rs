//! The YAML file as flat keys with their lines.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::problem::Problem;
use crate::value::Raw;

/// One key of the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As spelled in the file.
    pub(crate) key: String,
    pub(crate) raw: Raw,
    /// From 1.
    pub(crate) line: u64,
}

/// Keys in lower case.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// Reads a file's text. Sections without values are left out; `null` is "not set".
pub(crate) fn parse(name: &str, text: &str) -> (Entries, Vec<Problem>) {
    let mut reader = Reader { name, text, entries: Entries::new(), problems: Vec::new() };
    if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        return (reader.entries, reader.problems);
    }
    match serde_saphyr::from_str::<Spanned<Node>>(text) {
        Ok(root) => match root.value {
            Node::Map(pairs) => reader.section("", pairs),
            Node::Null => {}
            _ => reader.problem("", "", "the file must be a list of keys", 1),
        },
        Err(err) => {
            let line = err.location().map_or(1, |l| l.line());
            let text = err.to_string();
            let first = text.lines().next().unwrap_or("not YAML").to_owned();
            reader.problem("", "", &format!("not valid YAML: {first}"), line);
        }
    }
    (reader.entries, reader.problems)
}

struct Reader<'a> {
    name: &'a str,
    /// The whole file: scalars are taken from it as they were typed.
    text: &'a str,
    entries: Entries,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn section(&mut self, prefix: &str, pairs: Vec<(Spanned<Node>, Spanned<Node>)>) {
        for (key, node) in pairs {
            let line = key.referenced.line();
            let Some(word) = self.scalar(&key) else {
                self.problem(prefix, "a list or section", "one word as a key", line);
                continue;
            };
            let path = if prefix.is_empty() { word } else { format!("{prefix}.{word}") };
            match &node.value {
                Node::Null => {}
                Node::Text(_) | Node::Typed(_) => {
                    let text = self.scalar(&node).unwrap_or_default();
                    self.entry(path, Raw::Text(text), line);
                }
                Node::List(nodes) => match nodes.iter().map(|n| self.scalar(n)).collect() {
                    Some(items) => self.entry(path, Raw::List(items), line),
                    None => self.problem(&path, "a nested list", "a list of plain values", line),
                },
                Node::Map(_) => {
                    if let Node::Map(pairs) = node.value {
                        self.section(&path, pairs);
                    }
                }
            }
        }
    }

    /// Text of a scalar as it was typed: `on`, `0755` and `1e3` are not to become `true`, 493 and 1000.
    fn scalar(&self, node: &Spanned<Node>) -> Option<String> {
        match &node.value {
            Node::Text(text) => Some(text.clone()),
            Node::Typed(text) => {
                let span = node.referenced.span();
                let typed = || {
                    let start = usize::try_from(span.byte_offset()?).ok()?;
                    let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
                    self.text.get(start..end).map(str::trim).filter(|t| !t.is_empty())
                };
                Some(typed().unwrap_or(text).to_owned())
            }
            _ => None,
        }
    }

    fn entry(&mut self, key: String, raw: Raw, line: u64) {
        let lower = key.to_ascii_lowercase();
        if let Some(first) = self.entries.get(&lower) {
            let text = format!("one spelling of a key; {} stands in line {}", first.key, first.line);
            self.problem(&key, &raw.show(), &text, line);
            return;
        }
        self.entries.insert(lower, Entry { key, raw, line });
    }

    fn problem(&mut self, key: &str, value: &str, allowed: &str, line: u64) {
        self.problems.push(Problem {
            component: crate::problem::component_of(key),
            key: key.to_owned(),
            value: value.to_owned(),
            allowed: allowed.to_owned(),
            place: format!("{}:{line}", self.name),
        });
    }
}

/// A value of the file.
#[derive(Debug)]
enum Node {
    Null,
    Text(String),
    /// A scalar that the parser gave a type.
    Typed(String),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<Node>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

macro_rules! scalars {
    ($($name:ident: $ty:ty),*) => {$(
        fn $name<E>(self, v: $ty) -> Result<Node, E> {
            Ok(Node::Typed(v.to_string()))
        }
    )*};
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration value")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64, visit_char: char);

    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Text(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Node::Map(pairs))
    }
}
