//! How a daemon ends.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Exit codes of every daemon. The supervisor does not restart after [`Exit::Usage`] and [`Exit::BadConfig`] (`supervisor.md` §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Work done or asked to stop: 0.
    Done,
    /// A failure without a better code: 1. Restarted.
    Failed,
    /// Wrong command line or launch contract: 64.
    Usage,
    /// A dependency this daemon cannot live without is gone for good: 69. Restarted.
    DependencyLost,
    /// A mistake of the program, or a drain that did not end in time: 70. Restarted.
    Bug,
    /// Something outside is in the way for now (port or lock taken): 75. Restarted after a pause.
    Temporary,
    /// The configuration is refused: 78.
    BadConfig,
}

impl Exit {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::DependencyLost => 69,
            Self::Bug => 70,
            Self::Temporary => 75,
            Self::BadConfig => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a daemon's service ended, with the code to exit with. Any error becomes one by `?` with [`Exit::Failed`].
pub struct Failure {
    /// Code.
    pub exit: Exit,
    /// Cause; its chain is logged once, when the process ends.
    pub source: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// A failure with this code and cause.
    pub fn new(exit: Exit, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, source: source.into() }
    }

    /// The cause and everything below it, joined by `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.source.to_string();
        let mut next = self.source.source();
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.exit, self.chain())
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// Gives an error its exit code.
pub trait OrExit<T> {
    /// The value, or a [`Failure`] with `exit`.
    ///
    /// # Errors
    /// [`Failure`] around the error.
    fn or_exit(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Error + Send + Sync + 'static> OrExit<T> for Result<T, E> {
    fn or_exit(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(exit, e))
    }
}
