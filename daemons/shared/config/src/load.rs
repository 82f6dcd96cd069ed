//! Loading: default < file < environment < flag; every problem is reported, not only the first.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use crate::env::Env;
use crate::file::{self, Entries};
use crate::problem::{ConfigError, Problem, component_of};
use crate::schema::Config;
use crate::section::{Check, Section, Walk};
use crate::unused::{is_own_section, is_unused};
use crate::value::{Raw, Value};
use crate::{check, paths};

/// Largest file that is read. Unit: bytes.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Beginnings of variables with the prefix of the keys that belong to the contract between processes, to logs, or to tools and tests.
const OTHER_VARS: &[&str] = &[
    "WK_INSTANCE",
    "WK_LISTEN_",
    "WK_LAST_END",
    "WK_RUNTIME",
    "WK_SLOT",
    "WK_LOG",
    "WK_BIN_DIR",
    "WK_FAULT",
    "WK_CONFIG",
    "WK_NODE",
    "WK_SDK_DIR",
    "WK_STORM_",
    "WK_KEEP",
    "WK_CACHE",
];

/// What a configuration is made of.
#[derive(Debug, Clone, Default)]
pub struct Inputs<'a> {
    /// Name (for messages) and text of the file.
    pub file: Option<(&'a str, &'a str)>,
    /// Environment; variables `WK_<KEY>` count.
    pub env: Env,
    /// Keys given on the command line, the strongest: (key, value, flag as typed).
    pub flags: &'a [(&'a str, String, &'a str)],
    /// Unknown keys are errors.
    pub strict: bool,
}

/// A configuration that passed every check.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// One line each, to be logged once.
    pub warnings: Vec<String>,
}

/// Reads `path` (when given) and loads. A missing file is a problem unless `ignore_missing`.
///
/// # Errors
/// [`ConfigError`] with every problem.
pub fn load_file(path: Option<&Path>, ignore_missing: bool, inputs: &Inputs<'_>) -> Result<Loaded, ConfigError> {
    let Some(path) = path else { return load(inputs) };
    let name = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) if text.len() <= FILE_BYTES_MAX => text,
        Ok(_) => return Err(file_error(&name, "the file is larger than 1 MB")),
        Err(err) if err.kind() == io::ErrorKind::NotFound && ignore_missing => return load(inputs),
        Err(err) => return Err(file_error(&name, &format!("the file cannot be read: {err}"))),
    };
    let short = path.file_name().map_or_else(|| name.clone(), |n| n.to_string_lossy().into_owned());
    load(&Inputs { file: Some((&short, &text)), env: inputs.env.clone(), flags: inputs.flags, strict: inputs.strict })
}

/// Loads and validates.
///
/// # Errors
/// [`ConfigError`] with every problem.
pub fn load(inputs: &Inputs<'_>) -> Result<Loaded, ConfigError> {
    let mut loader = Loader::default();
    if let Some((name, text)) = inputs.file {
        name.clone_into(&mut loader.file_name);
        (loader.entries, loader.problems) = file::parse(name, text);
    }
    loader.env = inputs.env.clone();
    loader.flags = inputs.flags.iter().map(|(k, v, f)| (k.to_ascii_lowercase(), (v.clone(), (*f).to_owned()))).collect();
    let mut config = Config::default();
    config.walk(&mut loader);
    loader.unknown(inputs.strict);
    paths::resolve(&mut config, &inputs.env, &loader.given);
    check::check(&config, &loader.given, &mut loader.problems, &mut loader.warnings);
    if loader.problems.is_empty() {
        Ok(Loaded { config, warnings: loader.warnings })
    } else {
        Err(ConfigError { problems: loader.problems })
    }
}

fn file_error(name: &str, text: &str) -> ConfigError {
    let problem =
        Problem { component: "config", key: String::new(), value: String::new(), allowed: text.to_owned(), place: name.to_owned() };
    ConfigError { problems: vec![problem] }
}

/// Keys that were set, lower case, with the place.
pub(crate) type Given = BTreeMap<String, String>;

/// Sets each key from the strongest source that has it.
#[derive(Default)]
struct Loader {
    file_name: String,
    entries: Entries,
    env: Env,
    flags: BTreeMap<String, (String, String)>,
    prefix: Vec<String>,
    /// All keys of the schema: lower case to documented spelling.
    known: BTreeMap<String, String>,
    given: Given,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl Walk for Loader {
    fn field(&mut self, key: &'static str, slot: &mut dyn Value, check: Option<&dyn Check>) {
        let path = join(&self.prefix, key);
        let lower = path.to_ascii_lowercase();
        if let Some(entry) = self.entries.get(&lower) {
            let place = format!("{}:{}", self.file_name, entry.line);
            self.set(&path, &entry.raw.clone(), place, slot, check);
        }
        let var = env_name(&path);
        if let Some(text) = self.env.get(&var).map(str::to_owned) {
            self.set(&path, &Raw::Text(text), format!("environment {var}"), slot, check);
        }
        if let Some((text, flag)) = self.flags.get(&lower).cloned() {
            self.set(&path, &Raw::Text(text), format!("flag {flag}"), slot, check);
        }
        self.known.insert(lower, path);
    }

    fn enter(&mut self, section: &str) {
        self.prefix.push(section.to_owned());
    }

    fn leave(&mut self) {
        self.prefix.pop();
    }
}

impl Loader {
    fn set(&mut self, path: &str, raw: &Raw, place: String, slot: &mut dyn Value, check: Option<&dyn Check>) {
        let allowed = match slot.set(raw) {
            Ok(false) => return,
            Ok(true) => match check.and_then(|c| c.refuse(slot)) {
                None => {
                    self.given.insert(path.to_ascii_lowercase(), place);
                    return;
                }
                Some(allowed) => allowed,
            },
            Err(allowed) => allowed,
        };
        let value = if is_secret_key(path) { "***".to_owned() } else { raw.show() };
        self.problems.push(Problem { component: component_of(path), key: path.to_owned(), value, allowed, place });
    }

    /// Judges keys of the file and variables of the environment that no field took.
    fn unknown(&mut self, strict: bool) {
        for (lower, entry) in &self.entries {
            if self.known.contains_key(lower) {
                continue;
            }
            if is_unused(lower) {
                self.warnings.push(format!("no effect: {}", entry.key));
                continue;
            }
            let place = format!("{}:{}", self.file_name, entry.line);
            let hint = self.suggest(lower).map(|k| format!(", did you mean {k}?")).unwrap_or_default();
            if strict || is_own_section(lower) {
                let allowed = format!("a known key{hint}");
                let value = entry.raw.show();
                self.problems.push(Problem { component: component_of(&entry.key), key: entry.key.clone(), value, allowed, place });
            } else {
                self.warnings.push(format!("unknown key: {} ({place}){hint}", entry.key));
            }
        }
        let vars: Vec<String> = self.known.values().map(|k| env_name(k)).collect();
        for (name, _) in self.env.iter().filter(|(n, _)| n.starts_with("WK_")) {
            if !vars.iter().any(|v| v == name) && !OTHER_VARS.iter().any(|v| name.starts_with(v)) {
                self.warnings.push(format!("no effect: environment {name}"));
            }
        }
    }

    fn suggest(&self, lower: &str) -> Option<&str> {
        let near = self.known.iter().map(|(k, shown)| (strsim::damerau_levenshtein(k, lower), shown)).min()?;
        (near.0 <= 3).then_some(near.1.as_str())
    }
}

fn join(prefix: &[String], key: &str) -> String {
    let mut path = prefix.join(".");
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(key);
    path
}

/// Name of the environment variable of a key: `cluster.nodeId` is `WK_CLUSTER_NODEID`.
fn env_name(key: &str) -> String {
    format!("WK_{}", key.replace(['.', '-'], "_").to_ascii_uppercase())
}

/// Keys whose values are hidden even when they do not parse.
fn is_secret_key(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["token", "secret", "auth.users", "password"].iter().any(|part| lower.contains(part)) && lower != "tokenauthon"
}

/// Collects (key, text, is secret) of every field.
#[derive(Default)]
struct Dump {
    prefix: Vec<String>,
    entries: Vec<(String, String, bool)>,
}

impl Walk for Dump {
    fn field(&mut self, key: &'static str, slot: &mut dyn Value, _check: Option<&dyn Check>) {
        self.entries.push((join(&self.prefix, key), slot.show(), slot.is_secret()));
    }

    fn enter(&mut self, section: &str) {
        self.prefix.push(section.to_owned());
    }

    fn leave(&mut self) {
        self.prefix.pop();
    }
}

/// Sets each field from the text of a dump.
struct Restore {
    prefix: Vec<String>,
    texts: BTreeMap<String, String>,
    bad: Option<String>,
}

impl Walk for Restore {
    fn field(&mut self, key: &'static str, slot: &mut dyn Value, _check: Option<&dyn Check>) {
        let path = join(&self.prefix, key);
        match self.texts.remove(&path) {
            Some(text) => {
                if slot.set(&Raw::Text(text)).is_err() {
                    self.bad = Some(path);
                }
            }
            None => self.bad = Some(path),
        }
    }

    fn enter(&mut self, section: &str) {
        self.prefix.push(section.to_owned());
    }

    fn leave(&mut self) {
        self.prefix.pop();
    }
}

/// A handed-over configuration that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not the JSON of [`Config::to_json`].
    #[error("configuration is not valid JSON")]
    Json(#[from] serde_json::Error),
    /// A key is missing, unknown, or has a value this build refuses: supervisor and daemon are of different versions.
    #[error("configuration of another version: key {0}")]
    Key(String),
}

impl Config {
    /// (key, value) of every field in the order of the schema, secrets as `***`: the effective configuration for people.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, String)> {
        let hide = |(k, v, secret)| (k, if secret { "***".to_owned() } else { v });
        self.dump().into_iter().map(hide).collect()
    }

    /// The whole configuration, secrets included, for the sealed descriptor `config`.
    ///
    /// # Panics
    /// Never: a map of strings is valid JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let map: BTreeMap<String, String> = self.dump().into_iter().map(|(k, v, _)| (k, v)).collect();
        serde_json::to_string(&map).expect("a map of strings is always valid JSON")
    }

    /// Reads what [`Config::to_json`] wrote.
    ///
    /// # Errors
    /// [`JsonError`] for other text, or for that of another version.
    pub fn from_json(text: &str) -> Result<Self, JsonError> {
        let mut restore = Restore { prefix: Vec::new(), texts: serde_json::from_str(text)?, bad: None };
        let mut config = Self::default();
        config.walk(&mut restore);
        match restore.bad.or_else(|| restore.texts.into_keys().next()) {
            Some(key) => Err(JsonError::Key(key)),
            None => Ok(config),
        }
    }

    fn dump(&self) -> Vec<(String, String, bool)> {
        let mut dump = Dump::default();
        self.clone().walk(&mut dump);
        dump.entries
    }
}

#[cfg(test)]
mod tests;
