//! Kinds of errors that callers handle differently, and messages that list several errors.

use thiserror::Error;

#[derive(Debug, Clone, Error)]
pub enum Failure {
    /// The command line asks for something that does not exist or does not fit together.
    #[error("{0}")]
    Usage(String),
    /// The requested result does not exist yet.
    #[error("{0}")]
    NotYet(String),
    #[error("work is pending")]
    Pending,
    /// An input is damaged, incomplete or not what it claims to be.
    #[error("{0}")]
    Damaged(String),
    #[error("another run holds this project (process {0}); wait for it to end, or stop it")]
    Busy(String),
    #[error("{0}")]
    NotReproducible(String),
    /// The signal with this number interrupted a run.
    #[error("interrupted; finished work is kept, and the next run resumes from it")]
    Interrupted(i32),
    /// The signal with this number stopped a server. This is how a server ends normally.
    #[error("ended")]
    Ended(i32),
    /// Stages failed; the text says why.
    #[error("{0}")]
    StagesFailed(String),
}

/// The errors of a command line, collected so that all are reported together.
#[derive(Debug, Default)]
pub struct UsageErrors(Vec<String>);

impl UsageErrors {
    /// Collects a [`Failure::Usage`] and returns `None`. Any other error is returned at once.
    pub fn note<T>(&mut self, checked: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match checked.map_err(anyhow::Error::downcast::<Failure>) {
            Ok(checked) => Ok(Some(checked)),
            Err(Ok(Failure::Usage(why))) => {
                self.0.push(why);
                Ok(None)
            }
            Err(Ok(failure)) => Err(failure.into()),
            Err(Err(error)) => Err(error),
        }
    }

    pub fn add(&mut self, why: String) {
        self.0.push(why);
    }

    /// Fails with all collected errors, if there are any.
    pub fn tell(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::Usage(self.0.join("\n  ")).into()) }
    }
}

/// The first `most` reasons, each on its own line, and the number of the other ones.
pub fn first_of<R: std::fmt::Display>(most: usize, reasons: &[R]) -> String {
    let named: String = reasons.iter().take(most).map(|reason| format!("\n  {reason}")).collect();
    match reasons.len().saturating_sub(most) {
        0 => named,
        more => format!("{named}\n  and {more} more"),
    }
}

/// Makes an [`anyhow::Error`] for a damaged input. The arguments are those of [`format!`].
#[macro_export]
macro_rules! damaged {
    ($($argument:tt)*) => {
        anyhow::Error::from($crate::base::error::Failure::Damaged(format!($($argument)*)))
    };
}
