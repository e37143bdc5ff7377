//! Files of the cache and of results that were modified, exchanged or forged: wrong content is never used, and files
//! of users are not touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::Value;

use crate::fixture::{Project, contents, overwrite, wait_until};

fn store(content: &[u8], project: &Project) -> String {
    let digest = blake3::hash(content).to_hex().to_string();
    let path = project.path(&format!("artifacts/.cache/blobs/{}/{}", &digest[..2], &digest[2..]));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    digest
}

/// The record of a stage's result, and the path of the record.
fn record(project: &Project, stage: &str) -> (PathBuf, Value) {
    let all = fs::read_dir(project.path("artifacts/.cache/results")).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| (path.clone(), serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap());
    all.map(read).find(|(_, record)| record["document"]["stage"] == stage).unwrap()
}

/// Writes a record like the cache, with a valid checksum.
fn write_record(path: &PathBuf, mut record: Value) {
    record.as_object_mut().unwrap().remove("checksum");
    let name = format!("results/{}", record["key"].as_str().unwrap());
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(b"\0").update(record.to_string().as_bytes());
    record["checksum"] = hasher.finalize().to_hex().as_str().into();
    fs::write(path, record.to_string()).unwrap();
}

fn list(project: &Project, record: &Value) -> String {
    let digest = record["digest"].as_str().unwrap();
    fs::read_to_string(project.path(&format!("artifacts/.cache/blobs/{}/{}", &digest[..2], &digest[2..]))).unwrap()
}

#[test]
fn a_stored_list_with_foreign_paths_is_none() {
    let project = Project::new();
    project.succeed("run split");
    let home = project.path("home");
    fs::create_dir_all(home.join("photos")).unwrap();
    fs::write(home.join("diary.txt"), "mine").unwrap();
    fs::write(home.join("photos/1.jpg"), "photo").unwrap();
    let before = contents(&home);
    let (path, sound) = record(&project, "split");
    let evil = store(b"# written by a result\n", &project);
    let absolute = home.join(".bashrc").display().to_string();
    for foreign in [absolute.as_str(), "../../home/.bashrc", "a/../../../home/.bashrc"] {
        let mut rows: Vec<String> = list(&project, &sound).lines().map(|row| format!("{row}\n")).collect();
        rows.push(format!("{foreign}\0{}\0{evil}\n", b"# written by a result\n".len()));
        rows.sort();
        let mut forged = sound.clone();
        forged["digest"] = store(rows.concat().as_bytes(), &project).into();
        write_record(&path, forged);
        let stdout = project.succeed("run split");
        assert!(stdout.contains("split      ran"), "{foreign}: {stdout}");
        assert!(contents(&home) == before, "{foreign}");
        project.succeed("verify");
    }
}

#[test]
fn files_outside_the_output_directories_are_not_removed() {
    let project = Project::new();
    project.succeed("run split");
    fs::create_dir_all(project.path("home")).unwrap();
    fs::write(project.path("home/split.csv"), "mine").unwrap();
    let path = project.path("artifacts/.cache/laid/split.json");
    let laid: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    // Nor is a file whose content is in the store.
    let known = b"public text";
    fs::write(project.path("home/LICENSE"), known).unwrap();
    let before = contents(&project.path("home"));
    let row = format!("LICENSE\0{}\0{}\n", known.len(), store(known, &project));
    let list = store(row.as_bytes(), &project);
    for out in [project.path("home").display().to_string(), "home".to_owned(), "artifacts/../home".to_owned()] {
        let mut forged = laid.clone();
        forged.as_object_mut().unwrap().remove("checksum");
        forged["out"] = out.clone().into();
        forged["digest"] = list.clone().into();
        forged["leaving"] = serde_json::json!([[list, out]]);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"laid/split.json\0").update(forged.to_string().as_bytes());
        forged["checksum"] = hasher.finalize().to_hex().as_str().into();
        fs::write(&path, forged.to_string()).unwrap();
        project.succeed("run split");
        assert!(contents(&project.path("home")) == before, "{out}");
    }
}

#[test]
fn links_within_results_are_not_followed() {
    let project = Project::new();
    project.succeed("run prepare");
    let home = project.path("home/cats");
    fs::create_dir_all(home.join("holiday")).unwrap();
    fs::write(home.join("diary.txt"), "mine").unwrap();
    fs::write(home.join("holiday/1.jpg"), "photo").unwrap();
    let before = contents(&home);
    for linked in ["artifacts/prepare/cat", "artifacts/prepare", "artifacts/prepare/cat"] {
        let path = project.path(linked);
        fs::remove_dir_all(&path).unwrap();
        symlink(&home, &path).unwrap();
        let status = project.succeed("status");
        assert!(status.contains("prepare    stale"), "{status}");
        assert_eq!(project.similiai("verify").status, 4);
        project.succeed("run prepare");
        assert!(path.is_dir() && !path.is_symlink(), "{linked}");
        assert!(contents(&home) == before, "{linked}");
        project.succeed("verify");
    }
    // The links themselves were kept.
    let aside = fs::read_dir(project.path("artifacts/.cache/altered/prepare")).unwrap();
    assert_eq!(aside.filter(|entry| entry.as_ref().unwrap().path().is_symlink()).count(), 3);
    // An output directory that the manifest names may be a link.
    project.edit_manifest("  prepare: {", "  prepare: {out: shared, ");
    fs::create_dir(project.path("elsewhere")).unwrap();
    symlink(project.path("elsewhere"), project.path("shared")).unwrap();
    project.succeed("run prepare");
    assert!(project.path("shared").is_symlink() && project.path("elsewhere/cat/00000.png").exists());
    assert_eq!(project.states("run prepare")[1], "prepare cached");
}

#[test]
fn modified_results_are_not_used_for_answers() {
    let project = Project::new();
    project.edit_manifest("  benchmark:", "  index: {uses: index, needs: [embed]}\n  benchmark:");
    project.succeed("run all");
    let refused = |file: &str, commands: &[&str]| {
        let path = project.path(file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        overwrite(&path, &bad);
        for command in commands {
            let outcome = project.similiai(command);
            assert_eq!(outcome.status, 4, "{file}: {command}: {}{}", outcome.stdout, outcome.stderr);
            assert!(outcome.stderr.contains("run `similiai run"), "{}", outcome.stderr);
        }
        overwrite(&path, &good);
        commands.iter().for_each(|command| drop(project.succeed(command)));
    };
    refused("artifacts/embed/embeddings.parquet", &["query --id 7", "query --id 7 --approximate"]);
    refused("artifacts/train/model.safetensors", &["query --id 7", "query --id 8"]);
    refused("artifacts/index/index.hnsw", &["query --id 7 --approximate"]);
    refused("reports/results.json", &["metrics", "metrics --json"]);
    // The command does not compare with a stored file that is damaged.
    fs::create_dir(project.path("before")).unwrap();
    fs::copy(project.path("reports/queries.csv"), project.path("before/queries.csv")).unwrap();
    project.succeed("metrics diff before benchmark");
    let (_, benchmark) = record(&project, "benchmark");
    let row = list(&project, &benchmark).lines().find(|row| row.starts_with("queries.csv\0")).unwrap().to_owned();
    let digest = row.split('\0').nth(2).unwrap();
    let blob = project.path(&format!("artifacts/.cache/blobs/{}/{}", &digest[..2], &digest[2..]));
    let text = fs::read_to_string(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, text.replacen("0.", "1.", 1)).unwrap();
    let outcome = project.similiai("metrics diff before benchmark");
    assert!(outcome.status == 4 && outcome.stderr.contains("is damaged"), "{}", outcome.stderr);
}

#[test]
fn every_file_of_the_cache_is_checked_and_repaired() {
    let project = Project::new();
    fs::create_dir(project.path("photos")).unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/reports/example.png"), project.path("photos/a.png")).unwrap();
    // The second time, there is something to read again. `embed` uses the folder `people/` of the cache.
    project.succeed("run all");
    project.succeed("run all");
    project.succeed("embed photos -o mine.parquet");
    project.succeed("embed photos -o mine.parquet");
    project.succeed("verify");
    let all = similiai::base::files::list(&project.path("artifacts/.cache")).unwrap();
    let kinds = [
        "results/",
        "laid/train.json",
        "laid/train.index",
        "seen",
        "items/",
        "people/items/",
        "people/seen",
        "history.jsonl",
        "scratch/",
        "scrub",
        "blobs/",
    ];
    for kind in kinds {
        let file = all.iter().find(|file| file.starts_with(kind)).unwrap_or_else(|| panic!("{kind}: {all:?}"));
        let path = project.path(&format!("artifacts/.cache/{file}"));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        overwrite(&path, &bytes);
        let outcome = project.similiai("verify");
        assert_eq!(outcome.status, 4, "{file}: {}", outcome.stdout);
        project.succeed("verify --repair");
        let stdout = project.succeed("verify");
        assert!(stdout.contains(": 0 damaged") && stdout.lines().count() == 1, "{file}: {stdout}");
    }
    project.succeed("run all");
}

#[test]
fn links_within_the_cache_do_not_reach_files_of_users() {
    let project = Project::trained();
    let home = project.path("home");
    fs::create_dir_all(home.join("items")).unwrap();
    for name in ["diary.txt", "data.json", "seen", "items/letters.txt"] {
        fs::write(home.join(name), "[1, 2]").unwrap();
    }
    fs::write(home.join("items").join("a".repeat(64)), "mine").unwrap();
    let before = contents(&home);
    let cache = |name: &str| project.path(&format!("artifacts/.cache/{name}"));
    for name in ["altered", "blobs", "items", "laid", "people", "results", "scratch"] {
        let aside = project.path("aside");
        let was_there = fs::rename(cache(name), &aside).is_ok();
        symlink(&home, cache(name)).unwrap();
        for command in ["verify --repair", "gc --max-size 1", "run split --set split.test=0.3"] {
            let outcome = project.similiai(command);
            assert!(
                outcome.status == 4 && outcome.stderr.contains(&format!("{name} must be a folder")),
                "{}",
                outcome.stderr
            );
        }
        fs::remove_file(cache(name)).unwrap();
        if was_there {
            fs::rename(aside, cache(name)).unwrap();
        }
    }
    // Links deeper in the cache are replaced by folders.
    let shelf = fs::read_dir(cache("blobs")).unwrap().next().unwrap().unwrap().path();
    for path in [shelf, cache("scratch/train")] {
        fs::remove_dir_all(&path).unwrap();
        symlink(&home, &path).unwrap();
    }
    project.similiai("verify --repair");
    project.succeed("run train --set train.epochs=2");
    project.succeed("verify --repair");
    let stdout = project.succeed("verify");
    assert!(stdout.contains(": 0 damaged"), "{stdout}");
    // A link that is already in the folder of kept files is not followed.
    fs::create_dir_all(cache("altered")).unwrap();
    symlink(&home, cache("altered/split")).unwrap();
    fs::write(project.path("artifacts/split/split.csv"), "mine").unwrap();
    assert!(project.succeed("run split").contains("altered/split.2/split.csv"));
    fs::remove_file(cache("altered/split")).unwrap();
    // A link that was kept is not followed either.
    let out = project.path("artifacts/split");
    symlink(&home, out.join("kept")).unwrap();
    project.succeed("run split");
    assert!(cache("altered/split/kept").is_symlink());
    fs::create_dir(out.join("kept")).unwrap();
    fs::write(out.join("kept/note"), "mine too").unwrap();
    project.succeed("run split");
    assert!(contents(&home) == before);
}

#[test]
fn special_files_in_the_cache_are_damage_and_do_not_block() {
    let project = Project::new();
    fs::write(project.path("a.png"), fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/reports/example.png")).unwrap())
        .unwrap();
    project.succeed("run embed");
    (0..2).for_each(|_| drop(project.succeed("query a.png --in .")));
    let cache = project.path("artifacts/.cache");
    for kind in [
        "seen",
        "laid/split.json",
        "results/",
        "items/",
        "people/seen",
        "history.jsonl",
        "scrub",
        "laid/split.index",
        "scratch/train/",
        "blobs/",
    ] {
        for make in ["mkfifo", "mkdir", "ln -s /nowhere"] {
            let all = similiai::base::files::list(&cache).unwrap();
            let file = all.iter().find(|file| file.starts_with(kind)).unwrap_or_else(|| panic!("{kind}: {all:?}"));
            let path = cache.join(file);
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            let mut words = make.split(' ');
            let mut command = std::process::Command::new(words.next().unwrap());
            assert!(command.args(words).arg(&path).status().unwrap().success());
            assert_ne!(project.similiai("status").status, -1, "{make} {file}");
            let outcome = project.similiai("verify");
            assert_eq!(outcome.status, 4, "{make} {file}: {}{}", outcome.stdout, outcome.stderr);
            project.succeed("verify --repair");
            let stdout = project.succeed("verify");
            assert!(stdout.contains(": 0 damaged"), "{make} {file}: {stdout}");
            if !path.exists() {
                fs::write(&path, bytes).unwrap();
            }
        }
    }
}

#[test]
fn verify_writes_nothing() {
    let project = Project::new();
    project.succeed("run split");
    let before = contents(&project.path("artifacts"));
    let readable = |mode: &str| {
        let path = project.path("artifacts");
        assert!(std::process::Command::new("chmod").args(["-R", mode]).arg(path).status().unwrap().success());
    };
    readable("a-w");
    let outcome = project.similiai("verify");
    readable("u+w");
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(contents(&project.path("artifacts")) == before);
}

#[test]
fn files_without_end_are_not_read_into_memory() {
    let project = Project::trained();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/reports/example.png"), project.path("a.png")).unwrap();
    for name in ["huge.parquet", "huge.safetensors"] {
        fs::File::create(project.path(name)).unwrap().set_len(1 << 40).unwrap();
    }
    for (command, status, said) in [
        ("query a.png --gallery huge.parquet", 4, "huge.parquet: it is not a Parquet file"),
        ("embed --join huge.parquet -o x.parquet", 4, "huge.parquet: it is not a Parquet file"),
        ("embed a.png --model huge.safetensors -o x.parquet", 4, "huge.safetensors is not a model: it has more than"),
        ("query a.png --gallery /dev/zero", 1, "/dev/zero is not a regular file and gives more than 1 GiB"),
        ("query /dev/zero", 4, "/dev/zero is no picture"),
    ] {
        let outcome = project.similiai(command);
        assert!(outcome.status == status && outcome.stderr.contains(said), "{command}: {}", outcome.stderr);
    }
}

#[test]
fn models_that_training_does_not_make_are_refused() {
    let project = Project::trained();
    let bytes = fs::read(project.path("artifacts/train/model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/reports/example.png"), project.path("a.png")).unwrap();
    let embed = |header: &Value| {
        let mut text = header.to_string();
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let forged = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes(), &bytes[8 + length..]].concat();
        fs::write(project.path("m.safetensors"), forged).unwrap();
        project.similiai("embed a.png --model m.safetensors -o x.parquet")
    };
    assert_eq!(embed(&header).status, 0);
    for (pointer, value) in [
        ("/shift", Value::from(32)),
        ("/shift", Value::from(1u64 << 62)),
        ("/preparation/size", 0.into()),
        ("/preparation/size", 20_000.into()),
        ("/preparation/sharpen/radius", (-1).into()),
        ("/preparation/sharpen/radius", 1e300.into()),
        ("/preparation/sharpen/amount", 1e9.into()),
        ("/dimension", 64.into()),
        ("/calibration/learned", serde_json::json!([[0.0, 2.0], [1.0, -5.0]])),
        ("/calibration/unseen", serde_json::json!([[1.0, 0.5], [0.0, 0.4]])),
        ("/network", "original".into()),
    ] {
        let mut about: Value = serde_json::from_str(header["__metadata__"]["similiai"].as_str().unwrap()).unwrap();
        *about.pointer_mut(pointer).unwrap() = value.clone();
        let mut forged = header.clone();
        forged["__metadata__"]["similiai"] = about.to_string().into();
        let outcome = embed(&forged);
        assert_eq!(outcome.status, 4, "{pointer} = {value}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("m.safetensors"), "{}", outcome.stderr);
    }
    let mut exchanged = header.clone();
    let (one, two) = (header["block1.norm2.epsilon"].clone(), header["block2.norm2.offset"].clone());
    (exchanged["block1.norm2.epsilon"], exchanged["block2.norm2.offset"]) = (two, one);
    let outcome = embed(&exchanged);
    assert!(outcome.status == 4 && outcome.stderr.contains("does not fit its network"), "{}", outcome.stderr);
}

#[test]
fn a_working_folder_that_is_emptied_is_no_result() {
    let project = Project::new();
    // The training takes long enough to be disturbed in its working folder.
    project.succeed("run split");
    let mut child = project.start("run train --set train.epochs=9999");
    let working = || similiai::base::files::list(&project.path("artifacts/.cache/scratch/train")).unwrap_or_default();
    wait_until("the first checkpoint", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        !working().is_empty()
    });
    // Another command finds the folder in use, even without the lock file, and does not remove it.
    fs::remove_file(project.path("artifacts/.cache/lock")).unwrap();
    let folders = || fs::read_dir(project.path("artifacts/.cache/tmp")).unwrap().count();
    let before = folders();
    assert!(before > 0);
    project.succeed("gc --dry-run");
    assert_eq!(folders(), before);
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
