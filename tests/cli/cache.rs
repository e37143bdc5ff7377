//! Which stages run again, and why; and that only one run works at a time.

use crate::fixture::{Project, overwrite, wait_until};

#[test]
fn a_deleted_file_is_checked_out_again_and_a_touched_one_changes_nothing() {
    let project = Project::new();
    project.succeed("run prepare");
    let png = project.path("artifacts/prepare/cat/00002.png");
    let before = std::fs::read(&png).unwrap();
    std::fs::remove_file(&png).unwrap();
    let stale = project.similiai("status --json");
    assert!(stale.stdout.contains("\"1 file (cat/00002.png) missing\""), "{}", stale.stdout);
    let stdout = project.succeed("run prepare");
    assert!(stdout.contains("prepare    cached     1 file (cat/00002.png) missing, put back"), "{stdout}");
    assert_eq!(std::fs::read(&png).unwrap(), before);

    std::fs::File::open(&png).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let stdout = project.succeed("run prepare");
    assert!(stdout.lines().all(|line| line.ends_with("cached")), "{stdout}");
}

#[test]
fn a_changed_file_is_made_again() {
    let project = Project::new();
    project.succeed("run prepare");
    let png = project.path("artifacts/prepare/cat/00002.png");
    let before = std::fs::read(&png).unwrap();
    // Writes in place, so that the stored file changes too.
    overwrite(&png, b"spoilt");
    let stdout = project.succeed("run prepare");
    assert!(stdout.contains("0 of 100 items; in the store 1 file (cat/00002.png) missing"), "{stdout}");
    assert!(stdout.contains("kept aside: 1 file (artifacts/.cache/altered/prepare/cat/00002.png)"), "{stdout}");
    assert_eq!(std::fs::read(&png).unwrap(), before);
    assert_eq!(std::fs::read(project.path("artifacts/.cache/altered/prepare/cat/00002.png")).unwrap(), b"spoilt");
}

#[test]
fn a_file_of_another_result_is_detected_even_with_the_same_time() {
    let project = Project::new();
    project.edit_manifest("  train:", "  other: {uses: split, needs: [prepare], test: 0.5}\n  train:");
    project.succeed("run split other");
    let (from, to) = (project.path("artifacts/other/split.csv"), project.path("artifacts/split/split.csv"));
    let before = std::fs::read(&to).unwrap();
    // Same length and same names; only the subsets differ. Writes in place and sets the time, as `cp -p` does.
    let foreign = std::fs::read_to_string(&from).unwrap();
    let padded = foreign + &"\n".repeat(4096);
    let time = std::fs::metadata(&from).unwrap().modified().unwrap();
    overwrite(&to, &padded.as_bytes()[..before.len()]);
    std::fs::File::open(&to).unwrap().set_modified(time).unwrap();
    assert_eq!(project.states("run split"), ["fetch cached", "prepare cached", "split ran"]);
    assert_eq!(std::fs::read(&to).unwrap(), before);
}

#[test]
fn output_directories_may_be_swapped() {
    let project = Project::new();
    let other = |one: &str, two: &str| {
        format!(
            "  one: {{uses: split, needs: [prepare], out: {one}}}\n  two: {{uses: split, needs: [prepare], out: {two}, test: 0.5}}\n  train:"
        )
    };
    project.edit_manifest("  train:", &other("x", "y"));
    project.succeed("run one two");
    let (x, y) =
        (std::fs::read(project.path("x/split.csv")).unwrap(), std::fs::read(project.path("y/split.csv")).unwrap());
    project.edit_manifest(&other("x", "y"), &other("y", "x"));
    project.succeed("run one two");
    assert_eq!(std::fs::read(project.path("y/split.csv")).unwrap(), x);
    assert_eq!(std::fs::read(project.path("x/split.csv")).unwrap(), y);
}

#[test]
fn a_damaged_record_is_made_again() {
    let project = Project::new();
    project.succeed("run split");
    for entry in std::fs::read_dir(project.path("artifacts/.cache/results")).unwrap() {
        std::fs::write(entry.unwrap().path(), "{").unwrap();
    }
    assert_eq!(project.states("run split"), ["fetch ran", "prepare ran", "split ran"]);
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_is_lost_is_a_failure() {
    let project = Project::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = std::process::Command::new(assert_cmd::cargo::cargo_bin!("similiai"))
        .args(["-C", project.path("").to_str().unwrap(), "status", "--json"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("cannot write to stdout"));
}

#[test]
fn a_parameter_changed_and_changed_back() {
    let project = Project::new();
    project.succeed("run prepare");
    let stdout = project.succeed("run prepare --set prepare.size=32");
    assert!(stdout.contains("parameter size: 64 → 32"), "{stdout}");
    assert_eq!(project.states("run prepare"), ["fetch cached", "prepare cached"]);
    let explained = project.succeed("explain prepare --set prepare.sharpen.amount=2.0");
    assert!(explained.contains("stale: parameter sharpen.amount: 0.5 → 2.0"), "{explained}");
}

#[test]
fn an_input_that_gives_the_same_bytes_causes_no_more_runs() {
    let project = Project::new();
    project.succeed("run split");
    // The archive changes, but not the pictures in use: fetch runs again, and the later stages do not.
    let mut members = crate::fixture::sound();
    members.push(crate::fixture::Member::file("cifar-10-batches-bin/test_batch.bin", crate::fixture::batch(2)));
    std::fs::write(project.path("sample.tar.gz"), crate::fixture::archive(&members)).unwrap();
    assert_eq!(project.states("run split"), ["fetch ran", "prepare cached", "split cached"]);
}

#[test]
fn status_tells_fresh_from_stale_from_missing() {
    let project = Project::new();
    assert_eq!(project.similiai("status --check").status, 3);
    project.succeed("run prepare");
    let status = project.succeed("status --times --set prepare.size=32");
    let states: Vec<&str> = status.lines().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    assert_eq!(states, ["fresh", "stale", "missing", "missing", "missing", "missing"]);
    assert!(status.contains("parameter size: 64 → 32"), "{status}");
}

#[test]
fn one_run_at_a_time() {
    let project = Project::new();
    project.succeed("run fetch");
    let lock = std::fs::File::options().write(true).open(project.path("artifacts/.cache/lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(project.path("artifacts/.cache/lock"), "12345\n").unwrap();
    let outcome = project.similiai("run fetch");
    assert_eq!(outcome.status, 5);
    assert!(outcome.stderr.contains("process 12345"), "{}", outcome.stderr);
    assert_eq!(project.similiai("run fetch --dry-run").status, 0);
    drop(lock);
    project.succeed("run fetch");
}

#[test]
fn a_killed_run_leaves_nothing_half_done() {
    let project = Project::new();
    project.succeed("run split");
    let mut run = std::process::Command::new(assert_cmd::cargo::cargo_bin!("similiai"))
        .args(["-C", project.path("").to_str().unwrap(), "-q", "run", "train", "--set", "train.epochs=9999"])
        .spawn()
        .unwrap();
    let working = || std::fs::read_dir(project.path("artifacts/.cache/tmp")).map_or(0, Iterator::count) > 0;
    wait_until("the training", working);
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(!project.path("artifacts/train").exists());
    assert_eq!(project.states("run train"), ["fetch cached", "prepare cached", "split cached", "train ran"]);
    assert_eq!(std::fs::read_dir(project.path("artifacts/.cache/tmp")).unwrap().count(), 0);
}
