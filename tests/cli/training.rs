//! Training: it learns, it can be interrupted, and it reports what goes wrong.

use std::path::PathBuf;

use crate::fixture::{Project, archive, record, sound, wait_until};

/// A record whose class shows only in the direction of its stripes, not in its colours.
fn striped(label: u8, variant: usize) -> Vec<u8> {
    let (sin, cos) = (f64::from(label) * std::f64::consts::PI / 10.0).sin_cos();
    let value = |i: usize| {
        let (plane, x, y) = (i / 1024, i % 32, i % 1024 / 32);
        let wave = (1.2 * (x as f64 * cos + y as f64 * sin) + 2.4 * variant as f64).sin();
        let colour = (variant * (37 + 26 * plane) + usize::from(label) * 53 * (plane + 1)) % 128;
        (64.0 + colour as f64 + 60.0 * wave) as u8
    };
    std::iter::once(label).chain((0..3072).map(value)).collect()
}

fn model(project: &Project) -> Vec<u8> {
    std::fs::read(project.path("artifacts/train/model.safetensors")).unwrap()
}

fn checkpoint(project: &Project) -> Option<PathBuf> {
    let mut all = std::fs::read_dir(project.path("artifacts/.cache/scratch/train")).ok()?;
    Some(all.next()?.ok()?.path().join("checkpoint.safetensors")).filter(|path| path.exists())
}

fn log(project: &Project) -> String {
    std::fs::read_to_string(project.path("artifacts/train/training_log.csv")).unwrap()
}

#[test]
fn training_makes_retrieval_better() {
    let mut members = sound();
    members[1].bytes = (0..20).flat_map(|variant| (0..10).flat_map(move |label| striped(label, variant))).collect();
    let project = Project::with(&archive(&members));
    let precision = |parameters: &str| {
        project.succeed(&format!("run all --set prepare.images_per_class=20 {parameters}"));
        let results: serde_json::Value =
            serde_json::from_slice(&std::fs::read(project.path("reports/results.json")).unwrap()).unwrap();
        results["protocols"]["test-vs-train"]["metrics"]["precision@5"]["value"].as_f64().unwrap()
    };
    let untrained = precision("--set train.learning_rate=1e-9");
    let trained = precision("--set train.epochs=10 --set train.cross_entropy.cutmix=0");
    assert!(trained > untrained + 0.2, "{untrained} → {trained}");
}

#[test]
fn a_killed_training_resumes_to_the_same_bytes() {
    let original = " --set train.network=original --set train.mining=drawn --set train.triplets.train=60";
    for options in ["", " --set train.keep=best --set train.evaluate_every=1", original] {
        let run = format!("run train --set train.epochs=6{options}");
        let (whole, killed) = (Project::new(), Project::new());
        whole.succeed(&run);
        let mut child = killed.start(&run);
        wait_until("the first checkpoint", || checkpoint(&killed).is_some() || child.try_wait().unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!killed.path("artifacts/train").exists(), "it ended before it could be killed");
        let outcome = killed.similiai(&run);
        assert_eq!(outcome.status, 0, "{}", outcome.stderr);
        assert!(outcome.stderr.contains("resuming after epoch"), "{}", outcome.stderr);
        assert!(model(&whole) == model(&killed) && log(&whole) == log(&killed), "{options}");
    }
}

#[test]
fn more_epochs_resume_only_if_the_states_are_the_same() {
    let (project, whole) = (Project::new(), Project::new());
    let constant = "--set train.schedule=constant --set train.warm_up=0 --set train.evaluate_every=2";
    whole.succeed(&format!("run train --set train.epochs=5 {constant}"));
    project.succeed(&format!("run train --set train.epochs=3 {constant}"));
    let more = project.similiai(&format!("run train --set train.epochs=5 {constant}"));
    assert!(more.stderr.contains("resuming after epoch 3 of 5"), "{}", more.stderr);
    assert!(model(&project) == model(&whole) && log(&project) == log(&whole));
    let forced = project.similiai(&format!("run train --force --set train.epochs=6 {constant}"));
    assert!(forced.status == 0 && !forced.stderr.contains("resuming"), "{}", forced.stderr);
    let cosine = project.similiai("run train --set train.epochs=2");
    assert!(cosine.stderr.contains("starting from scratch: parameter"), "{}", cosine.stderr);
    let more = project.similiai("run train --set train.epochs=3");
    assert!(more.stderr.contains("starting from scratch: parameter epochs: 2 → 3"), "{}", more.stderr);
    assert!(more.stderr.contains("learning rate"), "{}", more.stderr);
}

#[test]
fn damaged_checkpoints_and_forced_runs_do_not_resume() {
    let project = Project::trained();
    let before = model(&project);
    let checkpoint = checkpoint(&project).unwrap();
    let mut bytes = std::fs::read(&checkpoint).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&checkpoint, bytes).unwrap();
    std::fs::remove_dir_all(project.path("artifacts/.cache/results")).unwrap();
    let outcome = project.similiai("run train");
    assert!(outcome.stderr.contains("is damaged and ignored"), "{}", outcome.stderr);
    assert!(model(&project) == before);
    let outcome = project.similiai("run train --force");
    assert!(outcome.status == 0 && !outcome.stderr.contains("resuming"), "{}", outcome.stderr);
}

#[test]
fn a_collapsed_training_says_so() {
    // The labels have no relation to the pictures, so there is nothing to learn.
    let labelled =
        |label: u8, variant: usize| [vec![label], record(0, variant * 10 + usize::from(label))[1..].to_vec()].concat();
    let mut members = sound();
    members[1].bytes = (0..10).flat_map(|variant| (0..10).flat_map(move |label| labelled(label, variant))).collect();
    let project = Project::with(&archive(&members));
    let collapse = "run train --set train.learning_rate=1 --set train.normalize=false --set train.epochs=30 \
                    --set train.cross_entropy.weight=0";
    let outcome = project.similiai(collapse);
    assert_eq!(outcome.status, 1, "{}", outcome.stdout);
    let said = ["collapsed in epoch", "all distances are alike", "lower train.learning_rate", "train.normalize: true"];
    assert!(said.iter().all(|words| outcome.stderr.contains(words)), "{}", outcome.stderr);
    assert!(!project.path("artifacts/train").exists());
}

#[test]
fn variants_are_compared_run_by_run() {
    let project = Project::new();
    let text = std::fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let start = text.find("  train:").unwrap();
    let variants = "  plain-1: &plain {uses: train, needs: [prepare, split], seed: 1, epochs: 1, images_per_class: 3, validation: 0.25}
  plain-2: {<<: *plain, seed: 2}
  slow-1: &slow {<<: *plain, learning_rate: 1.0e-9}
  slow-2: {<<: *slow, seed: 2}
  compare: {uses: compare, needs: [plain-1, plain-2, slow-1, slow-2], baseline: plain}
";
    std::fs::write(project.path("pipeline.yaml"), text[..start].to_owned() + variants).unwrap();
    project.succeed("run all");
    let page = std::fs::read_to_string(project.path("artifacts/compare/comparison.md")).unwrap();
    let rows: Vec<&str> = page.lines().skip(2).map(|line| line.split('|').nth(1).unwrap().trim()).collect();
    assert_eq!(rows, ["plain", "slow"], "{page}");
    let models = ["plain-1", "plain-2", "slow-1"]
        .map(|name| std::fs::read(project.path(&format!("artifacts/{name}/model.safetensors"))).unwrap());
    assert!(models[0] != models[1] && models[0] != models[2]);
}
