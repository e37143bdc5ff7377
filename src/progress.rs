//! Progress: bars on a terminal, a plain line now and then elsewhere; always on stderr.

use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const BETWEEN_PLAIN_LINES: Duration = Duration::from_secs(15);

/// Where all bars of a process are drawn.
#[derive(Clone)]
pub struct Screen {
    bars: MultiProgress,
    terminal: bool,
    quiet: bool,
    /// Stdout is for a program: only what it asked for goes there.
    for_machines: bool,
    /// What went wrong on stdout first.
    lost: Arc<OnceLock<std::io::Error>>,
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
        }
    }

    pub fn for_machines(&self) -> Self {
        Self { for_machines: true, ..self.clone() }
    }

    /// A result line on stdout, above the bars.
    pub fn print(&self, line: &str) {
        if let Err(error) = self.bars.suspend(|| writeln!(std::io::stdout(), "{line}")) {
            // A failure only once the work is done; a closed pipe, the reader's choice, is none.
            drop(self.lost.set(error));
        }
    }

    /// Whether all that was printed has arrived.
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

/// A writer for logs that does not tear the bars.
impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bars.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The progress of one instance.
#[derive(Clone)]
pub struct Progress {
    screen: Screen,
    instance: String,
}

impl Progress {
    /// Tells people a result; programs find it in the files.
    pub fn tell(&self, text: &str) {
        if !self.screen.for_machines {
            self.screen.print(text);
        }
    }

    /// A bar of `total` steps; 0 where the total is not known.
    pub fn bar(&self, label: &str, total: u64) -> Bar {
        self.styled(label, total, "{pos}/{len} {msg} {eta} left")
    }

    /// The same, counting bytes.
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

/// One bar; it goes when it is dropped.
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
        let mut last = spoken.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Begins at a step other than the first.
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
