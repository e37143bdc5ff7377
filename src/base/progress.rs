//! Progress on stderr: bars on a terminal, otherwise a plain line from time to time.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::Mutex;

use crate::base::text::{legible, legible_json};

const BETWEEN_PLAIN_LINES: Duration = Duration::from_secs(15);
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// Where all bars of a process are drawn.
#[derive(Clone)]
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
    /// A program reads stdout: texts for people do not go there.
    for_machines: bool,
    /// The first error of writing to stdout.
    lost: Arc<OnceLock<std::io::Error>>,
    /// When anything was last printed.
    spoken: Arc<Mutex<Instant>>,
    /// When the whole run will end, if that is known.
    end: Arc<Mutex<Option<Instant>>>,
}

impl Screen {
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal && !quiet { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self {
            bars: MultiProgress::with_draw_target(target),
            terminal,
            quiet,
            for_machines: false,
            lost: Arc::default(),
            spoken: Arc::new(Mutex::new(Instant::now())),
            end: Arc::default(),
        }
    }

    /// A bar for a whole run of so many instances, above their own bars. `seconds` is how long it will take, if that is
    /// known.
    pub fn overall(&self, instances: u64, seconds: Option<f64>) -> Overall {
        expect(&self.end, seconds);
        let end = self.end.clone();
        let left = move |_: &ProgressState, to: &mut dyn std::fmt::Write| {
            let left = end.lock().map(|end| end.saturating_duration_since(Instant::now()));
            if let Some(left) = left.filter(|left| !left.is_zero()) {
                // If it cannot be written, the bar is shorter.
                let _ = write!(to, "about {} left", HumanDuration(left));
            }
        };
        let bar = self.bars.insert(0, ProgressBar::new(instances));
        if let Ok(style) = ProgressStyle::with_template("{prefix:10} {bar:24} {pos}/{len} {elapsed} {left}") {
            bar.set_style(style.progress_chars("━╸ ").with_key("left", left));
        }
        bar.set_prefix("all");
        bar.enable_steady_tick(Duration::from_secs(1));
        Overall(bar)
    }

    /// Logs what is still running if nothing was printed for a while, so that a long job does not look dead. It stops
    /// when the guard is dropped.
    pub fn heartbeat(&self) -> Heartbeat {
        let (running, stop) = (Arc::<Mutex<Vec<(String, Instant)>>>::default(), mpsc::channel());
        if !self.terminal && !self.quiet {
            let (spoken, running, stopped) = (self.spoken.clone(), running.clone(), stop.1);
            std::thread::spawn(move || {
                while stopped.recv_timeout(LONGEST_SILENCE / 10) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let silent = spoken.lock().elapsed();
                    let running = running.lock();
                    if silent >= LONGEST_SILENCE * 9 / 10 && !running.is_empty() {
                        let all =
                            running.iter().map(|(name, since)| format!("{name} ({} s)", since.elapsed().as_secs()));
                        tracing::info!("still running: {}", all.collect::<Vec<_>>().join(", "));
                    }
                }
            });
        }
        Heartbeat { running, _stop: stop.0 }
    }

    pub fn for_machines(&self) -> Self {
        Self { for_machines: true, ..self.clone() }
    }

    /// Prints a result for people on stdout, above the bars. Control characters are escaped.
    pub fn print(&self, line: &str) {
        self.print_exactly(&legible(line));
    }

    /// Prints JSON for programs on stdout. Control characters are escaped.
    pub fn print_json(&self, json: &str) {
        self.print_exactly(&legible_json(json));
    }

    /// Prints text without escaping. It must not contain foreign text, such as names of files.
    pub fn print_exactly(&self, line: &str) {
        *self.spoken.lock() = Instant::now();
        if let Err(error) = self.bars.suspend(|| writeln!(std::io::stdout(), "{line}")) {
            // The work goes on; `printed` reports the error at the end.
            drop(self.lost.set(error));
        }
    }

    /// Fails if something could not be printed. A closed pipe is no error: the reader chose to stop.
    pub fn printed(&self) -> Result<()> {
        match self.lost.get() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => bail!("cannot write to stdout: {error}"),
            _ => Ok(()),
        }
    }

    pub fn progress(&self, instance: &str) -> Progress {
        Progress { screen: self.clone(), instance: instance.to_owned() }
    }
}

/// A writer for logs that keeps the bars intact.
impl Write for Screen {
    /// Drops a line that cannot be written, for example because the disk is full. The work goes on.
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        *self.spoken.lock() = Instant::now();
        drop(self.bars.suspend(|| std::io::stderr().write_all(bytes)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sets when a run will end.
fn expect(end: &Mutex<Option<Instant>>, seconds: Option<f64>) {
    let left = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    *end.lock() = left.and_then(|left| Instant::now().checked_add(left));
}

/// The bar of a whole run; it disappears when it is dropped.
pub struct Overall(ProgressBar);

impl Overall {
    pub fn inc(&self) {
        self.0.inc(1);
    }
}

impl Drop for Overall {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The instances that run now; see [`Screen::heartbeat`].
pub struct Heartbeat {
    running: Arc<Mutex<Vec<(String, Instant)>>>,
    /// The thread ends when this is dropped.
    _stop: mpsc::Sender<()>,
}

impl Heartbeat {
    pub fn started(&self, name: &str) {
        self.running.lock().push((name.to_owned(), Instant::now()));
    }

    pub fn ended(&self, name: &str) {
        self.running.lock().retain(|(running, _)| running != name);
    }
}

/// The progress of one instance.
#[derive(Clone)]
pub struct Progress {
    screen: Screen,
    instance: String,
}

impl Progress {
    /// Prints a result for people. Nothing is printed if a program reads stdout.
    pub fn tell(&self, text: &str) {
        if !self.screen.for_machines {
            self.screen.print(text);
        }
    }

    /// Says how many seconds are left of the instance, which is most of the run.
    pub fn expect(&self, seconds: f64) {
        expect(&self.screen.end, Some(seconds));
    }

    /// A bar of `total` steps; 0 if the total is unknown.
    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.styled(label, total, "{pos}/{len} {msg} {eta} left")
    }

    /// A bar of `total` bytes; 0 if the total is unknown.
    pub fn bytes(&self, label: &str, total: u64) -> Bar {
        self.styled(label, total, "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} {eta} left")
    }

    fn styled(&self, label: &str, total: u64, counts: &str) -> Bar {
        let bar = match total {
            0 => ProgressBar::new_spinner(),
            _ => ProgressBar::new(total),
        };
        let template = format!("{{prefix:10}} {{bar:24}} {counts}");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        let bar = self.screen.bars.add(bar);
        bar.set_prefix(self.instance.clone());
        let plain = !self.screen.terminal && !self.screen.quiet;
        let label = format!("{} {label}", self.instance);
        Bar { bar, label, total, spoken: plain.then(|| Arc::new(Mutex::new(Instant::now()))) }
    }
}

/// A progress bar; it disappears when it is dropped.
pub struct Bar {
    bar: ProgressBar,
    label: String,
    total: u64,
    spoken: Option<Arc<Mutex<Instant>>>,
}

impl Bar {
    pub fn inc(&self, steps: u64) {
        self.bar.inc(steps);
        let Some(spoken) = &self.spoken else { return };
        let mut last = spoken.lock();
        if last.elapsed() >= BETWEEN_PLAIN_LINES {
            *last = Instant::now();
            let left = self.bar.eta().as_secs();
            tracing::info!(
                "{} {}/{} {} about {left} s left",
                self.label,
                self.bar.position(),
                self.total,
                self.bar.message()
            );
        }
    }

    /// Starts the bar at `steps`, for work that was partly done before.
    pub fn resume(&self, steps: u64) {
        self.bar.set_position(steps);
        self.bar.reset_eta();
    }

    pub fn message(&self, message: String) {
        self.bar.set_message(message);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_counts_from_where_work_resumes() {
        let bar = Screen::new(true).progress("train").bar("epochs", 10);
        bar.resume(4);
        bar.inc(2);
        assert_eq!((bar.bar.position(), bar.bar.length()), (6, Some(10)));
        let unknown = Screen::new(true).progress("fetch").bytes("archive", 0);
        unknown.inc(3);
        assert_eq!((unknown.bar.position(), unknown.bar.length()), (3, None));
    }

    #[test]
    fn a_heartbeat_names_what_runs() {
        let heartbeat = Screen::new(true).heartbeat();
        ["prepare", "train"].into_iter().for_each(|name| heartbeat.started(name));
        heartbeat.ended("prepare");
        let running: Vec<String> = heartbeat.running.lock().iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(running, ["train"]);
    }
}
