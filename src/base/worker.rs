//! Work on files from anybody, in processes of their own that can be ended: what they take too much of, or crash on, costs
//! that one file and nothing else.
//!
//! A worker is this program itself, started with [`ARGUMENT`]. It lives on between two files, is fed and read by pipes,
//! has no files and no network, and only so much memory and time for each file.

mod limits;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

/// The first argument of a worker.
pub const ARGUMENT: &str = "decode-worker";
/// Of a pipe: a picture mostly goes through it at once.
const PIPE: usize = 1 << 20;
/// Header and small picture go in one write: each write wakes the other process.
const BUFFER: usize = 64 << 10;
/// Workers that try one request.
const TRIES: usize = 2;
/// How much longer than a core needs for its work a worker may take on a busy machine, and seconds beside that.
const SLOWDOWN: u32 = 10;
const PATIENCE: u32 = 30;
/// Variables of the environment that a worker gets: where its libraries are.
const ENVIRONMENT: [&str; 2] = ["LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"];
/// For glibc, so that memory is given back once a file is done.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1000000"), ("MALLOC_TRIM_THRESHOLD_", "1000000")];

/// Something that workers do.
#[derive(Debug)]
pub struct Task {
    pub name: &'static str,
    /// From a request's header and body to its reply.
    pub work: fn(&[u8], &[u8]) -> Vec<u8>,
}

/// How much one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Bytes beside what a worker has at rest.
    pub memory: u64,
    /// Of one core.
    pub seconds: u32,
    /// Bytes of a reply.
    pub reply: u64,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Lost {
    #[error("needed more than {0} MB of memory")]
    Memory(u64),
    #[error("took more than {0} s")]
    Time(u32),
    #[error("crashed (signal {0})")]
    Crash(i32),
    #[error("gave no answer that can be understood")]
    Nonsense,
    /// Not the file's fault.
    #[error("cannot be had: {0}")]
    Unavailable(String),
}

/// Where workers are started from, and the idle ones. Without a program everything is done in this process.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// From now on, tasks are done by workers that this very program becomes.
pub fn start_from_this_program() {
    let itself = Path::new("/proc/self/exe");
    // This one still leads to the program after its file was replaced.
    // Where it is not known, no worker can be started, and nothing is done without one.
    let named = || std::env::args_os().next().map(PathBuf::from).and_then(|path| path.canonicalize().ok());
    let program = if itself.exists() { Some(itself.to_owned()) } else { std::env::current_exe().ok().or_else(named) };
    drop(PROGRAM.set(program.unwrap_or_default()));
}

/// The same by another program, for tests.
pub fn start_from(path: PathBuf) {
    drop(PROGRAM.set(path));
}

/// What `task` makes of a request.
pub fn call(task: &Task, header: &[u8], body: &[u8], allowance: Allowance) -> Result<Vec<u8>, Lost> {
    let Some(program) = PROGRAM.get() else { return Ok((task.work)(header, body)) };
    let mut lost = Lost::Nonsense;
    // One that somebody else ended, while it was idle or at work, says nothing of the file: another one tries.
    for _ in 0..TRIES {
        let idle = IDLE.lock().pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => Worker::start(program).map_err(|error| Lost::Unavailable(error.to_string()))?,
        };
        match worker.ask(task, header, body, allowance) {
            Ok(reply) => {
                IDLE.lock().push(worker);
                return Ok(reply);
            }
            Err(error) => lost = worker.why_it_died(&error, allowance),
        }
        if !matches!(lost, Lost::Unavailable(_)) {
            break;
        }
    }
    Err(lost)
}

struct Worker {
    process: Child,
    requests: ChildStdin,
    replies: ChildStdout,
}

impl Worker {
    fn start(program: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
        command.env_clear().envs(ALLOCATOR);
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        // A signal to all that runs in a terminal is for this process alone, which decides what becomes of its workers.
        command.process_group(0);
        let mut process = command.spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (requests, replies) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
        // Where a larger pipe is refused, the usual one will do.
        #[cfg(target_os = "linux")]
        {
            let _ = rustix::pipe::fcntl_setpipe_size(&requests, PIPE);
            let _ = rustix::pipe::fcntl_setpipe_size(&replies, PIPE);
        }
        Ok(Self { process, requests, replies })
    }

    fn ask(&mut self, task: &Task, header: &[u8], body: &[u8], allowance: Allowance) -> io::Result<Vec<u8>> {
        let mut requests = BufWriter::with_capacity(BUFFER, &self.requests);
        requests.write_all(&head(task.name, header, body.len(), allowance))?;
        requests.write_all(body)?;
        requests.flush()?;
        self.wait(allowance)?;
        let length = read_u64(&mut self.replies)?;
        if length > allowance.reply {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reply = Vec::with_capacity(length.min(PIPE as u64) as usize);
        (&mut self.replies).take(length).read_to_end(&mut reply)?;
        if reply.len() as u64 == length { Ok(reply) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Until it begins to answer; one that is stopped is not waited for longer than any work takes.
    fn wait(&self, allowance: Allowance) -> io::Result<()> {
        let most = Timespec { tv_sec: i64::from(PATIENCE + SLOWDOWN * allowance.seconds), tv_nsec: 0 };
        loop {
            match poll(&mut [PollFd::new(&self.replies, PollFlags::IN)], Some(&most)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Err(rustix::io::Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    fn why_it_died(mut self, error: &io::Error, allowance: Allowance) -> Lost {
        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::TimedOut) {
            drop(self.process.kill());
            drop(self.process.wait());
            return if error.kind() == io::ErrorKind::TimedOut {
                Lost::Time(allowance.seconds)
            } else {
                Lost::Nonsense
            };
        }
        drop((self.requests, self.replies));
        let signal = self.process.wait().ok().and_then(|status| status.signal());
        match signal {
            // An allocation that fails ends a Rust program by `abort`.
            Some(limits::ABORTED) => Lost::Memory(allowance.memory / 1_000_000),
            Some(limits::OUT_OF_TIME) => Lost::Time(allowance.seconds),
            Some(signal) if limits::CRASHES.contains(&signal) => Lost::Crash(signal),
            Some(signal) => Lost::Unavailable(format!("it was ended from outside (signal {signal})")),
            None => Lost::Unavailable("it ends as soon as it has begun".to_owned()),
        }
    }
}

/// What comes before the body of a request.
fn head(task: &str, header: &[u8], body: usize, allowance: Allowance) -> Vec<u8> {
    let mut head = Vec::with_capacity(header.len() + 64);
    head.push(task.len() as u8);
    head.extend(task.as_bytes());
    head.extend(allowance.memory.to_le_bytes());
    head.extend(u64::from(allowance.seconds).to_le_bytes());
    head.extend((header.len() as u64).to_le_bytes());
    head.extend((body as u64).to_le_bytes());
    head.extend(header);
    head
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// If this process was started as a worker: does what it is asked to, until nobody asks any more.
pub fn run_if_asked(tasks: &[&Task]) -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).as_deref() != Some(OsStr::new(ARGUMENT)) || arguments.next().is_some() {
        return None;
    }
    Some(match serve(tasks) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(2),
    })
}

fn serve(tasks: &[&Task]) -> io::Result<()> {
    // What panics is told in the reply.
    std::panic::set_hook(Box::new(|_| ()));
    // A descriptor of its own, taken while that is allowed: `Stdout` would write anew at every newline byte.
    let replies = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    limits::confine()?;
    let (mut requests, mut replies) = (io::stdin().lock(), BufWriter::with_capacity(BUFFER, replies));
    loop {
        let mut length = [0; 1];
        if requests.read(&mut length)? == 0 {
            return Ok(());
        }
        let mut name = vec![0; length[0].into()];
        requests.read_exact(&mut name)?;
        let (memory, seconds) = (read_u64(&mut requests)?, read_u64(&mut requests)?);
        limits::allow(memory, seconds)?;
        let (header, body) = (read_u64(&mut requests)?, read_u64(&mut requests)?);
        let mut header = vec![0; header as usize];
        requests.read_exact(&mut header)?;
        let mut body = vec![0; body as usize];
        requests.read_exact(&mut body)?;
        let task = tasks.iter().find(|task| task.name.as_bytes() == name).ok_or(io::ErrorKind::InvalidInput)?;
        let reply = (task.work)(&header, &body);
        drop(body);
        replies.write_all(&(reply.len() as u64).to_le_bytes())?;
        replies.write_all(&reply)?;
        replies.flush()?;
    }
}

/// Says what a worker may do besides its work: it should be nothing. For tests.
pub static PROBE: Task = Task {
    name: "probe",
    work: |_, _| {
        let opened = File::open("/dev/null").is_ok();
        let listened = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
        let started = Command::new("/bin/true").spawn().is_ok();
        let removed =
            std::fs::remove_file("/dev/null/none").is_err_and(|error| error.kind() == io::ErrorKind::NotADirectory);
        format!("files {opened}, network {listened}, processes {started}, names {removed}").into_bytes()
    },
};
