//! Limits of a worker on Windows: memory and time. Access to files and network is not limited.

use std::alloc::System;
use std::io::{self, Read};
use std::os::windows::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use cap::Cap;

use super::End;

/// Environment variables that a worker inherits: where the libraries of the system are.
pub const ENVIRONMENT: [&str; 1] = ["SystemRoot"];
/// A new process with this flag does not get Ctrl-C from the console. From `CreateProcess` in Microsoft's reference.
const NEW_PROCESS_GROUP: u32 = 0x200;
/// Exit codes of a program that aborts, and the lowest of those for its crashes. From NTSTATUS in Microsoft's reference.
const ABORTED: u32 = 0xC000_0409;
const CRASHES: u32 = 0xC000_0000;

/// Counts the memory in use, so that a worker can limit it.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// This program.
pub fn program() -> Option<PathBuf> {
    std::env::current_exe().ok()
}

/// Ctrl-C in a console ends all its processes. In their own group, workers do not get it: the parent process ends them.
pub fn set_apart(command: &mut Command) {
    command.creation_flags(NEW_PROCESS_GROUP);
}

/// Pipes keep their default size here.
pub fn enlarge(_requests: &ChildStdin, _replies: &ChildStdout, _bytes: usize) {}

/// Reads the first bytes of a reply. Kills the worker and fails with `TimedOut` if it does not answer in time.
pub fn first_bytes(worker: &mut Child, replies: &mut ChildStdout, most: Duration) -> io::Result<[u8; 8]> {
    std::thread::scope(|scope| {
        let (done, answer) = channel();
        scope.spawn(move || {
            let mut bytes = [0; 8];
            // Nobody listens any more after the time is over.
            let _ = done.send(replies.read_exact(&mut bytes).map(|()| bytes));
        });
        match answer.recv_timeout(most) {
            Ok(bytes) => bytes,
            Err(RecvTimeoutError::Disconnected) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(RecvTimeoutError::Timeout) => {
                worker.kill()?;
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    })
}

pub fn end(status: ExitStatus) -> End {
    match status.code().map(|code| code as u32) {
        // A Rust program aborts if an allocation fails.
        Some(ABORTED) => End::OutOfMemory,
        Some(code) if code >= CRASHES => End::Crash(format!("{code:#x}")),
        Some(code) => End::Other(format!("something else ended it (exit code {code})")),
        None => End::Other("it has no exit code".to_owned()),
    }
}

/// There is nothing to give up here without calls that are not safe.
pub fn confine() -> io::Result<()> {
    Ok(())
}

/// Limits this process to `memory` bytes more than now. The parent process limits the time.
pub fn allow(memory: u64, _seconds: u64) -> io::Result<()> {
    let limit = ALLOCATOR.allocated().saturating_add(usize::try_from(memory).unwrap_or(usize::MAX));
    ALLOCATOR.set_limit(limit).map_err(|()| io::ErrorKind::OutOfMemory.into())
}
