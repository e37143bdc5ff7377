//! A tiny project: an archive of synthetic pictures, and a manifest that trains for a short time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use flate2::write::GzEncoder;
use tar::{Builder, Header};
use tempfile::TempDir;

pub const NAMES: &str = "plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n";
const PER_CLASS: usize = 10;

/// A member of an archive.
#[derive(Clone)]
pub struct Member {
    pub path: String,
    pub kind: tar::EntryType,
    pub bytes: Vec<u8>,
}

impl Member {
    pub fn file(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), kind: tar::EntryType::Regular, bytes: bytes.into() }
    }
}

/// A CIFAR-10 record. Each class has its own colours, and each picture has its own pattern.
pub fn record(label: u8, variant: usize) -> Vec<u8> {
    let value = |i: usize| {
        let (plane, place) = (i / 1024, i % 1024);
        let wave = (place % 32 * (1 + variant % 5) + place / 32 * (1 + variant / 5)) % 64;
        (usize::from(label) * (20 + 7 * plane) + wave) as u8
    };
    std::iter::once(label).chain((0..3072).map(value)).collect()
}

pub fn batch(per_class: usize) -> Vec<u8> {
    (0..per_class).flat_map(|variant| (0..10u8).flat_map(move |label| record(label, variant))).collect()
}

/// The members of a valid archive.
pub fn sound() -> Vec<Member> {
    vec![
        Member::file("cifar-10-batches-bin/batches.meta.txt", NAMES),
        Member::file("cifar-10-batches-bin/data_batch_1.bin", batch(PER_CLASS)),
    ]
}

pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut tar = Builder::new(GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for member in members {
        let mut header = Header::new_gnu();
        header.set_size(member.bytes.len() as u64);
        header.set_mode(0o644);
        header.set_entry_type(member.kind);
        // The builder refuses the paths that an attacker would choose, so the name is written directly.
        header.as_old_mut().name[..member.path.len()].copy_from_slice(member.path.as_bytes());
        if member.kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_cksum();
        tar.append(&header, member.bytes.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

const MANIFEST: &str = "\
version: 1
seed: 7
stages:
  fetch: {uses: fetch, source: sample.tar.gz}
  prepare: {uses: prepare, needs: [fetch], images_per_class: 10, size: 64}
  split: {uses: split, needs: [prepare]}
  train: {uses: train, needs: [prepare, split], epochs: 1, images_per_class: 3, validation: 0.25, embed: {shift: 0}}
  embed: {uses: embed, needs: [prepare, split, train]}
  benchmark: {uses: benchmark, needs: [prepare, train, embed], out: reports}
";

pub struct Project {
    folder: TempDir,
}

pub struct Outcome {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn new() -> Self {
        Self::with(&archive(&sound()))
    }

    /// A project in which everything has run: a copy of one that all tests of a process share.
    pub fn trained() -> Self {
        static TEMPLATE: LazyLock<Project> = LazyLock::new(|| {
            let template = Project::new();
            template.succeed("run all");
            template
        });
        let project = Self { folder: tempfile::tempdir().unwrap() };
        // With links and times, so that the cache knows its files again.
        let mut copy = std::process::Command::new("cp");
        copy.args(["-a", "--reflink=auto"]).arg(TEMPLATE.path(".")).arg(project.path(""));
        assert!(copy.status().unwrap().success());
        project
    }

    pub fn with(archive: &[u8]) -> Self {
        let project = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(project.path("sample.tar.gz"), archive).unwrap();
        std::fs::write(project.path("pipeline.yaml"), MANIFEST).unwrap();
        project
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    pub fn edit_manifest(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("pipeline.yaml")).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.path("pipeline.yaml"), text.replace(from, to)).unwrap();
    }

    /// Runs `similiai` with `arguments`, split into words as a shell does.
    pub fn similiai(&self, arguments: &str) -> Outcome {
        self.similiai_on(None, arguments)
    }

    /// The program, to be run in this project.
    pub fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("similiai"));
        command.current_dir(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Runs `similiai` on a vector unit.
    pub fn similiai_on(&self, unit: Option<&str>, arguments: &str) -> Outcome {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("similiai"));
        command.envs(unit.map(|unit| ("SIMILIAI_SIMD", unit)));
        let output = command.current_dir(self.folder.path()).args(words(arguments)).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Outcome { status: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts `similiai` without waiting for its end.
    pub fn start(&self, arguments: &str) -> std::process::Child {
        self.command().args(words(arguments)).spawn().unwrap()
    }

    /// Runs `similiai`, which must succeed. Returns stdout.
    pub fn succeed(&self, arguments: &str) -> String {
        let outcome = self.similiai(arguments);
        assert_eq!(outcome.status, 0, "{arguments}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    /// The key of an instance, with these options.
    pub fn key(&self, instance: &str, options: &str) -> String {
        let explained = self.succeed(&format!("explain {instance} --json {options}"));
        let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
        explained["key"].as_str().unwrap().to_owned()
    }

    /// Runs `similiai` as a user without root's rights, for whom file modes matter. Returns exit status and stderr.
    pub fn as_nobody(&self, arguments: &[&str]) -> (Option<i32>, String) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        use std::os::unix::process::CommandExt;
        let program = self.path("similiai");
        std::fs::copy(assert_cmd::cargo::cargo_bin!("similiai"), &program).unwrap();
        let mut command = std::process::Command::new(&program);
        command.current_dir(self.path("")).args(arguments);
        if std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
            std::fs::set_permissions(self.path(""), PermissionsExt::from_mode(0o777)).unwrap();
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// `name state` of each instance, from the last line of `run --json`.
    pub fn states(&self, arguments: &str) -> Vec<String> {
        let stdout = self.similiai(&format!("{arguments} --json")).stdout;
        let last: serde_json::Value = serde_json::from_str(stdout.lines().last().expect("a line")).unwrap();
        assert_eq!(last["event"], "finished");
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        last["stages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|stage| word(&stage["name"]) + " " + &word(&stage["state"]))
            .collect()
    }
}

/// The words of a line, as a shell splits it.
fn words(line: &str) -> Vec<String> {
    shlex::split(line).unwrap_or_else(|| panic!("quotes do not match: {line}"))
}

/// Waits until `holds`, a minute at most.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} has not happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Overwrites a file in place, even if it is read-only.
pub fn overwrite(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    let before = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, before).unwrap();
}

/// Every file below `folder` with its content, without the cache's files about times and this machine.
pub fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let list = similiai::base::files::list(folder).unwrap();
    let own = [".cache/history.jsonl", ".cache/lock", ".cache/seen", ".cache/scrub", ".index"];
    let kept = list.into_iter().filter(|path| !own.iter().any(|end| path.ends_with(end)));
    kept.map(|path| (path.clone(), std::fs::read(folder.join(path)).unwrap())).collect()
}
