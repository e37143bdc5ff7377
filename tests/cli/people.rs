//! Output for people and programs: plans, events, summaries, completions and the schema.

use serde_json::Value;

use crate::fixture::Project;

#[test]
fn the_schema_knows_every_shipped_pipeline_and_no_wrong_one() {
    let project = Project::new();
    let schema: Value = serde_json::from_str(&project.succeed("schema")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| {
        let mut yaml: serde_yaml::Value =
            serde_yaml::from_str(&std::fs::read_to_string(root.join(path)).unwrap()).unwrap();
        // Merged content may contain merges.
        while serde_yaml::to_string(&yaml).unwrap().contains("<<") {
            yaml.apply_merge().unwrap();
        }
        serde_json::to_value(yaml).unwrap()
    };
    for path in ["pipeline.yaml", "examples/ablation.yaml"] {
        let errors: Vec<String> = schema.iter_errors(&read(path)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{path}: {errors:?}");
    }
    for (pointer, wrong) in [
        ("/stages/train/epochs", Value::from("many")),
        ("/stages/train/network", "vgg".into()),
        ("/stages/train/uses", "tarin".into()),
        ("/stages/prepare/sharpen/radius", "wide".into()),
        ("/seed", (-1).into()),
        ("/profiles/quick/train/epochs", "few".into()),
        ("/cache", serde_json::json!({"remote": "s3://bucket", "mode": "write"})),
    ] {
        let mut pipeline = read("pipeline.yaml");
        pipeline["cache"] = serde_json::json!({"remote": "s3://bucket/prefix"});
        assert!(schema.is_valid(&pipeline));
        *pipeline.pointer_mut(pointer).unwrap() = wrong;
        assert!(!schema.is_valid(&pipeline), "{pointer}");
    }
    let mut pipeline = read("pipeline.yaml");
    pipeline["stages"]["train"]["epohcs"] = 3.into();
    assert!(!schema.is_valid(&pipeline));
}

#[test]
fn a_plan_says_what_past_runs_took() {
    let project = Project::new();
    let plan = project.succeed("run split --dry-run");
    assert!(!plan.contains("past runs"), "{plan}");
    project.succeed("run split");
    let plan = project.succeed("run split --dry-run --set prepare.size=32 --set split.test=0.5");
    assert!(plan.contains("(about ") && plan.contains("by past runs"), "{plan}");
    assert!(plan.contains("split      would run  (about 0.0s) prepare is made again"), "{plan}");
}

#[test]
fn a_plan_does_not_confuse_two_results() {
    let project = Project::new();
    project.succeed("run split --set split.test=0.3");
    project.succeed("run train");
    let plan = project.succeed("run train --set split.test=0.3 --dry-run");
    assert!(plan.contains("split      cached") && plan.contains("train      would run"), "{plan}");
}

#[test]
fn events_are_one_json_object_a_line() {
    let project = Project::new();
    let stdout = project.succeed("run split --events events.ndjson");
    let text = std::fs::read_to_string(project.path("events.ndjson")).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["started", "ended", "started", "ended", "started", "ended", "finished"]);
    assert_eq!(events[3]["stage"]["items"], serde_json::json!({"made": 100, "all": 100}));
    assert_eq!(events[1]["stage"]["reasons"][0]["kind"], "first-run");
    assert!(stdout.contains("prepare"), "people still read on stdout: {stdout}");
}

#[test]
fn completions_and_manual_pages() {
    let project = Project::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(project.succeed(&format!("completions {shell}")).contains("check-determinism"), "{shell}");
    }
    assert_eq!(project.succeed("man share/man1"), "wrote the manual pages to share/man1\n");
    let page = std::fs::read_to_string(project.path("share/man1/similiai-run.1")).unwrap();
    assert!(page.starts_with(".ie") && page.contains(r"\-\-check\-determinism"), "{page}");
    assert!(project.path("share/man1/similiai.1").exists() && !project.path("share/man1/similiai-help.1").exists());
    let failed = project.similiai("man pipeline.yaml");
    assert!(
        failed.status == 1 && failed.stderr.contains("cannot write the manual pages to pipeline.yaml"),
        "{}",
        failed.stderr
    );
}

#[test]
fn hash_diff() {
    let project = Project::new();
    project.succeed("run prepare");
    let key = project.key("prepare", "");
    project.succeed("run prepare --set prepare.size=32");
    let diff = project.succeed(&format!("hash diff {} prepare", &key[..10]));
    assert!(diff.contains("  parameter size: 64 → 32\n"), "{diff}");
    assert!(diff.contains("101 files (bird/00000.png, bird/00001.png, bird/00002.png, …) changed"), "{diff}");
    assert!(diff.contains("first: bird/00000.png: 32×32 pixels where 64×64 are expected"), "{diff}");
    assert_eq!(project.similiai("hash diff prepare 0000").status, 2);
}

#[test]
fn a_plan_scales_with_steps_and_pictures() {
    let project = Project::new();
    project.succeed("run train --set train.epochs=4");
    let seconds = |options: &str| -> f64 {
        let text = project.similiai(&format!("run train --dry-run --json {options}")).stdout;
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let stages = last["stages"].as_array().unwrap();
        let train = stages.iter().find(|stage| stage["name"] == "train").unwrap();
        train["estimated_seconds"].as_f64().unwrap()
    };
    let again = seconds("--set train.epochs=4 --set train.learning_rate=0.001");
    let ratio = |options: &str| (seconds(options) / again * 1000.0).round() / 1000.0;
    assert_eq!(ratio("--set train.epochs=8"), 2.0);
    assert_eq!(ratio("--set train.epochs=4 --set prepare.images_per_class=5"), 0.5);
    assert_eq!(ratio("--set train.epochs=8 --set prepare.images_per_class=5"), 1.0);
}
