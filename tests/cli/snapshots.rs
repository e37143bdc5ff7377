//! Texts that people read: `--help`, errors of the manifest, and tables. A change shows in review as a change of the
//! files in `snapshots/`; `INSTA_UPDATE=always cargo test snapshots` writes them again.

use std::fs;

use insta::assert_snapshot;

use crate::fixture::Project;

/// Commands with a `--help` of their own, the longest names first.
const COMMANDS: [&str; 23] = [
    "",
    "init",
    "run",
    "query",
    "embed",
    "publish",
    "duplicates",
    "serve",
    "status",
    "explain",
    "metrics",
    "metrics diff",
    "metrics history",
    "config",
    "dag",
    "verify",
    "gc",
    "lock",
    "hash",
    "hash diff",
    "schema",
    "completions",
    "man",
];

#[test]
#[cfg(all(feature = "serve", feature = "cloud"))]
fn help() {
    let project = Project::new();
    for command in COMMANDS {
        let text = project.succeed(format!("{command} --help").trim_start());
        assert_snapshot!(format!("help_{}", command.replace(' ', "_")), text);
    }
}

#[test]
fn errors_of_the_manifest() {
    let project = Project::new();
    let manifest = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let wrong = [
        ("version: 1", "version: 2"),
        ("seed: 7", "seed: many"),
        ("stages:", "stagez:"),
        ("uses: split", "uses: splitt"),
        ("needs: [prepare]}", "needs: [prepared]}"),
        ("needs: [prepare]}", "needs: [prepare, prepare]}"),
        ("needs: [fetch]", "needs: [embed]"),
        ("needs: [prepare, split], epochs", "needs: [prepare], epochs"),
        ("epochs: 1", "epohcs: 1"),
        ("epochs: 1", "epochs: none"),
        ("epochs: 1", "epochs: 0"),
        ("epochs: 1", "epochs: null"),
        ("out: reports", "out: ../reports"),
        ("out: reports", "out: artifacts/train"),
        ("seed: 7", "seed: [7"),
    ];
    let mut text = String::new();
    for (from, to) in wrong {
        assert!(manifest.contains(from), "{from}");
        fs::write(project.path("pipeline.yaml"), manifest.replacen(from, to, 1)).unwrap();
        let outcome = project.similiai("status");
        assert_eq!(outcome.status, 2, "{to}: {}", outcome.stdout);
        text += &format!("# {from} → {to}\n{}\n", outcome.stderr);
    }
    fs::write(project.path("pipeline.yaml"), manifest).unwrap();
    for set in ["train.epochs", "train.epochs=0", "train.epoch=1", "trains.epochs=1", "embed.formats=[parquet"] {
        text += &format!("# --set {set}\n{}\n", project.similiai(&format!("status --set '{set}'")).stderr);
    }
    assert_snapshot!(text);
}

#[test]
fn tables() {
    let project = Project::trained();
    let mut text = String::new();
    for command in ["metrics", "status", "status --set train.epochs=2", "run all --until split --dry-run", "dag"] {
        let stdout = project.succeed(command);
        // Without the time that a run took.
        let timeless = |line: &str| match line.split_once("(about ") {
            Some((start, rest)) => format!("{start}{}", rest.split_once(") ").map_or("", |(_, rest)| rest)),
            None => line.to_owned(),
        };
        let lines = stdout.lines().map(timeless);
        text += &format!("$ similiai {command}\n{}\n\n", lines.collect::<Vec<_>>().join("\n"));
    }
    assert_snapshot!(text);
}
