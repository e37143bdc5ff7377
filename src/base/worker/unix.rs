//! Limits of a worker on Unix: memory, time, and no access to anything but its pipes.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP, SIGXCPU};

use super::End;

/// Environment variables that a worker inherits: where its libraries are.
pub const ENVIRONMENT: [&str; 2] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];

/// Address space of an idle worker in bytes. `AT_REST` is a safe value for systems that do not report it.
const AT_REST: u64 = 1 << 30;
static RESTING: OnceLock<u64> = OnceLock::new();

/// This program.
pub fn program() -> Option<PathBuf> {
    // This path still leads to this program after its file was replaced.
    let itself = Path::new("/proc/self/exe");
    let named = || std::env::args_os().next().map(PathBuf::from).and_then(|path| path.canonicalize().ok());
    if itself.exists() { Some(itself.to_owned()) } else { std::env::current_exe().ok().or_else(named) }
}

/// Ctrl-C signals every process of a group. In their own group, workers do not get it: the parent process ends them.
pub fn set_apart(command: &mut Command) {
    command.process_group(0);
}

/// Enlarges the pipes of a worker to `bytes`. If the system refuses that, the default size works too.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables))]
pub fn enlarge(requests: &ChildStdin, replies: &ChildStdout, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::pipe::fcntl_setpipe_size(requests, bytes);
        let _ = rustix::pipe::fcntl_setpipe_size(replies, bytes);
    }
}

/// Reads the first bytes of a reply. Fails with `TimedOut` if the worker does not answer in time.
pub fn first_bytes(_worker: &mut Child, replies: &mut ChildStdout, most: Duration) -> io::Result<[u8; 8]> {
    let most = Timespec { tv_sec: most.as_secs() as i64, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(replies, PollFlags::IN)], Some(&most)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    let mut bytes = [0; 8];
    replies.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub fn end(status: ExitStatus) -> End {
    match status.signal() {
        // A Rust program aborts if an allocation fails.
        Some(SIGABRT) => End::OutOfMemory,
        Some(SIGXCPU) => End::OutOfTime,
        Some(signal @ (SIGSEGV | SIGBUS | SIGILL | SIGFPE | SIGTRAP)) => End::Crash(format!("signal {signal}")),
        Some(signal) => End::Other(format!("something else ended it (signal {signal})")),
        None => End::Other("it ended right after its start".to_owned()),
    }
}

/// Gives up access to files and network. It cannot be regained.
pub fn confine() -> io::Result<()> {
    RESTING.get_or_init(|| {
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        pages.map_or(AT_REST, |pages| pages * rustix::param::page_size() as u64)
    });
    // With a limit of 0, no further file can be opened. Open ones stay usable.
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    calls::allow_few();
    Ok(())
}

/// Limits this process to `memory` bytes more than at rest, and to `seconds` of CPU time from now on.
pub fn allow(memory: u64, seconds: u64) -> io::Result<()> {
    set(Resource::As, RESTING.get().unwrap_or(&AT_REST).saturating_add(memory))?;
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    // The system counts a started second as a whole one.
    set(Resource::Cpu, used + seconds + 1)
}

/// Sets the limit to `wanted`, or to the maximum if that is lower.
fn set(resource: Resource, wanted: u64) -> io::Result<()> {
    let maximum = getrlimit(resource).maximum;
    let current = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    Ok(setrlimit(resource, Rlimit { current: Some(current), maximum })?)
}

/// The system calls that are allowed; all others fail.
#[cfg(target_os = "linux")]
mod calls {
    use std::collections::BTreeMap;

    use libc::c_long;
    use seccompiler::SeccompCmpArgLen::Dword;
    use seccompiler::SeccompCmpOp::Eq;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
    };

    /// Calls for open pipes, memory, time and exit.
    const PLAIN: [c_long; 24] = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_sched_yield,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    /// Blocks all other calls. On an unknown architecture, or if the system refuses, only the limit on open files is
    /// left.
    pub fn allow_few() {
        if let Some(program) = program().ok().flatten() {
            drop(apply_filter(&program));
        }
    }

    fn program() -> Result<Option<BpfProgram>, BackendError> {
        let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
        let is = |argument, value: u64| SeccompCondition::new(argument, Dword, Eq, value);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
        // A worker may also change its own limits, and send itself a signal: that is how a program aborts.
        // The type of these constants is another with musl.
        let limits = [libc::RLIMIT_AS as u64, libc::RLIMIT_CPU as u64];
        let limit = |resource| SeccompRule::new(vec![is(0, 0)?, is(1, resource)?]);
        rules.insert(libc::SYS_prlimit64, limits.into_iter().map(limit).collect::<Result<_, _>>()?);
        let to_itself = || Ok::<_, BackendError>(vec![SeccompRule::new(vec![is(0, std::process::id().into())?])?]);
        rules.insert(libc::SYS_tgkill, to_itself()?);
        rules.insert(libc::SYS_tkill, to_itself()?);
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, denied, SeccompAction::Allow, machine)?.try_into().map(Some)
    }
}
