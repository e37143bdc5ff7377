//! Runs that are killed at any moment: the next run has the same results as an undisturbed one.

use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::fixture::{Project, contents, wait_until};

/// A project with a short training of two epochs.
fn short() -> Project {
    let project = Project::new();
    project.edit_manifest("images_per_class: 10", "images_per_class: 9");
    project.edit_manifest(
        "epochs: 1, images_per_class: 3,",
        "epochs: 2, network: original, mining: drawn, triplets: {train: 16, validation: 8, batch: 8},",
    );
    project
}

/// All files except those of the cache.
fn found(project: &Project) -> Vec<(String, Vec<u8>)> {
    let mut all = contents(&project.path("artifacts"));
    all.retain(|(path, _)| !path.starts_with(".cache"));
    all.extend(contents(&project.path("reports")));
    assert!(all.len() > 90, "{}", all.len());
    all
}

/// Kills `child` after `time`, unless it ends before. Returns whether it was killed.
fn kill_after(mut child: Child, time: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < time && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().unwrap().signal() == Some(9)
}

#[test]
fn at_every_point_where_something_is_written() {
    let undisturbed = short();
    undisturbed.succeed("run all");
    let expected = found(&undisturbed);
    // Some failpoints are passed often. The state is different at the first pass and at a later one.
    let passes = similiai::base::failpoint::POINTS.iter().flat_map(|point| {
        let often =
            ["blob-written", "blob-placed", "result-written", "file-checked-out", "file-removed"].contains(point);
        [Some(point.to_string()), often.then(|| format!("{point}:4"))]
    });
    for fault in passes.flatten() {
        let project = short();
        if fault.starts_with("file-removed") {
            project.succeed("run prepare --set prepare.images_per_class=10");
        }
        let killed = project.command().env("SIMILIAI_FAILPOINT", &fault).args(["run", "all"]).status().unwrap();
        assert_eq!(killed.signal(), Some(9), "{fault} is never passed");
        project.succeed("run all");
        assert!(found(&project) == expected, "{fault}");
        project.succeed("verify");
    }
}

/// How many random moments: `SIMILIAI_TEST_KILLS`, which CI sets to 50.
fn kills() -> u32 {
    std::env::var("SIMILIAI_TEST_KILLS").map_or(6, |count| count.parse().unwrap())
}

#[test]
fn at_random_moments() {
    let moments = kills();
    let undisturbed = short();
    let start = Instant::now();
    undisturbed.succeed("run all");
    let (mut time, expected) = (start.elapsed(), found(&undisturbed));
    let mut killed = 0;
    for moment in 0..moments {
        let project = short();
        // Spreads the moments over the run, with a small irregular offset.
        let share = (f64::from(moment) + f64::from(moment * 7919 % 100) / 100.0) / f64::from(moments);
        let in_time = kill_after(project.start("run all"), time.mul_f64(share));
        killed += u32::from(in_time);
        project.succeed("run all");
        assert!(found(&project) == expected, "killed after {share} of {time:?}");
        // Other tests may have slowed down the first run.
        if !in_time {
            time = time.mul_f64(0.8);
        }
    }
    assert!(killed > moments / 2, "only {killed} were killed before they ended");
}

#[test]
fn a_signal_ends_a_run_cleanly() {
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let project = Project::new();
        project.succeed("run split");
        let mut child = project.start("run train --set train.epochs=9999");
        wait_until("the first checkpoint", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            project.path("artifacts/.cache/scratch/train").exists()
        });
        std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(status));
        assert!(!project.path("artifacts/train").exists());
        let left = similiai::base::files::list(&project.path("artifacts/.cache/tmp")).unwrap();
        assert!(left.is_empty(), "{left:?}");
        project.succeed("verify");
        let next = project.similiai("run train --set train.epochs=9999 --dry-run");
        assert!(next.stdout.contains("train      would run"), "{}", next.stdout);
    }
}
