//! Failures that a caller tells apart, each with its exit status.

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

/// The exit status for an error: 1 unless a [`Failure`] or a manifest error is at its root.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<crate::engine::manifest::ManifestError>().is_some() {
        return 2;
    }
    match error.downcast_ref::<Failure>() {
        Some(Failure::Usage(_) | Failure::NotYet(_)) => 2,
        Some(Failure::Pending) => 3,
        Some(Failure::Damaged(_)) => 4,
        Some(Failure::Busy(_)) => 5,
        Some(Failure::NotReproducible(_)) => 6,
        Some(Failure::Interrupted(signal) | Failure::Ended(signal)) => 128 + *signal as u8,
        Some(Failure::StagesFailed(_)) | None => 1,
    }
}

/// What is wrong with a command line, to be told all at once.
#[derive(Debug, Default)]
pub struct Wrong(Vec<String>);

impl Wrong {
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
        anyhow::Error::from($crate::base::failure::Failure::Damaged(format!($($argument)*)))
    };
}
