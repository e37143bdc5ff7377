//! Reads untrusted files in separate processes, so that a file that crashes its reader or needs too much does no harm.
//!
//! A worker is this program itself, started with [`ARGUMENT`]. It handles many files, one after the other. It receives
//! requests and sends replies through pipes. It has limited memory and time for each file. On Unix it has no access to
//! files or network.

#[cfg(unix)]
#[path = "worker/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "worker/windows.rs"]
mod system;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;

use crate::base::files;

/// The first argument of a worker.
pub const ARGUMENT: &str = "decode-worker";
/// Size of a pipe in bytes. Most pictures fit into it at once.
const PIPE: usize = 1 << 20;
/// Bytes collected before a write. A header and a small picture go in one write: each write wakes the other process.
const BUFFER: usize = 64 << 10;
/// How many workers try a request before it fails.
const TRIES: usize = 2;
/// A worker may take `SLOWDOWN` times its allowed CPU time, plus `PATIENCE` seconds: on a busy machine it has to wait.
const SLOWDOWN: u32 = 10;
const PATIENCE: u32 = 30;
/// Settings of glibc: it returns memory to the system after each file.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1000000"), ("MALLOC_TRIM_THRESHOLD_", "1000000")];

/// A kind of request that workers can handle.
#[derive(Debug)]
pub struct Task {
    pub name: &'static str,
    /// Makes the reply from the header and the body of a request.
    pub work: fn(&[u8], &[u8]) -> Vec<u8>,
}

/// How much one request may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Bytes in addition to what an idle worker uses.
    pub memory: u64,
    /// CPU seconds.
    pub seconds: u32,
    /// Most bytes of the reply.
    pub reply: u64,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum Lost {
    #[error("needed more than {0} MB of memory")]
    Memory(u64),
    #[error("took more than {0} s")]
    Time(u32),
    #[error("crashed ({0})")]
    Crash(String),
    #[error("gave an invalid answer")]
    Nonsense,
    /// No worker could be started, or something outside ended it. The file is not the cause.
    #[error("is not available: {0}")]
    Unavailable(String),
}

/// How a worker ended.
#[derive(Debug)]
enum End {
    OutOfMemory,
    #[cfg_attr(windows, expect(dead_code, reason = "Windows does not end a worker; the parent process does"))]
    OutOfTime,
    Crash(String),
    Other(String),
}

/// The program to start as a worker, and the idle workers. Without a program, all work is done in this process.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
static IDLE: Mutex<Vec<Worker>> = Mutex::new(Vec::new());

/// From now on, workers handle all tasks. They are copies of this program.
pub fn start_from_this_program() {
    // If no path is found, it is empty. Then no worker can start, and requests fail: this process must not handle them.
    drop(PROGRAM.set(system::program().unwrap_or_default()));
}

/// Like [`start_from_this_program`], with another program, for tests.
pub fn start_from(path: PathBuf) {
    drop(PROGRAM.set(path));
}

/// Gives a request to a worker and returns its reply.
pub fn call(task: &Task, header: &[u8], body: &[u8], allowance: Allowance) -> Result<Vec<u8>, Lost> {
    let Some(program) = PROGRAM.get() else { return Ok((task.work)(header, body)) };
    let mut lost = Lost::Nonsense;
    // If something else ended the worker, the file is not the cause: another worker tries.
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
        command.envs(system::ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        system::set_apart(&mut command);
        let mut process = command.spawn()?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (requests, replies) = pipes.ok_or_else(|| io::Error::other("it has no pipes"))?;
        system::enlarge(&requests, &replies, PIPE);
        Ok(Self { process, requests, replies })
    }

    fn ask(&mut self, task: &Task, header: &[u8], body: &[u8], allowance: Allowance) -> io::Result<Vec<u8>> {
        let mut requests = BufWriter::with_capacity(BUFFER, &self.requests);
        requests.write_all(&head(task.name, header, body.len(), allowance))?;
        requests.write_all(body)?;
        requests.flush()?;
        drop(requests);
        // The limit is longer than any work takes; it is for a worker that hangs.
        let most = Duration::from_secs((PATIENCE + SLOWDOWN * allowance.seconds).into());
        let length = u64::from_le_bytes(system::first_bytes(&mut self.process, &mut self.replies, most)?);
        if length > allowance.reply {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut reply = Vec::with_capacity(length.min(PIPE as u64) as usize);
        (&mut self.replies).take(length).read_to_end(&mut reply)?;
        if reply.len() as u64 == length { Ok(reply) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
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
        match self.process.wait().map(system::end) {
            Ok(End::OutOfMemory) => Lost::Memory(allowance.memory / 1_000_000),
            Ok(End::OutOfTime) => Lost::Time(allowance.seconds),
            Ok(End::Crash(how)) => Lost::Crash(how),
            Ok(End::Other(why)) => Lost::Unavailable(why),
            Err(error) => Lost::Unavailable(error.to_string()),
        }
    }
}

/// The bytes before the body of a request.
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

/// If this process was started as a worker, handles requests until its input ends. Otherwise returns `None`.
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
    // The reply reports a panic.
    std::panic::set_hook(Box::new(|_| ()));
    // `Stdout` would flush at every newline byte, so use the descriptor itself. After `confine`, it cannot be copied.
    let replies = files::stdout()?;
    system::confine()?;
    let (mut requests, mut replies) = (io::stdin().lock(), BufWriter::with_capacity(BUFFER, replies));
    loop {
        let mut length = [0; 1];
        if requests.read(&mut length)? == 0 {
            return Ok(());
        }
        let mut name = vec![0; length[0].into()];
        requests.read_exact(&mut name)?;
        let (memory, seconds) = (read_u64(&mut requests)?, read_u64(&mut requests)?);
        system::allow(memory, seconds)?;
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

/// Reports which forbidden things a worker can do; there should be none. For tests.
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
