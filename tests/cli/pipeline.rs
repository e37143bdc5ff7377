//! The complete pipeline: its results, their reproducibility, and the options of a run.

use similiai::base::simd::Simd;

use crate::fixture::{Project, archive, contents, record, sound};

const ALL_CACHED: [&str; 6] =
    ["fetch cached", "prepare cached", "split cached", "train cached", "embed cached", "benchmark cached"];

#[test]
fn runs_everything_once() {
    let project = Project::new();
    let stdout = project.succeed("run all");
    assert!(stdout.contains("precision@5"), "{stdout}");
    let ending = stdout.lines().rev().take(4).collect::<Vec<&str>>();
    assert!(ending[3].starts_with("benchmark"), "{stdout}");
    assert!(ending[2].starts_with("of the 5 nearest pictures, "), "{stdout}");
    assert_eq!(ending[1], "the report is reports/index.html");
    assert!(ending[0].ends_with("`similiai query artifacts/prepare/bird/00000.png`"), "{stdout}");
    for path in [
        "artifacts/fetch/data_batch_1.bin",
        "artifacts/prepare/bird/00009.png",
        "artifacts/split/split.csv",
        "artifacts/train/model.safetensors",
        "artifacts/train/training_log.csv",
        "artifacts/train/training_curves.png",
        "artifacts/embed/embeddings.parquet",
        "reports/index.html",
        "reports/results.json",
        "reports/benchmark_neighbours.png",
        "reports/benchmark_scores.png",
    ] {
        assert!(project.path(path).is_file(), "{path}");
    }
    assert_eq!(project.states("run all"), ALL_CACHED);
    assert_eq!(project.similiai("status --check").status, 0);

    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(project.path("reports/results.json")).unwrap()).unwrap();
    let protocol = &results["protocols"]["test-vs-train"];
    assert_eq!((&protocol["queries"], &protocol["gallery"]), (&20.into(), &80.into()));
    let precision = &protocol["metrics"]["precision@5"];
    let value = |name: &str| precision[name].as_f64().unwrap();
    assert!(value("low") <= value("value") && value("value") <= value("high"));
    assert!((value("chance") - 0.1).abs() < 1e-9);
    let page = std::fs::read_to_string(project.path("reports/index.html")).unwrap();
    assert!(!page.contains("src=\"http") && !page.contains("<link"), "the page must stand alone");
    assert!(page.contains("test-vs-test"));
}

#[test]
fn neighbours_in_the_report_are_those_of_the_parquet_file() {
    let project = Project::trained();
    let embeddings =
        similiai::retrieval::embeddings::Embeddings::read(&project.path("artifacts/embed/embeddings.parquet")).unwrap();
    assert!(embeddings.paths.is_sorted());
    assert_eq!(embeddings.facts["similiai.metric"], "euclidean");
    let results: serde_json::Value =
        serde_json::from_slice(&std::fs::read(project.path("reports/results.json")).unwrap()).unwrap();
    let examples = results["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 10);
    for example in examples {
        let query = example["query"]["id"].as_u64().unwrap() as usize;
        let distance = |id: usize| {
            let pairs = embeddings.row(query).iter().zip(embeddings.row(id));
            pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let mut nearest: Vec<(f64, usize)> =
            (0..embeddings.len()).filter(|id| embeddings.splits[*id] == "train").map(|id| (distance(id), id)).collect();
        nearest.sort_by(|a, b| a.partial_cmp(b).unwrap());
        let found = example["results"].as_array().unwrap();
        assert_eq!(found.len(), 5);
        for (found, (expected, id)) in found.iter().zip(nearest) {
            assert!((found["distance"].as_f64().unwrap() - expected).abs() < 1e-5);
            assert_eq!(found["id"].as_u64().unwrap() as usize, id);
        }
    }
}

#[test]
fn the_files_for_numpy_hold_what_the_parquet_file_holds() {
    let project = Project::new();
    project.succeed("run embed --set embed.formats=[parquet,npy]");
    let embeddings =
        similiai::retrieval::embeddings::Embeddings::read(&project.path("artifacts/embed/embeddings.parquet")).unwrap();
    for (side, count) in [("train", 80), ("test", 20)] {
        let ids: Vec<usize> = (0..embeddings.len()).filter(|id| embeddings.splits[*id] == side).collect();
        // Reads the header and the data of a file.
        let read = |what: &str| -> (String, Vec<u8>) {
            let bytes = std::fs::read(project.path(&format!("artifacts/embed/{side}_{what}.npy"))).unwrap();
            assert_eq!(bytes[..8], *b"\x93NUMPY\x01\0");
            let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert!(start.is_multiple_of(64) && bytes[start - 1] == b'\n');
            (String::from_utf8(bytes[10..start].to_vec()).unwrap(), bytes[start..].to_vec())
        };
        let (header, values) = read("embeddings");
        assert!(header.contains("'<f4'") && header.contains(&format!("({count}, 128)")), "{header}");
        let expected = ids.iter().flat_map(|id| embeddings.row(*id)).flat_map(|value| value.to_le_bytes());
        assert!(values.into_iter().eq(expected));
        let (header, labels) = read("labels");
        assert!(header.contains("'<i4'") && header.contains(&format!("({count},)")), "{header}");
        assert!(labels.into_iter().eq(ids.iter().flat_map(|id| embeddings.labels[*id].to_le_bytes())));
        let (header, paths) = read("paths");
        let characters = paths.len() / 4 / count;
        assert!(header.contains(&format!("'<U{characters}'")), "{header}");
        let letter = |bytes: &[u8]| char::from(bytes[0]);
        let first: String = paths[..4 * characters].chunks(4).map(letter).filter(|letter| *letter != '\0').collect();
        assert_eq!(first, embeddings.paths[ids[0]]);
    }
}

#[test]
fn gives_the_same_bytes_with_one_thread_and_with_three() {
    let (one, three) = (Project::new(), Project::new());
    for project in [&one, &three] {
        project.edit_manifest("  benchmark:", "  index: {uses: index, needs: [embed]}\n  benchmark:");
        project.edit_manifest("[prepare, train, embed], out", "[prepare, train, embed, index], out");
        project
            .edit_manifest("needs: [prepare, split, train]", "needs: [prepare, split, train], formats: [parquet, npy]");
    }
    for options in ["", " --profile seed"] {
        for project in [&one, &three] {
            let text = std::fs::read_to_string(project.path("pipeline.yaml")).unwrap();
            if !text.contains("profiles") {
                let seed = "profiles:\n  seed:\n    train: {network: original, mining: drawn, triplets: {train: 40, validation: 10, batch: 8}}\n";
                std::fs::write(project.path("pipeline.yaml"), text + seed).unwrap();
            }
        }
        one.succeed(&format!("--threads 1 run all{options}"));
        three.succeed(&format!("--threads 3 run all{options} -j 3"));
        for folder in ["artifacts", "reports"] {
            let (a, b) = (contents(&one.path(folder)), contents(&three.path(folder)));
            assert!(a.len() > 3);
            let different: Vec<&String> = a.iter().zip(&b).filter(|(a, b)| a != b).map(|(a, _)| &a.0).collect();
            assert!(different.is_empty() && a.len() == b.len(), "{different:?}");
        }
    }
}

#[test]
fn gives_the_same_bytes_on_every_vector_unit() {
    let seed = "profiles:\n  seed:\n    train: {network: original, mining: drawn, triplets: {train: 16, validation: 10, batch: 8}}\n";
    let results = |unit: &str, options: &str| {
        let project = Project::new();
        let text = std::fs::read_to_string(project.path("pipeline.yaml")).unwrap();
        std::fs::write(project.path("pipeline.yaml"), text + seed).unwrap();
        let outcome = project.similiai_on(Some(unit), &format!("run embed{options}"));
        assert_eq!(outcome.status, 0, "{unit}: {}", outcome.stderr);
        ["train/model.safetensors", "embed/embeddings.parquet"]
            .map(|path| std::fs::read(project.path("artifacts").join(path)).unwrap())
    };
    for options in ["", " --profile seed"] {
        let portable = results("portable", options);
        for unit in Simd::available().iter().filter(|unit| unit.name() != "portable") {
            assert!(results(unit.name(), options) == portable, "{} differs", unit.name());
        }
    }
}

#[test]
fn a_vector_unit_that_is_not_there_is_a_usage_error() {
    let outcome = Project::new().similiai_on(Some("mmx"), "status");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("SIMILIAI_SIMD=mmx") && outcome.stderr.contains("portable"), "{}", outcome.stderr);
}

#[test]
fn selects_what_runs() {
    let project = Project::new();
    assert_eq!(project.states("run split --dry-run"), ["fetch pending", "prepare pending", "split pending"]);
    assert!(!project.path("artifacts/fetch").exists());
    assert_eq!(project.states("run all --until split"), ["fetch ran", "prepare ran", "split ran"]);
    assert_eq!(project.states("run split --force"), ["fetch cached", "prepare cached", "split ran"]);
    assert_eq!(
        project.states("run train --from train"),
        ["fetch cached", "prepare cached", "split cached", "train ran"]
    );
    let from = project.similiai("run split --from split --set prepare.size=32");
    assert_eq!(from.status, 1);
    assert!(
        from.stderr.contains("`prepare` has no result that is up to date (parameter size: 64 → 32)"),
        "{}",
        from.stderr
    );
    let unknown = project.similiai("run trian");
    assert_eq!(unknown.status, 2);
    assert!(unknown.stderr.contains("did you mean `train`?"), "{}", unknown.stderr);
}

#[test]
fn a_failure_stops_what_depends_on_it_and_nothing_else() {
    let project = Project::new();
    project.edit_manifest(
        "  split:",
        "  bad: {uses: prepare, needs: [fetch], images_per_class: 11}\n  after: {uses: split, needs: [bad]}\n  split:",
    );
    let states = project.states("run after split --keep-going");
    assert_eq!(states, ["fetch ran", "prepare ran", "bad failed", "after skipped", "split ran"]);
    let outcome = project.similiai("run after split --keep-going");
    assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("10 pictures of class `plane`, fewer than the 11"), "{}", outcome.stderr);
    assert!(!project.path("artifacts/bad").exists());
}

#[test]
fn errors_in_the_manifest_stop_everything() {
    let project = Project::new();
    project.edit_manifest("epochs: 1", "epohcs: 1");
    let outcome = project.similiai("run all");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (2, ""));
    assert!(
        outcome.stderr.contains("--> pipeline.yaml:7:49") && outcome.stderr.contains("^^^^^^"),
        "{}",
        outcome.stderr
    );
    assert!(outcome.stderr.contains("did you mean `epochs`?"), "{}", outcome.stderr);
    assert!(!project.path("artifacts").exists());
    let outcome = Project::new().similiai("run all --set train.epochs=many");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("invalid type: string \"many\""), "{}", outcome.stderr);
}

#[test]
fn every_pipeline_and_profile_shipped_is_sound() {
    let root = env!("CARGO_MANIFEST_DIR");
    let project = Project::new();
    for profile in ["check", "seed", "quick", "best", "cifar10"] {
        let dag = project.succeed(&format!("--manifest {root}/pipeline.yaml dag --format mermaid --profile {profile}"));
        assert!(dag.contains("train --> embed"), "{dag}");
    }
    let dag = project.succeed(&format!("--manifest {root}/examples/ablation.yaml dag --format mermaid"));
    assert!(dag.contains("full-1 --> compare") && dag.contains("wider-3 --> compare"), "{dag}");
}

#[test]
fn skips_the_first_pictures_of_each_class() {
    let (whole, rest) = (Project::new(), Project::new());
    whole.succeed("run prepare");
    rest.succeed("run prepare --set prepare.images_per_class=4 --set prepare.skip_per_class=6");
    for place in 0..10 {
        let path = format!("artifacts/prepare/cat/{place:05}.png");
        assert_eq!(rest.path(&path).exists(), place >= 6, "{path}");
        if place >= 6 {
            assert_eq!(std::fs::read(rest.path(&path)).unwrap(), std::fs::read(whole.path(&path)).unwrap());
        }
    }
    let outcome = rest.similiai("run prepare --set prepare.images_per_class=4 --set prepare.skip_per_class=7");
    assert_eq!(outcome.status, 4);
    assert!(outcome.stderr.contains("fewer than the 11 requested"), "{}", outcome.stderr);
}

#[test]
fn equal_pictures_stay_in_one_subset() {
    let mut members = sound();
    // Makes pictures 3 and 8 of every class equal.
    for label in 0..10 {
        let at = |variant: usize| (variant * 10 + label) * 3073;
        let copy = record(label as u8, 3);
        members[1].bytes[at(8)..at(8) + 3073].copy_from_slice(&copy);
    }
    let project = Project::with(&archive(&members));
    let outcome = project.similiai("run split");
    assert_eq!(outcome.stderr.matches("are the same picture").count(), 10, "{}", outcome.stderr);
    let split = std::fs::read_to_string(project.path("artifacts/split/split.csv")).unwrap();
    let side =
        |name: &str| split.lines().find(|line| line.starts_with(name)).unwrap().rsplit(',').next().unwrap().to_owned();
    for class in ["plane", "car", "truck"] {
        assert_eq!(side(&format!("{class}/00003.png")), side(&format!("{class}/00008.png")));
    }
}

#[test]
fn another_seed_changes_only_the_keys_of_stages_that_draw() {
    let project = Project::new();
    project.succeed("run split");
    assert_eq!(project.key("prepare", ""), project.key("prepare", "--set seed=8"));
    assert_ne!(project.key("split", ""), project.key("split", "--set seed=8"));
    let outcome = project.similiai("status --set prepare.seed=3");
    assert_eq!(outcome.status, 2);
    assert!(
        outcome.stderr.contains("stage `prepare` draws no random numbers, so it has no seed"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn commands_look_at_what_was_last_run() {
    let project = Project::new();
    project.edit_manifest("stages:\n", "profiles: {more: {split: {test: 0.3}}, seven: {seed: 7}}\nstages:\n");
    project.succeed("run split --profile more --profile seven --set prepare.size=32");
    let outcome = project.similiai("status");
    assert!(outcome.stdout.lines().nth(2).unwrap().starts_with("split      fresh"), "{}", outcome.stdout);
    let told = "as in the last run: --profile more --profile seven --set prepare.size=32; without that";
    assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
    let as_it_is = project.succeed("status --profile default");
    assert!(as_it_is.lines().nth(2).unwrap().starts_with("split      stale"), "{as_it_is}");
    // A dry run changes nothing.
    project.succeed("run split --dry-run");
    assert!(project.similiai("status").stderr.contains(told));
    let error = project.similiai("query --id 7").stderr;
    assert!(error.contains("run `similiai run embed --profile more --profile seven --set prepare.size=32`"), "{error}");
    project.edit_manifest("more: {split: {test: 0.3}}, ", "");
    let outcome = project.similiai("status");
    assert_eq!(outcome.status, 0);
    assert!(outcome.stderr.contains("no longer fits the options of the last run"), "{}", outcome.stderr);
    project.succeed("run split");
    assert_eq!(project.similiai("status").stderr, "");
}

#[test]
fn the_configuration_says_where_each_value_comes_from() {
    let project = Project::new();
    project.edit_manifest("stages:\n", "profiles: {more: {split: {test: 0.3}}}\nstages:\n");
    let options = "--profile more --set prepare.sharpen.amount=2";
    let shown = project.succeed(&format!("config prepare split {options}"));
    let line = |start: &str| {
        let line = shown.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_else(|| panic!("{shown}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("seed:"), "seed: 7 # manifest");
    assert_eq!(line("size:"), "size: 64 # manifest");
    assert_eq!(line("amount:"), "amount: 2.0 # --set");
    assert_eq!(line("radius:"), "radius: 1.0 # default");
    assert_eq!(line("test:"), "test: 0.3 # profile more");
    // It is a manifest with the same meaning.
    let all = project.succeed(&format!("config {options}"));
    std::fs::write(project.path("pipeline.yaml"), all).unwrap();
    let values = |text: &str| {
        text.lines().map(|line| line.split("  #").next().unwrap().trim_end().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(values(&project.succeed("config prepare split")), values(&shown));
    let json: serde_json::Value = serde_json::from_str(&project.succeed("config split --json")).unwrap();
    assert_eq!(json["stages"]["split"]["test"], serde_json::json!({"value": 0.3, "from": "manifest"}));
}
