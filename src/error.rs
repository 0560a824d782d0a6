//! What a caller can handle. Every message ends with what to do.

use std::path::PathBuf;

/// The caller's problem: a bad request, a missing library, a full disk.
/// A candidate that fails is not an error but a `Failure` kept with its trial.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A text (operator, size, spec) that does not parse.
    #[error("{what}, column {column}: {message}\n  {text}\n  {caret:>column$}", caret = "^")]
    Parse { what: String, text: String, column: usize, message: String },
    /// A request that cannot be met; the message says which part and the way out.
    #[error("{0}")]
    Invalid(String),
    /// The spec file: file, line and key are named.
    #[error("{}:{line}: {key}: {message}", file.display())]
    Spec { file: PathBuf, line: usize, key: String, message: String },
    /// A size that is not a whole number under a binding.
    #[error(
        "the size {size} is {value} under {binding}: it must be a whole number ≥ 1; choose other variables' values or another operator"
    )]
    Divide { size: String, value: String, binding: String },
    /// TVM or libtorch is missing, or known not to work.
    #[error("{0}")]
    Library(String),
    /// The store cannot be used.
    #[error("store {}: {message}", file.display())]
    Store { file: PathBuf, message: String },
    #[error("{context}: {source}")]
    Io { context: String, source: std::io::Error },
    /// Ctrl-C: everything measured so far is kept.
    #[error("interrupted; what was measured is kept")]
    Interrupted,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Shorthand for [`Error::Invalid`].
pub fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::Invalid(message.into()))
}

/// Names the file or action that an I/O error belongs to.
pub trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { context: what(), source })
    }
}
