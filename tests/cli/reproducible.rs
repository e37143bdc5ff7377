//! The lock file, second runs, and what a file says about its origin.

use std::fs;

use crate::fixture::Project;

fn edit(project: &Project, path: &str, from: &str, to: &str) {
    let text = fs::read_to_string(project.path(path)).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(project.path(path), text.replace(from, to)).unwrap();
}

#[test]
fn a_clone_reproduces_what_is_locked_and_says_so() {
    let (project, clone) = (Project::new(), Project::new());
    assert_eq!(project.similiai("lock").status, 2, "nothing has run");
    project.succeed("run all");
    project.succeed("lock");
    fs::copy(project.path("pipeline.lock"), clone.path("pipeline.lock")).unwrap();
    let stdout = clone.succeed("run all --locked --summarize summary.md");
    let rows: Vec<&str> = stdout.lines().filter(|line| line.ends_with("  same")).collect();
    assert_eq!(rows.len(), 6, "{stdout}");
    assert!(rows[3].starts_with("train      ran"), "{stdout}");
    let summary = fs::read_to_string(clone.path("summary.md")).unwrap();
    assert!(summary.contains("| train | ran |") && summary.matches("| same |").count() == 6, "{summary}");
    let again = clone.succeed("run all --locked");
    assert_eq!(again.matches("cached   same").count(), 6, "{again}");
}

#[test]
fn only_what_the_lock_vouches_for_is_used_and_a_difference_is_named() {
    let project = Project::trained();
    project.edit_manifest("  benchmark: {uses: benchmark, needs: [prepare, train, embed], out: reports}\n", "");
    project.succeed("lock");
    let other = project.similiai("run all --locked --set prepare.size=32");
    assert_eq!(other.status, 6);
    assert!(other.stderr.contains("prepare: differs from pipeline.lock: parameter size: 64 → 32"), "{}", other.stderr);
    assert!(other.stdout.contains("prepare  failed   different"), "{}", other.stdout);

    // Simulates a lock file from a machine that computes other results.
    let digest = |path: &str| blake3::hash(&fs::read(project.path(path)).unwrap()).to_hex().to_string();
    edit(&project, "pipeline.lock", &digest("artifacts/embed/embeddings.parquet"), &"0".repeat(64));
    let listing = blake3::hash(
        format!(
            "embeddings.parquet\0{}\0{}\n",
            fs::metadata(project.path("artifacts/embed/embeddings.parquet")).unwrap().len(),
            digest("artifacts/embed/embeddings.parquet")
        )
        .as_bytes(),
    );
    edit(&project, "pipeline.lock", listing.to_hex().as_str(), &"1".repeat(64));
    let outcome = project.similiai("run all --locked");
    assert_eq!(outcome.status, 6, "{}", outcome.stdout);
    assert!(outcome.stdout.contains("the stored result is not the locked one"), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("embed    failed   different"), "{}", outcome.stdout);
    let told = format!("embed: embeddings.parquet: digest is {}", digest("artifacts/embed/embeddings.parquet"));
    assert!(outcome.stderr.contains(&told), "{}", outcome.stderr);
    let rerun = project.similiai("verify --rerun embed");
    assert_eq!(rerun.status, 6);
    assert!(rerun.stdout.contains("different as locked") && rerun.stderr.contains(&told), "{}", rerun.stderr);
}

#[test]
fn results_made_again_are_the_same() {
    let project = Project::new();
    project.succeed("run all --check-determinism");
    let rerun = project.succeed("verify --rerun");
    assert_eq!(rerun.matches("same as stored").count(), 6, "{rerun}");
    assert_eq!(fs::read_dir(project.path("artifacts/.cache/tmp")).unwrap().count(), 0);
    fs::remove_file(project.path("artifacts/prepare/cat/00001.png")).unwrap();
    project.succeed("verify --rerun split");
    assert_eq!(project.similiai("verify --rerun train --set train.epochs=3").status, 2, "it has not run");
}

#[test]
fn a_file_says_where_it_comes_from() {
    let project = Project::trained();
    let key = |name: &str| project.key(name, "");
    let embeddings =
        similiai::retrieval::embeddings::Embeddings::read(&project.path("artifacts/embed/embeddings.parquet")).unwrap();
    let fact = |name: &str| embeddings.facts[&format!("similiai.{name}")].clone();
    assert_eq!((fact("key"), fact("stage")), (key("embed"), "embed".to_owned()));
    assert!(!embeddings.facts.contains_key("similiai.seed"), "embed draws nothing");
    let read = |path: &str| fs::read(project.path(path)).unwrap();
    let says = |path: &str, what: &str| read(path).windows(what.len()).any(|bytes| bytes == what.as_bytes());
    for path in ["artifacts/train/model.safetensors", "artifacts/train/training_curves.png"] {
        assert!(says(path, &key("train")), "{path}");
    }
    for path in ["reports/results.json", "reports/benchmark_neighbours.png", "reports/benchmark_scores.png"] {
        assert!(says(path, &key("benchmark")), "{path}");
    }
    let folder = project.path("");
    let folder = folder.to_str().unwrap().trim_end_matches('/');
    for (path, bytes) in crate::fixture::contents(&project.path("artifacts")) {
        let bytes: &[u8] = &bytes;
        assert!(!bytes.windows(folder.len()).any(|part| part == folder.as_bytes()), "{path} names the folder");
    }
}

#[test]
fn one_changed_picture_is_one_item_of_each_stage() {
    let (project, clean) = (Project::new(), Project::new());
    project.succeed("run embed");
    let split = fs::read_to_string(project.path("artifacts/split/split.csv")).unwrap();
    let row = split.lines().position(|line| line.starts_with("bird/") && line.ends_with(",test")).unwrap();
    let place: usize = split.lines().nth(row).unwrap()["bird/".len()..][..5].parse().unwrap();
    let mut members = crate::fixture::sound();
    // Changes the third class of ten, in the middle of the record.
    members[1].bytes[(place * 10 + 2) * 3073 + 1500] ^= 64;
    for project in [&project, &clean] {
        fs::write(project.path("sample.tar.gz"), crate::fixture::archive(&members)).unwrap();
    }
    let stdout = project.succeed("run embed");
    for (name, state) in [("prepare", "1 of 100 items"), ("train", "cached"), ("embed", "1 of 100 items")] {
        let line = stdout.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.contains(state), "{stdout}");
    }
    clean.succeed("run embed");
    for path in ["prepare", "split", "train", "embed"] {
        let path = format!("artifacts/{path}");
        assert!(
            crate::fixture::contents(&project.path(&path)) == crate::fixture::contents(&clean.path(&path)),
            "{path}"
        );
    }
}
