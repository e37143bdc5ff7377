//! Damage of every kind is found, named and repaired, and damaged content is never used.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::fixture::{Project, contents, overwrite};

const SPLIT: &str = "artifacts/split/split.csv";

/// A project whose split has run, and the content of its result.
fn with_split() -> (Project, Vec<u8>) {
    let project = Project::new();
    project.succeed("run split");
    let split = fs::read(project.path(SPLIT)).unwrap();
    (project, split)
}

/// The path of a content in the store.
fn blob(project: &Project, content: &[u8]) -> PathBuf {
    let digest = blake3::hash(content).to_hex().to_string();
    project.path(&format!("artifacts/.cache/blobs/{}/{}", &digest[..2], &digest[2..]))
}

/// Replaces the stored file by another one, so that the checked-out file does not change.
fn replace(path: &PathBuf, content: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn a_flipped_byte_is_found_though_the_time_is_set_back() {
    let (project, before) = with_split();
    let path = project.path(SPLIT);
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = before.clone();
    bytes[40] ^= 1;
    overwrite(&path, &bytes);
    fs::File::open(&path).unwrap().set_modified(time).unwrap();
    let status = project.succeed("status");
    assert!(status.contains("stale    1 file (split.csv) modified"), "{status}");
    let stdout = project.succeed("run split");
    assert!(stdout.contains("split      ran") && stdout.contains("in the store 1 file (split.csv)"), "{stdout}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read(project.path("artifacts/.cache/altered/split/split.csv")).unwrap(), bytes);
}

#[test]
fn a_stored_file_that_is_damaged_is_never_checked_out() {
    let (project, before) = with_split();
    let mut flipped = before.clone();
    flipped[40] ^= 1;
    for damaged in [&before[..before.len() / 2], &flipped, &[]] {
        replace(&blob(&project, &before), damaged);
        fs::remove_file(project.path(SPLIT)).unwrap();
        let stdout = project.succeed("run split");
        assert!(stdout.contains("split      ran") && stdout.contains("in the store 1 file (split.csv)"), "{stdout}");
        assert_eq!(fs::read(project.path(SPLIT)).unwrap(), before);
        project.succeed("verify");
    }
}

#[test]
fn damage_is_named_by_verify_and_repaired() {
    let (project, before) = with_split();
    let png = fs::read(project.path("artifacts/prepare/cat/00002.png")).unwrap();
    // The checked-out split stays undamaged; the checked-out picture is damaged too.
    replace(&blob(&project, &before), b"damaged");
    overwrite(&project.path("artifacts/prepare/cat/00002.png"), b"damaged");
    let outcome = project.similiai("verify");
    assert_eq!(outcome.status, 4);
    for told in
        ["2 damaged", "split (split): in the store 1 file (split.csv) modified", "1 file (cat/00002.png) modified"]
    {
        assert!(outcome.stdout.contains(told), "{}", outcome.stdout);
    }
    let json: serde_json::Value = serde_json::from_str(&project.similiai("verify --json").stdout).unwrap();
    assert_eq!(json["damaged_files"].as_array().unwrap().len(), 2);
    let repaired = project.succeed("verify --repair");
    assert!(repaired.contains("prepare    ran"), "{repaired}");
    assert!(!repaired.lines().any(|line| line.starts_with("split ") && line.contains(" ran ")), "{repaired}");
    assert_eq!(fs::read(project.path("artifacts/prepare/cat/00002.png")).unwrap(), png);
    project.succeed("verify");
}

#[test]
fn repair_makes_only_checked_out_results_again() {
    let project = Project::new();
    project.succeed("run prepare --set prepare.size=32");
    overwrite(&project.path("artifacts/prepare/images.csv"), b"damaged");
    let repaired = project.succeed("verify --repair");
    assert!(repaired.contains("made with other parameters and is lost"), "{repaired}");
    assert!(!repaired.lines().any(|line| line.contains(" ran ")), "{repaired}");
    project.succeed("verify");
    let plan = project.succeed("run prepare --set prepare.size=32 --dry-run");
    assert!(plan.contains("prepare    would run"), "{plan}");
    // With its parameters, the repair makes it again.
    project.succeed("run prepare --set prepare.size=32");
    overwrite(&project.path("artifacts/prepare/images.csv"), b"damaged");
    let repaired = project.succeed("verify --repair --set prepare.size=32");
    assert!(repaired.contains("prepare    ran"), "{repaired}");
    project.succeed("verify");
}

#[test]
fn strangers_are_kept_aside_where_only_results_lie_and_left_alone_elsewhere() {
    let project = Project::trained();
    fs::write(project.path("artifacts/prepare/cat/mine.png"), "mine").unwrap();
    fs::write(project.path("reports/mine.txt"), "mine").unwrap();
    let stdout = project.succeed("run all");
    assert!(stdout.contains("1 file (cat/mine.png) not part of this result, moved away"), "{stdout}");
    assert!(!project.path("artifacts/prepare/cat/mine.png").exists());
    assert_eq!(fs::read(project.path("artifacts/.cache/altered/prepare/cat/mine.png")).unwrap(), b"mine");
    assert_eq!(fs::read(project.path("reports/mine.txt")).unwrap(), b"mine");
    // A copy of a result belongs to the user too.
    fs::copy(project.path(SPLIT), project.path("artifacts/split/copy.csv")).unwrap();
    project.succeed("run split --set split.test=0.5");
    assert!(project.path("artifacts/.cache/altered/split/copy.csv").exists());
    project.succeed("run split");
    assert_eq!(project.similiai("status --check").status, 0);
}

#[test]
fn a_file_of_a_user_in_the_place_of_a_result_is_kept_aside() {
    let project = Project::new();
    fs::create_dir_all(project.path("artifacts/split")).unwrap();
    fs::write(project.path(SPLIT), "mine").unwrap();
    let stdout = project.succeed("run split");
    assert!(stdout.contains("kept aside: 1 file (artifacts/.cache/altered/split/split.csv)"), "{stdout}");
    assert_eq!(fs::read(project.path("artifacts/.cache/altered/split/split.csv")).unwrap(), b"mine");
}

#[test]
fn a_full_disk_ends_a_run_with_a_clear_error_and_nothing_wrong() {
    let (whole, project) = (Project::new(), Project::new());
    whole.succeed("run split");
    // Limits the size of files to a few blocks, so that writes fail as on a full disk.
    for blocks in [0, 2, 16, 128] {
        let program = assert_cmd::cargo::cargo_bin!("similiai").display();
        let script = format!("trap '' 25; ulimit -f {blocks}; exec {program} run split");
        let run =
            std::process::Command::new("sh").current_dir(project.path("")).args(["-c", &script]).output().unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{blocks}: {stderr}");
        assert!(stderr.contains("File too large") && stderr.contains("cannot"), "{blocks}: {stderr}");
    }
    project.succeed("run split");
    assert!(contents(&project.path("artifacts")) == contents(&whole.path("artifacts")));
}

#[test]
fn a_store_that_cannot_be_written_is_a_clear_error_and_still_readable() {
    let (project, _) = with_split();
    let cache = project.path("artifacts/.cache");
    fs::set_permissions(&cache, PermissionsExt::from_mode(0o555)).unwrap();
    fs::set_permissions(cache.join("lock"), PermissionsExt::from_mode(0o444)).unwrap();
    let (status, stderr) = project.as_nobody(&["run", "split", "--set", "split.test=0.5"]);
    assert_eq!(status, Some(1), "{stderr}");
    assert!(stderr.contains("cannot open") && stderr.contains("lock") && stderr.contains("denied"), "{stderr}");
    assert_eq!(project.as_nobody(&["status"]).0, Some(0));
    fs::set_permissions(&cache, PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn two_runs_at_once_leave_one_result() {
    let (project, whole) = (Project::new(), Project::new());
    whole.succeed("run split");
    let runs: Vec<_> = (0..3).map(|_| project.start("run split")).collect();
    let codes: Vec<_> = runs.into_iter().map(|mut run| run.wait().unwrap().code().unwrap()).collect();
    assert!(codes.contains(&0) && codes.iter().all(|code| [0, 5].contains(code)), "{codes:?}");
    assert_eq!(project.states("run split"), ["fetch cached", "prepare cached", "split cached"]);
    assert!(contents(&project.path("artifacts")) == contents(&whole.path("artifacts")));
}

#[test]
fn gc_never_removes_checked_out_results() {
    let project = Project::new();
    project.succeed("run split --set prepare.size=32");
    project.succeed("run split");
    let before = contents(&project.path("artifacts/prepare"));
    let kept = project.succeed("gc --keep-last 0");
    assert!(kept.starts_with("0 results, 0 stored files"), "what was just used has a time of grace: {kept}");
    let would = project.succeed("gc --keep-last 0 --grace 0s --dry-run --json");
    let would: serde_json::Value = serde_json::from_str(&would).unwrap();
    assert_eq!((would["results"].as_array().unwrap().len(), &would["dry_run"]), (2, &true.into()), "{would}");
    let done = project.succeed("gc --keep-last 0 --grace 0s");
    assert!(done.contains("prepare ") && done.contains("2 results, 102 stored files"), "{done}");
    assert_eq!(project.states("run split"), ["fetch cached", "prepare cached", "split cached"]);
    assert!(contents(&project.path("artifacts/prepare")) == before);
    project.succeed("verify");
    assert_eq!(project.states("run prepare --set prepare.size=32"), ["fetch cached", "prepare ran"]);
}
