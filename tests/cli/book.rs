//! The book and the README: links have targets, manifests are valid, and the shell lines run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_yaml::{Mapping, Value};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The README, and every chapter.
fn pages() -> Vec<PathBuf> {
    let chapters = Path::new(ROOT).join("docs/src");
    let names = similiai::base::files::list(&chapters).unwrap();
    std::iter::once(Path::new(ROOT).join("README.md")).chain(names.iter().map(|name| chapters.join(name))).collect()
}

/// The fenced blocks of a page whose first line is `fence`.
fn blocks(page: &Path, fence: &str) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let fence = format!("```{fence}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// The anchors of the headings of a page.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(page).unwrap();
    let plain = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| plain(*c)).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {link}", page.display());
            assert!(anchor.is_empty() || anchors(&target).contains(anchor), "{}: {link}", page.display());
            count += 1;
        }
    }
    assert!(count > 50, "{count} links");
}

#[test]
fn the_readme_is_short_and_every_chapter_is_in_the_summary() {
    assert!(fs::metadata(Path::new(ROOT).join("README.md")).unwrap().len() <= 8 << 10);
    let summary = fs::read_to_string(Path::new(ROOT).join("docs/src/SUMMARY.md")).unwrap();
    for page in pages().iter().skip(1).filter(|page| !page.ends_with("SUMMARY.md")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(summary.contains(&format!("({name})")), "{name}");
    }
}

#[test]
fn the_lines_on_the_report_are_those_of_the_book() {
    // `tests/readers.py` runs these lines.
    let chapter = Path::new(ROOT).join("docs/src/reading-results.md");
    for (language, name) in [("sql", "duckdb.sql"), ("python", "polars.py")] {
        let lines = fs::read_to_string(Path::new(ROOT).join("stages/benchmark/page").join(name)).unwrap();
        assert!(blocks(&chapter, language).contains(&lines), "{name}");
    }
}

/// The shipped project after `run all`, with the short training of the profile `check` as its default.
fn project() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(Path::new(ROOT).join("pipeline.yaml")).unwrap();
    let mut manifest: Mapping = serde_yaml::from_str(&text).unwrap();
    let short = manifest["profiles"]["check"]["train"].as_mapping().unwrap().clone();
    let Value::Mapping(train) = &mut manifest["stages"]["train"] else { panic!("no training") };
    train.extend(short);
    fs::write(folder.path().join("pipeline.yaml"), serde_yaml::to_string(&manifest).unwrap()).unwrap();
    for shared in ["data", "examples"] {
        std::os::unix::fs::symlink(Path::new(ROOT).join(shared), folder.path().join(shared)).unwrap();
    }
    run(folder.path(), "similiai run all\nsimiliai lock");
    folder
}

fn run(folder: &Path, script: &str) {
    let program = cargo_bin!("similiai");
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.current_dir(folder).env("PATH", path).args(["-euo", "pipefail", "-c", script]);
    let output = shell.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{script}\n{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn manifests_are_sound_and_lines_run() {
    let folder = project();
    let mut lines = 0;
    for page in pages().iter().skip(1) {
        for manifest in blocks(page, "yaml,manifest") {
            fs::write(folder.path().join("other.yaml"), manifest).unwrap();
            run(folder.path(), "similiai --manifest other.yaml dag");
        }
        for block in blocks(page, "sh") {
            run(folder.path(), &block);
            lines += block.lines().count();
        }
    }
    assert!(lines > 40, "{lines} lines");
}
