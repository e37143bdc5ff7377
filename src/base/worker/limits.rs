//! Limits of a worker: memory, time, and no access to anything but its pipes.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Signals that end a process: after an abort, and after it used up its time.
pub const ABORTED: i32 = signal_hook::consts::SIGABRT;
pub const OUT_OF_TIME: i32 = signal_hook::consts::SIGXCPU;
/// Signals that a crash of the program itself causes.
pub const CRASHES: [i32; 5] = [
    signal_hook::consts::SIGSEGV,
    signal_hook::consts::SIGBUS,
    signal_hook::consts::SIGILL,
    signal_hook::consts::SIGFPE,
    signal_hook::consts::SIGTRAP,
];

/// Address space of an idle worker in bytes. `AT_REST` is a safe value for systems that do not report it.
const AT_REST: u64 = 1 << 30;
static RESTING: OnceLock<u64> = OnceLock::new();

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
        let limit = |resource: u64| SeccompRule::new(vec![is(0, 0)?, is(1, resource)?]);
        rules.insert(libc::SYS_prlimit64, vec![limit(libc::RLIMIT_AS.into())?, limit(libc::RLIMIT_CPU.into())?]);
        let to_itself = || Ok::<_, BackendError>(vec![SeccompRule::new(vec![is(0, std::process::id().into())?])?]);
        rules.insert(libc::SYS_tgkill, to_itself()?);
        rules.insert(libc::SYS_tkill, to_itself()?);
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, denied, SeccompAction::Allow, machine)?.try_into().map(Some)
    }
}
