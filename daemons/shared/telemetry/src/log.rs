//! Log subscriber: text or JSON lines on standard error, with a filter that can be changed while the process runs.

use std::fmt;
use std::io::{self, IsTerminal};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time level target: message field=value`; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// The format that `WK_LOG_FORMAT` names: `json` is [`Format::Json`], anything else is text.
    #[must_use]
    pub fn from_name(name: Option<&str>) -> Self {
        if name.is_some_and(|n| n.eq_ignore_ascii_case("json")) { Self::Json } else { Self::Text }
    }
}

/// Why the subscriber could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The filter text is not valid.
    #[error("log filter")]
    Filter(#[from] FilterError),
    /// The process has a subscriber already.
    #[error("log subscriber was installed before")]
    Twice,
}

/// A filter that does not parse, or a subscriber that is gone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(String);

/// Handle to the process' log filter. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    filter: reload::Handle<Targets, Registry>,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").finish_non_exhaustive()
    }
}

impl LogHandle {
    /// Replaces the filter by `directives` (levels, for all and by target: `info,wk_gateway=debug`).
    ///
    /// # Errors
    /// [`FilterError`] when the text does not parse; the old filter stays.
    pub fn set_filter(&self, directives: &str) -> Result<(), FilterError> {
        let filter = parse(directives)?;
        self.filter.reload(filter).map_err(|e| FilterError(e.to_string()))
    }
}

/// Installs the subscriber of this process: lines on standard error, `directives` as the first filter.
///
/// # Errors
/// [`InitError`] when the filter does not parse or a subscriber exists.
pub fn init(directives: &str, format: Format) -> Result<LogHandle, InitError> {
    let (filter, handle) = reload::Layer::new(parse(directives)?);
    let registry = tracing_subscriber::registry().with(filter);
    let installed = match format {
        Format::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
            registry.with(lines).try_init()
        }
        Format::Json => {
            let lines = tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(lines).try_init()
        }
    };
    installed.map_err(|_| InitError::Twice)?;
    Ok(LogHandle { filter: handle })
}

/// Levels by target, and nothing that needs regular expressions: those are a tenth of the code of a supervisor.
fn parse(directives: &str) -> Result<Targets, FilterError> {
    directives.parse::<Targets>().map_err(|e| FilterError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_changes_while_running_and_keeps_the_old_one_on_errors() {
        let handle = init("info", Format::Text).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        handle.set_filter("debug").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(handle.set_filter("wk=notalevel").is_err());
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        handle.set_filter("warn,wk_other=trace").unwrap();
        assert!(tracing::enabled!(target: "wk_other::deep", tracing::Level::TRACE) && !tracing::enabled!(tracing::Level::INFO));
        assert!(matches!(init("info", Format::Json), Err(InitError::Twice)));
    }

    #[test]
    fn format_names() {
        assert_eq!(Format::from_name(Some("JSON")), Format::Json);
        assert_eq!(Format::from_name(None), Format::Text);
    }
}
