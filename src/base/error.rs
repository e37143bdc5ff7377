//! Errors that callers tell apart, and how several are told at once.

use thiserror::Error;

#[derive(Debug, Clone, Error)]
pub enum Failure {
    /// The command line asks for something that does not exist or does not fit together.
    #[error("{0}")]
    Usage(String),
    /// What is asked for has not been made yet.
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
    /// By the signal with this number.
    #[error("interrupted; what is finished is kept, and the next run goes on from there")]
    Interrupted(i32),
    /// A server, by the signal with this number, which is how servers end.
    #[error("ended")]
    Ended(i32),
    /// Stages failed, for the reasons told.
    #[error("{0}")]
    StagesFailed(String),
}

/// What is wrong with a command line, to be told all at once.
#[derive(Debug, Default)]
pub struct UsageErrors(Vec<String>);

impl UsageErrors {
    /// Notes what is wrong with the command line; any other error comes alone.
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

    /// Notes what is wrong.
    pub fn add(&mut self, why: String) {
        self.0.push(why);
    }

    /// Fails if anything was noted.
    pub fn tell(self) -> anyhow::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::Usage(self.0.join("\n  ")).into()) }
    }
}

/// The first of several reasons, each on a line of its own, and how many more there are.
pub fn first_of<R: std::fmt::Display>(most: usize, reasons: &[R]) -> String {
    let named: String = reasons.iter().take(most).map(|reason| format!("\n  {reason}")).collect();
    match reasons.len().saturating_sub(most) {
        0 => named,
        more => format!("{named}\n  and {more} more"),
    }
}

/// An [`anyhow::Error`] for a damaged input; `{:?}`-style context can be added on top.
#[macro_export]
macro_rules! damaged {
    ($($argument:tt)*) => {
        anyhow::Error::from($crate::base::error::Failure::Damaged(format!($($argument)*)))
    };
}
