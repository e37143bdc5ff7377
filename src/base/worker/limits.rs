//! What a worker may take: memory, time, and nothing outside its pipes.

use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};

/// The signals that end a process which aborts, and one that used up its time.
pub const ABORTED: i32 = signal_hook::consts::SIGABRT;
pub const OUT_OF_TIME: i32 = signal_hook::consts::SIGXCPU;
/// Those that a program brings upon itself.
pub const CRASHES: [i32; 5] = [
    signal_hook::consts::SIGSEGV,
    signal_hook::consts::SIGBUS,
    signal_hook::consts::SIGILL,
    signal_hook::consts::SIGFPE,
    signal_hook::consts::SIGTRAP,
];

/// Address space at rest, where the system tells; elsewhere what is surely enough.
const AT_REST: u64 = 1 << 30;
static RESTING: OnceLock<u64> = OnceLock::new();

/// Gives up files and network for good.
pub fn confine() -> io::Result<()> {
    RESTING.get_or_init(|| {
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        pages.map_or(AT_REST, |pages| pages * rustix::param::page_size() as u64)
    });
    // No number is left for another than those that are open.
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: Some(0) })?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    calls::allow_few();
    Ok(())
}

/// So many bytes and seconds more from now on.
pub fn allow(memory: u64, seconds: u64) -> io::Result<()> {
    set(Resource::As, RESTING.get().unwrap_or(&AT_REST).saturating_add(memory))?;
    let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec as u64;
    // A second that has begun counts as one.
    set(Resource::Cpu, used + seconds + 1)
}

/// As much as `wanted`, or as much as this process may have.
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

    /// Pipes that are open, memory, time and the end.
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

    /// On a kind of machine that is not known, or a system that refuses, the limit of open files must do.
    pub fn allow_few() {
        if let Some(program) = program().ok().flatten() {
            drop(apply_filter(&program));
        }
    }

    fn program() -> Result<Option<BpfProgram>, BackendError> {
        let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
        let is = |argument, value: u64| SeccompCondition::new(argument, Dword, Eq, value);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
        // Its own limits, and a signal to itself, by which a program aborts.
        let limit = |resource: u64| SeccompRule::new(vec![is(0, 0)?, is(1, resource)?]);
        rules.insert(libc::SYS_prlimit64, vec![limit(libc::RLIMIT_AS.into())?, limit(libc::RLIMIT_CPU.into())?]);
        let to_itself = || Ok::<_, BackendError>(vec![SeccompRule::new(vec![is(0, std::process::id().into())?])?]);
        rules.insert(libc::SYS_tgkill, to_itself()?);
        rules.insert(libc::SYS_tkill, to_itself()?);
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, denied, SeccompAction::Allow, machine)?.try_into().map(Some)
    }
}
