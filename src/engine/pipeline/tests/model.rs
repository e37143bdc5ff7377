//! Tests the engine against a naive one that always builds everything: applies random sequences of user actions and
//! accidents to a project, and after each run compares the files with those of the naive engine.

use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::base::failpoint;
use crate::engine::cache::{Budget, OutputDir};

/// Default number of sequences; `SIMILIAI_SEQUENCES` overrides it.
const SEQUENCES: u32 = 40;
const FOLDER: &str = "SIMILIAI_MODEL_FOLDER";

/// Joins the files from `shout` into one file.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(default, deny_unknown_fields)]
struct Join {
    between: u32,
}

impl Stage for Join {
    const NAME: &'static str = "join";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "joins files";
    const NEEDS: &'static [&'static str] = &["shout"];

    fn run(&self, context: &Context) -> Result<()> {
        let input = context.inputs.result("shout")?;
        let mut joined = Vec::new();
        for file in input.contents.iter() {
            joined.extend(&fs::read(input.folder.join(file.path))?[..3]);
            joined.extend(self.between.to_string().bytes());
        }
        context.outputs.write("deep/joined.txt", &joined)
    }
}

static KINDS: [Kind; 2] = [kind::<Shout>(), kind::<Join>()];

/// Something that can happen to a project.
#[derive(Debug, Clone)]
enum Step {
    /// Gives `shout` other lines to read.
    Edit(Vec<u8>),
    Touch,
    Between(u32),
    Size(u32),
    Run,
    /// Kills a run at the failpoint of this number, when it is reached for this many times.
    RunKilled(usize, u8),
    TwoRuns,
    Gc,
    Repair,
    /// Changes the checked out file or folder of this number.
    DeleteLaid(usize),
    OverwriteLaid(usize),
    LinkLaid(usize),
    StrangerLaid,
    /// Changes the file or folder of this number in the cache.
    DeleteOwn(usize),
    OverwriteOwn(usize),
    LinkOwn(usize),
    /// Another program removes the temporary folders.
    Clean,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::btree_set(b'a'..b'f', 1..5).prop_map(|lines| Step::Edit(lines.into_iter().collect())),
        1 => Just(Step::Touch),
        1 => (0u32..3).prop_map(Step::Between),
        1 => (0u32..2).prop_map(Step::Size),
        5 => Just(Step::Run),
        4 => (0..failpoint::POINTS.len(), 1u8..4).prop_map(|(point, pass)| Step::RunKilled(point, pass)),
        1 => Just(Step::TwoRuns),
        1 => Just(Step::Gc),
        1 => Just(Step::Repair),
        2 => any::<usize>().prop_map(Step::DeleteLaid),
        2 => any::<usize>().prop_map(Step::OverwriteLaid),
        2 => any::<usize>().prop_map(Step::LinkLaid),
        1 => Just(Step::StrangerLaid),
        2 => any::<usize>().prop_map(Step::DeleteOwn),
        2 => any::<usize>().prop_map(Step::OverwriteOwn),
        1 => any::<usize>().prop_map(Step::LinkOwn),
        1 => Just(Step::Clean),
    ]
}

/// A project, and everything that a naive engine needs to know.
struct World {
    folder: tempfile::TempDir,
    lines: Vec<u8>,
    size: u32,
    between: u32,
}

type Files = BTreeMap<String, Vec<u8>>;

impl World {
    fn new() -> Self {
        // Use a file system in memory if there is one, because every step syncs.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let world = Self { folder, lines: vec![b'a'], size: 0, between: 0 };
        fs::create_dir_all(world.path("home/photos")).unwrap();
        fs::write(world.path("home/diary.txt"), "mine").unwrap();
        fs::write(world.path("home/photos/1.jpg"), "photo").unwrap();
        world.write();
        world
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.folder.path().join(below)
    }

    fn write(&self) {
        let text: String = self.lines.iter().map(|line| format!("{}\n", char::from(*line))).collect();
        fs::create_dir_all(self.path("p")).unwrap();
        fs::write(self.path("p/items"), text).unwrap();
        let (size, between) = (self.size, self.between);
        let stages =
            format!("  one: {{uses: shout, size: {size}}}\n  two: {{uses: join, needs: [one], between: {between}}}\n");
        fs::write(self.path("p/pipeline.yaml"), format!("version: 1\nstages:\n{stages}")).unwrap();
    }

    fn project(&self) -> Project {
        open(&self.path("p"))
    }

    /// The files that the naive engine builds.
    fn expected(&self) -> Files {
        let mut files = Files::new();
        let mut joined = Vec::new();
        for line in &self.lines {
            let loud = line.to_ascii_uppercase();
            files.insert(format!("one/{}.txt", char::from(*line)), vec![loud; 5000]);
            joined.extend([loud; 3]);
            joined.extend(self.between.to_string().bytes());
        }
        files.insert("two/deep/joined.txt".to_owned(), joined);
        files
    }

    fn found(&self) -> Files {
        let read = |name: String| {
            let content = fs::read(self.path("p/artifacts").join(&name)).unwrap();
            (name, content)
        };
        let of = |instance: &str| {
            let names = crate::base::files::list(&self.path("p/artifacts").join(instance)).unwrap();
            names.into_iter().map(|name| format!("{instance}/{name}")).collect::<Vec<String>>()
        };
        [of("one"), of("two")].concat().into_iter().map(read).collect()
    }

    /// The user's own files, which nothing may change.
    fn home(&self) -> Files {
        let home = self.path("home");
        let names = crate::base::files::list(&home).unwrap();
        names.into_iter().map(|name| (name.clone(), fs::read(home.join(name)).unwrap())).collect()
    }

    /// All files and folders below `below`, without links, sorted.
    fn entries(&self, below: &str) -> Vec<std::path::PathBuf> {
        let all = walkdir::WalkDir::new(self.path(below)).min_depth(1).sort_by_file_name();
        let all = all.into_iter().filter_map(Result::ok).filter(|entry| !entry.path_is_symlink());
        all.map(walkdir::DirEntry::into_path)
            .filter(|path| below != "p/artifacts" || !path.starts_with(self.path("p/artifacts/.cache")))
            .collect()
    }

    fn pick(&self, below: &str, number: usize) -> Option<std::path::PathBuf> {
        let all = self.entries(below);
        (!all.is_empty()).then(|| all[number % all.len()].clone())
    }

    fn child(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "pipeline::tests::model::child", "--ignored"]).env(FOLDER, self.path("p"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Edit(lines) => self.lines.clone_from(lines),
            Step::Between(between) => self.between = *between,
            Step::Size(size) => self.size = *size,
            Step::Touch => {
                let items = fs::File::options().write(true).open(self.path("p/items"))?;
                items.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))?;
                return Ok(());
            }
            Step::Run => return run_all(&self.project()),
            Step::RunKilled(point, pass) => {
                let name = failpoint::POINTS[*point];
                // The run may end before it reaches that point.
                self.child().env("SIMILIAI_FAILPOINT", format!("{name}:{pass}")).status()?;
            }
            Step::TwoRuns => {
                let mut other = self.child().spawn()?;
                // One of them may fail, because the other holds the lock.
                let own = run_all(&self.project());
                let other = other.wait()?;
                assert!(own.is_ok() || other.success(), "{own:?}");
            }
            Step::Gc => {
                let project = self.project();
                let _lock = project.store.lock()?;
                let budget = Budget { bytes: Some(0), keep_last: 0, grace: std::time::Duration::ZERO };
                project.store.collect(&budget, false)?;
            }
            Step::Repair => {
                let project = self.project();
                let _lock = project.store.lock()?;
                let checked_out = project.store.all_checked_out()?;
                let contents: Vec<_> =
                    checked_out.iter().map(|(_, checked_out)| project.store.contents(&checked_out.digest)).collect();
                let places = checked_out.iter().zip(&contents).filter_map(|((name, checked_out), contents)| {
                    let place = OutputDir { instance: name, project: &project.manifest.project, out: &checked_out.out };
                    Some((place, &**contents.as_ref()?))
                });
                let damage = project.store.verify(|_| ())?;
                project.store.repair(&damage, &places.collect::<Vec<_>>())?;
                // Checked out results that lost stored files stay; the next run makes them again.
                assert!(project.store.verify(|_| ())?.own.is_empty());
            }
            Step::DeleteLaid(number) => remove(self.pick("p/artifacts", *number)),
            Step::OverwriteLaid(number) => overwrite(self.pick("p/artifacts", *number)),
            Step::LinkLaid(number) => {
                if let Some(path) = self.pick("p/artifacts", *number) {
                    let to = if path.is_dir() { "home" } else { "home/diary.txt" };
                    remove(Some(path.clone()));
                    symlink(self.path(to), path)?;
                }
            }
            Step::StrangerLaid => {
                let (folder, file) = (self.path("p/artifacts/one"), self.path("p/artifacts/one/stranger.txt"));
                if crate::base::files::is_folder(&folder) && !file.is_symlink() {
                    fs::write(file, "stranger")?;
                }
            }
            Step::DeleteOwn(number) => remove(self.pick("p/artifacts/.cache", *number)),
            Step::OverwriteOwn(number) => overwrite(self.pick("p/artifacts/.cache", *number)),
            Step::LinkOwn(number) => {
                // The engine refuses a folder that is a link, so only files are replaced by links. It must repair
                // these.
                if let Some(path) = self.pick("p/artifacts/.cache", *number).filter(|path| path.is_file()) {
                    fs::remove_file(&path)?;
                    symlink(self.path("home/diary.txt"), path)?;
                }
            }
            Step::Clean => crate::base::files::remove_folder(&self.path("p/artifacts/.cache/tmp"))?,
        }
        self.write();
        Ok(())
    }
}

fn open(folder: &Path) -> Project {
    Project::new(Manifest::load(&folder.join("pipeline.yaml"), &KINDS, &Variation::default()).unwrap(), &[]).unwrap()
}

fn run_all(project: &Project) -> Result<()> {
    let _lock = project.store.lock()?;
    let reports = run(project, Options::default())?;
    let failed = reports.iter().find_map(|report| report.error.clone());
    failed.map_or(Ok(()), |error| Err(anyhow::anyhow!(error)))
}

fn remove(path: Option<std::path::PathBuf>) {
    match path {
        Some(path) if path.is_dir() => fs::remove_dir_all(path).unwrap(),
        Some(path) => fs::remove_file(path).unwrap(),
        None => {}
    }
}

/// Overwrites a file in place, as a careless program would.
fn overwrite(path: Option<std::path::PathBuf>) {
    use std::os::unix::fs::PermissionsExt;
    if let Some(path) = path.filter(|path| path.is_file()) {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        match bytes.get_mut(middle) {
            Some(byte) => *byte ^= 1,
            None => bytes.push(1),
        }
        fs::write(path, bytes).unwrap();
    }
}

/// Not a test: runs the project in a separate process that can be killed.
#[test]
#[ignore = "started by the test of the model"]
fn child() {
    if let Ok(folder) = std::env::var(FOLDER) {
        let done = run_all(&open(Path::new(&folder)));
        std::process::exit(i32::from(done.is_err()));
    }
}

#[test]
fn every_run_gives_what_a_naive_engine_gives() {
    let cases = std::env::var("SIMILIAI_SEQUENCES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(SEQUENCES);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let sequences = prop::collection::vec(step(), 1..14);
    let done = runner.run(&sequences, |steps| {
        let mut world = World::new();
        let home = world.home();
        for step in steps.iter().chain([&Step::Run]) {
            let taken = world.take(step);
            prop_assert!(taken.is_ok(), "{step:?}: {taken:?}");
            if matches!(step, Step::Run) {
                prop_assert!(world.found() == world.expected(), "after {step:?}");
                // A second run has nothing to do.
                let states: Vec<Ran> =
                    run(&world.project(), Options::default()).unwrap().iter().map(|it| it.state).collect();
                prop_assert_eq!(states, [Ran::Cached, Ran::Cached]);
            }
            prop_assert!(world.home() == home, "the user's own files changed at {step:?}");
        }
        Ok(())
    });
    done.unwrap();
}
