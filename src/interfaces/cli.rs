//! The command line: arguments, one file for each command, and the exit status.

mod config;
mod dag;
mod duplicates;
mod embed;
mod exit_status;
mod explain;
mod gc;
mod hash;
mod init;
mod lock;
mod metrics;
mod output;
mod picture_page;
#[cfg(feature = "cloud")]
mod publish;
mod query;
#[cfg(feature = "cloud")]
mod remote;
mod run;
mod run_ending;
mod run_report;
mod schema;
#[cfg(feature = "serve")]
mod serve;
mod shell;
mod status;
mod stored_result;
mod trained;
mod verify;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::fmt::format::debug_fn;

pub use init::{Archive, Templates};

use crate::base::error::Failure;
use crate::base::progress::Screen;
use crate::base::signal;
use crate::base::simd::Simd;
use crate::base::text::{legible, legible_path, shell_path};
use crate::base::worker;
use crate::engine::manifest::{Manifest, Variation};
use crate::engine::pipeline::Project;
use crate::engine::stage::Kind;
use crate::learning::images;
use crate::retrieval::differences::FILE_DIFFS;
use crate::retrieval::embeddings;

const EXIT_STATUS: &str = "\
Exit status:
  0 success · 1 a stage failed · 2 wrong arguments or manifest · 3 work is pending (status --check)
  4 something is damaged · 5 another run uses the project · 6 not reproducible
  130, 143 stopped by SIGINT or SIGTERM; the next run resumes

Environment:
  SIMILIAI_SIMD  vector instructions: avx512, avx2 or portable (default: the best); same results
  NO_COLOR       turns off colour on stderr, if it is not empty";

/// The manifest of a project, unless the command line names another.
const MANIFEST_FILE: &str = "pipeline.yaml";

/// The heading of the options that every command has.
const GLOBAL: &str = "Global options";
/// The heading of the options that change the manifest for one command.
const MANIFEST: &str = "Manifest options";

/// Find similar pictures with a network trained from scratch, in a reproducible pipeline
#[derive(Parser)]
#[command(name = "similiai", version, after_help = EXIT_STATUS)]
struct Cli {
    /// Work in this folder
    #[arg(short = 'C', value_name = "DIR", global = true, help_heading = GLOBAL)]
    folder: Option<PathBuf>,
    /// The pipeline's manifest
    #[arg(long, value_name = "FILE", default_value = MANIFEST_FILE, global = true, help_heading = GLOBAL)]
    manifest: PathBuf,
    /// Number of threads, at most 512 (default: all cores); results stay the same
    #[arg(long, value_name = "N", global = true, help_heading = GLOBAL, value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Print more messages on stderr
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    verbose: bool,
    /// Print only warnings and errors on stderr
    #[arg(short, long, global = true, help_heading = GLOBAL, conflicts_with = "verbose")]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new project: a manifest, and the folders and pictures that it needs
    Init(init::Arguments),
    /// Run the pipeline, or some instances and those they need; cached results are not made again
    Run(run::Arguments),
    /// Find pictures similar to a given one, among the pipeline's pictures or your own
    Query(query::Arguments),
    /// Embed your own pictures and write the vectors to a Parquet file
    Embed(embed::Arguments),
    /// Write embeddings to a PostgreSQL database with pgvector, for searching there
    #[cfg(feature = "cloud")]
    Publish(publish::Arguments),
    #[cfg(not(feature = "cloud"))]
    #[command(hide = true)]
    Publish(Absent),
    /// Find copies of pictures in one folder or between two; deletes nothing
    Duplicates(duplicates::Arguments),
    /// Start a server that finds similar pictures: a page for browsers and an API for programs
    #[cfg(feature = "serve")]
    Serve(serve::Arguments),
    #[cfg(not(feature = "serve"))]
    #[command(hide = true)]
    Serve(Absent),
    /// Show which results are fresh, stale or missing, and why; runs nothing
    Status(status::Arguments),
    /// Show what an instance's result depends on, and what changed since the last result
    Explain(explain::Arguments),
    /// Show the metrics of the last run or of past runs, or compare two results
    Metrics(metrics::Arguments),
    /// Show the manifest with all parameters, and where each value comes from
    Config(config::Arguments),
    /// Print the pipeline as a graph
    Dag(dag::Arguments),
    /// Check all stored and checked-out files for damage, or make results again and compare them
    Verify(verify::Arguments),
    /// Free disk space: remove the stored results that have been unused for longest
    Gc(gc::Arguments),
    /// Write pipeline.lock: what each result depends on and its digest, for `run --locked`
    Lock(lock::Arguments),
    /// Compare two stored results
    Hash(hash::Arguments),
    /// Print the JSON Schema of pipeline.yaml, for editors
    Schema,
    /// Print what a shell needs to complete commands
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command
    Man {
        /// Folder for the pages, for example ~/.local/share/man/man1; it is made if it does not exist
        #[arg(value_name = "FOLDER")]
        pages: PathBuf,
    },
}

/// The arguments of a command that this build does not have.
#[cfg(not(all(feature = "serve", feature = "cloud")))]
#[derive(Args)]
struct Absent {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _any: Vec<std::ffi::OsString>,
}

#[cfg(not(all(feature = "serve", feature = "cloud")))]
fn absent(command: &str, feature: &str) -> anyhow::Error {
    let how = format!("build it with `cargo build --release --features {feature}`");
    Failure::Usage(format!("this program was built without `similiai {command}`; {how}")).into()
}

/// Changes to the manifest from the command line.
#[derive(Args)]
struct ManifestOptions {
    /// Override parameters with profile P of the manifest; can be given several times
    #[arg(long = "profile", value_name = "P", help_heading = MANIFEST)]
    profiles: Vec<String>,
    /// Set one parameter, such as train.epochs=5; can be given several times
    #[arg(long = "set", value_name = "K=V", help_heading = MANIFEST)]
    sets: Vec<String>,
}

impl ManifestOptions {
    fn variation(&self) -> Variation {
        Variation { profiles: self.profiles.clone(), sets: self.sets.clone() }
    }
}

/// What every command receives: the stages, the path of the manifest and the output.
struct Session {
    /// The folder given with -C. It is the current directory now.
    folder: Option<PathBuf>,
    kinds: &'static [Kind],
    templates: &'static Templates,
    manifest: PathBuf,
    screen: Screen,
}

impl Session {
    fn project(&self, variation: &Variation) -> Result<Project> {
        Project::new(Manifest::load(&self.manifest, self.kinds, variation)?, FILE_DIFFS)
    }

    /// The project as the options say or, without options, as it was last run.
    fn project_or_last(&self, options: &ManifestOptions) -> Result<Project> {
        let variation = options.variation();
        if variation != Variation::default() {
            return self.project(&variation);
        }
        let project = self.last_project()?;
        let last = &project.manifest.variation;
        if !last.is_empty() {
            tracing::info!("as in the last run:{}; without that: --profile default", last.options());
        }
        Ok(project)
    }

    /// The project as it was last run.
    fn last_project(&self) -> Result<Project> {
        let project = self.project(&Variation::default())?;
        let Some(last) = project.store.last_run().filter(|last: &Variation| !last.is_empty()) else {
            return Ok(project);
        };
        self.project(&last).or_else(|error| {
            let options = last.options();
            tracing::warn!("the manifest no longer fits the options of the last run,{options}: {error:#}");
            Ok(project)
        })
    }

    /// The program with the options that name the project, as the user would type it.
    fn program(&self) -> String {
        let folder = self.folder.as_ref().map(|folder| format!(" -C {}", shell_path(folder)));
        let other = self.manifest != Path::new(MANIFEST_FILE);
        let manifest = other.then(|| format!(" --manifest {}", shell_path(&self.manifest)));
        format!("similiai{}{}", folder.unwrap_or_default(), manifest.unwrap_or_default())
    }

    /// A path as seen from the directory in which the user started the program.
    fn seen_from_shell(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix(".").unwrap_or(path);
        self.folder.as_ref().map_or_else(|| path.to_owned(), |folder| folder.join(path))
    }

    fn print_json(&self, value: &impl serde::Serialize) -> Result<()> {
        self.screen.print_json(&serde_json::to_string(value)?);
        Ok(())
    }
}

/// Runs the program with these stages.
pub fn main(kinds: &'static [Kind], templates: &'static Templates) -> ExitCode {
    if let Some(done) = worker::run_if_asked(&[&images::DECODING, &embeddings::READING, &worker::PROBE]) {
        return done;
    }
    worker::start_from_this_program();
    let cli = Cli::try_parse().unwrap_or_else(|error| refuse(&error));
    match run_command(cli, kinds, templates) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `status --check` has printed its result, and stopping a server with a signal is not an error.
            if !matches!(error.downcast_ref(), Some(Failure::Pending | Failure::Ended(_))) {
                let why = legible(&format!("{error:#}"));
                // If stderr is closed, the exit status still shows the failure.
                drop(writeln!(std::io::stderr(), "{} {why}", emphasis("error:")));
            }
            ExitCode::from(exit_status::exit_status(&error))
        }
    }
}

/// Prints the error in the arguments, or the help that they ask for, and exits.
fn refuse(error: &clap::Error) -> ! {
    let is_plain = |argument: std::ffi::OsString| argument.to_str().is_some_and(|text| legible(text) == text);
    if std::env::args_os().all(is_plain) {
        error.exit();
    }
    // The message repeats arguments, and their control characters must not reach the terminal.
    drop(write!(std::io::stderr(), "{}", legible(&error.render().to_string())));
    std::process::exit(error.exit_code());
}

fn run_command(cli: Cli, kinds: &'static [Kind], templates: &'static Templates) -> Result<()> {
    #[cfg(feature = "serve")]
    if matches!(cli.command, Command::Serve(_)) {
        serve::reexecute_with_malloc_settings();
    }
    if let Some(folder) = &cli.folder {
        std::env::set_current_dir(folder)
            .map_err(|error| Failure::Usage(format!("cannot work in {}: {error}", legible_path(folder))))?;
    }
    let screen = Screen::new(cli.quiet);
    start_logging(&cli, &screen);
    let simd = Simd::chosen().map_err(Failure::Usage)?;
    tracing::debug!("vector unit: {}", simd.name());
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global().context("cannot start the threads")?;
    }
    signal::listen()?;
    let session = Session { folder: cli.folder, kinds, templates, manifest: cli.manifest, screen };
    match &cli.command {
        Command::Init(arguments) => init::run(&session, arguments),
        Command::Run(arguments) => run::run(&session, arguments),
        Command::Query(arguments) => query::run(&session, arguments),
        Command::Embed(arguments) => embed::run(&session, arguments),
        #[cfg(feature = "cloud")]
        Command::Publish(arguments) => publish::run(&session, arguments),
        #[cfg(not(feature = "cloud"))]
        Command::Publish(_) => Err(absent("publish", "cloud")),
        Command::Duplicates(arguments) => duplicates::run(&session, arguments),
        #[cfg(feature = "serve")]
        Command::Serve(arguments) => serve::run(&session, arguments),
        #[cfg(not(feature = "serve"))]
        Command::Serve(_) => Err(absent("serve", "serve")),
        Command::Status(arguments) => status::run(&session, arguments),
        Command::Explain(arguments) => explain::run(&session, arguments),
        Command::Metrics(arguments) => metrics::run(&session, arguments),
        Command::Config(arguments) => config::run(&session, arguments),
        Command::Dag(arguments) => dag::run(&session, arguments),
        Command::Verify(arguments) => verify::run(&session, arguments),
        Command::Gc(arguments) => gc::run(&session, arguments),
        Command::Lock(arguments) => lock::run(&session, arguments),
        Command::Hash(arguments) => hash::run(&session, arguments),
        Command::Schema => schema::run(&session),
        Command::Completions { shell } => shell::completions(&session, *shell),
        Command::Man { pages } => shell::manual(&session, pages),
    }?;
    session.screen.printed()
}

fn start_logging(cli: &Cli, screen: &Screen) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => tracing::Level::WARN,
        (_, true) => tracing::Level::DEBUG,
        _ => tracing::Level::INFO,
    };
    let writer = screen.clone();
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .with_ansi(colored(std::io::stderr().is_terminal()))
        .with_target(false)
        .without_time()
        .log_internal_errors(false)
        .fmt_fields(debug_fn(|writer, field, value| {
            let text = legible(&format!("{value:?}"));
            if field.name() == "message" { write!(writer, "{text}") } else { write!(writer, "{field}={text} ") }
        }))
        .init();
}

fn colored(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Makes the text bold and red if stderr shows colour.
fn emphasis(text: &str) -> String {
    if colored(std::io::stderr().is_terminal()) { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// Formats a time, such as 0.4s, 12s, 2m31s or 1h02m.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        _ if seconds < 9.95 => format!("{seconds:.1}s"),
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        _ => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown: Vec<String> = [0.04, 9.94, 12.4, 151.0, 3725.0].into_iter().map(duration).collect();
        assert_eq!(shown, ["0.0s", "9.9s", "12s", "2m31s", "1h02m"]);
    }

    #[test]
    fn the_arguments_fit_together() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
