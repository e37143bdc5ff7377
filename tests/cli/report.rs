//! The report, and the commands about metrics.

use std::path::Path;

use serde_json::Value;
use similiai::retrieval::metrics::QUERIES;

use crate::fixture::{Project, archive, sound};
use crate::pictures::write_classes;

fn results(project: &Project) -> Value {
    serde_json::from_slice(&std::fs::read(project.path("reports/results.json")).unwrap()).unwrap()
}

fn page(project: &Project) -> String {
    std::fs::read_to_string(project.path("reports/index.html")).unwrap()
}

/// The text between `start` and `end`.
fn part<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let from = page.find(start).unwrap() + start.len();
    &page[from..from + page[from..].find(end).unwrap()]
}

/// A project with a second, longer training that is measured together with the first.
fn with_two_trainings() -> Project {
    let project = Project::new();
    project.edit_manifest(
        "  benchmark: {uses: benchmark, needs: [prepare, train, embed], out: reports}",
        "  longer: {uses: train, needs: [prepare, split], epochs: 2, images_per_class: 3, validation: 0.25, embed: {shift: 0}}
  embed-longer: {uses: embed, needs: [prepare, split, longer]}
  benchmark: {uses: benchmark, needs: [prepare, train, longer, embed, embed-longer], out: reports}",
    );
    project
}

#[test]
fn every_chart_is_on_the_page_and_in_a_file_of_twice_its_size() {
    let project = Project::trained();
    let page = page(&project);
    assert!(page.len() < 3_000_000);
    assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org/").count());
    assert!(!page.contains("https://") && !page.contains("<link") && !page.contains("@import"), "it stands alone");
    let pictures = similiai::base::files::list(&project.path("reports")).unwrap();
    let pictures: Vec<&String> = pictures.iter().filter(|name| name.ends_with(".png")).collect();
    let protocols = ["test-vs-train", "test-vs-test"];
    for name in ["headline", "scores", "classes", "calibration", "map", "pipeline", "neighbours", "best", "worst"] {
        assert!(pictures.contains(&&format!("benchmark_{name}.png")), "{name}");
    }
    for name in ["precision_at_k", "confusion", "hubness", "distances"] {
        for protocol in protocols {
            assert!(pictures.contains(&&format!("benchmark_{name}_{protocol}.png")), "{name} {protocol}");
        }
    }
    assert_eq!(pictures.len(), 9 + 4 * 2);
    let headline = image::open(project.path("reports/benchmark_headline.png")).unwrap();
    assert_eq!(headline.width(), 920);
    assert_eq!(
        part(&page, "<svg role=\"img\" aria-label=\"Bars of precision@5", "viewBox").matches("width=\"460\"").count(),
        1
    );
    // The page contains the same results as the file, and no times.
    let embedded = part(&page, "id=\"results\">", "</script>");
    assert_eq!(serde_json::from_str::<Value>(embedded).unwrap(), results(&project));
    assert!(!embedded.contains("seconds"));
}

#[test]
fn precision_without_learning_is_measured_too() {
    let project = Project::trained();
    let results = results(&project);
    for protocol in ["test-vs-train", "test-vs-test"] {
        for baseline in ["random weights", "raw pixels"] {
            let reached = &results["protocols"][protocol]["baselines"][baseline];
            let value = reached["precision@5"]["value"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&value), "{protocol} {baseline}: {value}");
            assert!((reached["precision@k"][4]["value"].as_f64().unwrap() - value).abs() < 1e-9);
            assert_eq!(reached["queries"], 20);
        }
    }
    // Each class of the fixture has its own colours.
    let raw = &results["protocols"]["test-vs-train"]["baselines"]["raw pixels"]["precision@5"]["value"];
    assert!(raw.as_f64().unwrap() > 0.5, "{raw}");
    assert_eq!(results["original"], Value::Null, "these are not CIFAR-10's classes");
}

#[test]
fn the_manifest_on_the_page_gives_the_same_page() {
    let project = Project::new();
    // An instance with its own seed, and a parameter that is not the default.
    project.edit_manifest("split: {uses: split, needs: [prepare]}", "split: {uses: split, needs: [prepare], seed: 3}");
    project.succeed("run all --set prepare.sharpen.amount=0.7");
    let page = page(&project);
    let manifest = part(&page, "aria-label=\"Manifest\">", "</pre>");
    let manifest = manifest.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    let again = Project::with(&archive(&sound()));
    std::fs::write(again.path("pipeline.yaml"), manifest).unwrap();
    again.succeed("run all --set fetch.source=sample.tar.gz");
    assert!(std::fs::read_to_string(again.path("reports/index.html")).unwrap() == page);
}

#[test]
fn the_page_is_made_again_when_its_content_changes() {
    let project = Project::trained();
    let before = page(&project);
    // Another parameter gives the same pictures, so only the page changes.
    let states = project.states("run all --set prepare.images_per_class=null");
    assert_eq!(
        states,
        ["fetch cached", "prepare ran", "split cached", "train cached", "embed cached", "benchmark ran"]
    );
    assert_ne!(page(&project), before);
    assert!(project.succeed("explain benchmark --set prepare.images_per_class=null").contains("lineage"));
    assert_eq!(project.states("run all").last().unwrap(), "benchmark cached");
    assert_eq!(page(&project), before);
    // The page also shows the names of instances.
    project.edit_manifest("  benchmark: {", "  measured: {");
    assert_eq!(project.states("run all").last().unwrap(), "measured ran");
    assert!(page(&project).contains("similiai run measured"));
}

#[test]
fn names_of_classes_are_escaped_everywhere() {
    let project = Project::new();
    let (odd, markup) = ("a & b's \"c\"", "<script>alert(1)<");
    write_classes(&project.path("photos"), &[odd, markup], 8);
    project.edit_manifest("source: sample.tar.gz", "source: photos");
    project.edit_manifest("images_per_class: 10", "images_per_class: null");
    project.succeed("run all");
    let page = page(&project);
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert(1)&lt;"), "escaped");
    let embedded: Value = serde_json::from_str(part(&page, "id=\"results\">", "</script>")).unwrap();
    let classes = &embedded["protocols"]["test-vs-test"]["confusion"]["classes"];
    assert_eq!(*classes, serde_json::json!([markup, odd]));
    // With few pictures, lists are as long as the gallery, and the map uses principal components or t-SNE.
    assert_eq!(embedded["protocols"]["test-vs-test"]["precision@k"].as_array().unwrap().len(), 3);
    assert_eq!(embedded["map"]["points"].as_array().unwrap().len(), 4);
}

#[test]
fn trainings_are_compared() {
    let project = with_two_trainings();
    project.succeed("run all");
    let results = results(&project);
    let comparison = &results["comparisons"][0];
    assert_eq!(
        (&results["run"], &comparison["run"], &comparison["training"]),
        (&"embed".into(), &"embed-longer".into(), &"longer".into())
    );
    let page = page(&project);
    assert!(
        page.contains("Comparison of trainings")
            && page.contains("<b>embed-longer</b> (trained by longer) compared with embed"),
        "told"
    );

    // The command finds the same difference, with the names of trainings and with those of embeddings.
    let diff = |a: &str, b: &str| -> Value {
        serde_json::from_str(&project.succeed(&format!("metrics diff {a} {b} --json"))).unwrap()
    };
    let found = diff("train", "longer");
    assert_eq!(found["protocols"]["test-vs-test"], comparison["protocols"]["test-vs-test"]);
    assert_eq!(diff("embed", "embed-longer")["protocols"], found["protocols"]);
    let metric = &found["protocols"]["test-vs-train"]["precision@5"];
    let value = |name: &str| metric[name].as_f64().unwrap();
    assert_eq!(metric["queries"], 20);
    assert!((value("after") - value("before") - value("difference")).abs() < 1e-12);
    assert!(value("low") <= value("difference") && value("difference") <= value("high"));
    assert_eq!(diff("benchmark", "benchmark")["protocols"]["test-vs-test"]["map@r"]["verdict"], "cannot-tell");

    // The file of queries has the same differences.
    let rows = std::fs::read(project.path("reports").join(QUERIES)).unwrap();
    let rows = similiai::retrieval::metrics::parse(&rows, QUERIES).unwrap();
    assert_eq!(rows.len(), 2 * 2 * 20);
    let mean = |run: &str| {
        let of = rows.iter().filter(|row| row.run == run && row.protocol == "test-vs-train").map(|row| row.values[0]);
        of.sum::<f64>() / 20.0
    };
    assert!((mean("embed") - value("before")).abs() < 1e-12 && (mean("embed-longer") - value("after")).abs() < 1e-12);
}

#[test]
fn a_training_without_its_embeddings_is_named() {
    let project = with_two_trainings();
    project.edit_manifest("embed, embed-longer], out", "embed], out");
    let refused = |why: &str| {
        let outcome = project.similiai("run all");
        assert_eq!(outcome.status, 1);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
    };
    refused("the training `longer`, but no embeddings of it");
    project.edit_manifest("longer, embed], out", "embed, embed-longer], out");
    refused("`needs` has `embed-longer`, but not the training that it uses");
    project.edit_manifest(
        "[prepare, train, embed, embed-longer], out",
        "[prepare, train, longer, embed, embed-longer], out",
    );
    project.edit_manifest(
        "  longer: {uses: train, needs: [prepare, split]",
        "  other: {uses: split, needs: [prepare], seed: 8}\n  longer: {uses: train, needs: [prepare, other]",
    );
    project.edit_manifest("needs: [prepare, split, longer]", "needs: [prepare, other, longer]");
    refused("they have different pictures, or another split");
}

#[test]
fn metrics_are_shown_compared_and_remembered() {
    let project = Project::new();
    let none = project.similiai("metrics");
    assert_eq!(none.status, 2);
    assert!(none.stderr.contains("`benchmark` has not run"), "{}", none.stderr);
    assert!(project.similiai("metrics history").stderr.contains("no run that measured anything yet"));

    project.succeed("run all");
    let table = project.succeed("metrics");
    assert!(table.contains("test-vs-train: 20 queries, gallery of 80") && table.contains("with raw pixels"), "{table}");
    assert_eq!(
        project.succeed("metrics --json").trim_end(),
        std::fs::read_to_string(project.path("reports/results.json")).unwrap().trim_end()
    );
    project.succeed("run all --set train.epochs=2");
    let history: Value = serde_json::from_str(&project.succeed("metrics history --json")).unwrap();
    let runs = history["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1]["changes"], serde_json::json!(["train: parameter epochs: 1 → 2"]));
    let shown = project.succeed("metrics history --metric map@r");
    assert_eq!(shown.lines().count(), 4, "{shown}");
    assert!(shown.lines().nth(1).unwrap().ends_with("train: parameter epochs: 1 → 2"), "{shown}");
    assert!(shown.lines().nth(2).unwrap().starts_with("benchmark  test-vs-test   map@r"), "{shown}");

    // Compares with the previous run, by its key, and with a copy in a folder.
    let key = runs[0]["key"].as_str().unwrap();
    let told = project.succeed(&format!("metrics diff {} benchmark", &key[..8]));
    assert!(told.contains("test-vs-test, 20 queries") && told.contains("precision@5"), "{told}");
    copy(&project.path("reports"), &project.path("kept"));
    let from_folder = project.succeed("metrics diff kept benchmark");
    assert!(from_folder.contains("+0.000 (95 %: +0.000 to +0.000): no significant difference"), "{from_folder}");
}

#[test]
fn problems_of_a_comparison_are_reported() {
    let project = Project::trained();
    let diff = |a: &str, b: &str| {
        let outcome = project.similiai(&format!("metrics diff {a} {b}"));
        (outcome.status, outcome.stderr)
    };
    let (status, why) = diff("benchmark", "nowhere");
    assert_eq!(status, 2);
    assert!(why.contains("no stored result `nowhere`"), "{why}");
    let (status, why) = diff("benchmark", "split");
    assert_eq!(status, 2);
    assert!(why.contains("`split` has no metrics"), "{why}");

    copy(&project.path("reports"), &project.path("other"));
    let text = std::fs::read_to_string(project.path("other/queries.csv")).unwrap();
    // Half of the queries: the command compares them, and warns.
    let part: Vec<&str> = text.lines().step_by(2).collect();
    std::fs::write(
        project.path("other/queries.csv"),
        text.lines().next().unwrap().to_owned() + "\n" + &part[1..].join("\n"),
    )
    .unwrap();
    let outcome = project.similiai("metrics diff other benchmark");
    assert!(outcome.stdout.contains("10 queries that both have, of 10 and 20"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("two experiments, not two networks"), "{}", outcome.stderr);
    std::fs::write(project.path("other/queries.csv"), text.replace(".png", ".jpg")).unwrap();
    let (status, why) = diff("benchmark", "other");
    assert_eq!(status, 2);
    assert!(why.contains("no query in common"), "{why}");
    std::fs::write(project.path("other/queries.csv"), text.replace(",0", ",none")).unwrap();
    let (status, why) = diff("other", "benchmark");
    assert_eq!(status, 4);
    assert!(why.contains("other/queries.csv"), "{why}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join(QUERIES), to.join(QUERIES)).unwrap();
}
