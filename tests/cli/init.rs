//! `similiai init`: what it writes for each kind of folder, and what it refuses.

use std::fs;

use serde_json::Value;

use crate::fixture::{Outcome, Project};
use crate::pictures::{encoded, picture, write_classes};

/// An empty folder.
fn empty() -> Project {
    let project = Project::new();
    fs::remove_file(project.path("pipeline.yaml")).unwrap();
    fs::remove_file(project.path("sample.tar.gz")).unwrap();
    project
}

fn write_photos(project: &Project, folder: &str, count: u32) {
    fs::create_dir_all(project.path(folder)).unwrap();
    for number in 0..count {
        let bytes = encoded(&picture(number, 40), image::ImageFormat::Png);
        fs::write(project.path(folder).join(format!("{number}.png")), bytes).unwrap();
    }
}

fn json(outcome: &Outcome) -> Value {
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
#[cfg(feature = "sample")]
fn a_new_project_has_all_that_a_run_needs() {
    let project = empty();
    let told = project.succeed("init demo");
    assert!(told.ends_with("next:\n  cd demo\n  similiai run all\n"), "{told}");
    for name in [".gitignore", "artifacts", "reports", "data/cifar-10-sample-2k.tar.gz", "pipeline.yaml"] {
        assert!(project.path("demo").join(name).exists(), "{name}");
    }
    project.succeed("-C demo run split");
    let split = fs::read_to_string(project.path("demo/artifacts/split/split.csv")).unwrap();
    assert_eq!(split.lines().count(), 2001);
    // What is there is never overwritten.
    let before = fs::read(project.path("demo/pipeline.yaml")).unwrap();
    let outcome = project.similiai("init demo");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("demo/pipeline.yaml exists already; choose another folder"), "{}", outcome.stderr);
    assert_eq!(fs::read(project.path("demo/pipeline.yaml")).unwrap(), before);
    fs::remove_file(project.path("demo/pipeline.yaml")).unwrap();
    fs::write(project.path("demo/.gitignore"), "mine").unwrap();
    project.succeed("init demo");
    assert_eq!(fs::read(project.path("demo/pipeline.yaml")).unwrap(), before);
    assert_eq!(fs::read(project.path("demo/.gitignore")).unwrap(), b"mine");
    fs::remove_file(project.path("demo/pipeline.yaml")).unwrap();
    fs::write(project.path("demo/data/cifar-10-sample-2k.tar.gz"), "mine").unwrap();
    let outcome = project.similiai("init demo");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("exists already, with another content"), "{}", outcome.stderr);
    assert!(!project.path("demo/pipeline.yaml").exists());
}

#[test]
fn folders_of_classes_are_learned() {
    let project = empty();
    write_classes(&project.path("photos: old"), &["cups", "shoes"], 8);
    write_photos(&project, "photos: old/few", 3);
    fs::write(project.path("photos: old/cups/broken.png"), "no picture").unwrap();
    let outcome = project.similiai("init mine --pictures 'photos: old'");
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let told = outcome.stdout;
    assert!(told.starts_with("found 20 pictures below photos: old: 3 classes with 3 to 9 pictures each\n"), "{told}");
    assert!(told.contains("`run all` fails with them:\n  few (3)\n"), "{told}");
    assert!(told.contains("1 of 20 pictures cannot be read, and will be skipped:\n  photos: old/cups/broken.png"));
    fs::remove_dir_all(project.path("photos: old/few")).unwrap();
    project.succeed("-C mine run split");
    let split = fs::read_to_string(project.path("mine/artifacts/split/split.csv")).unwrap();
    assert_eq!(split.lines().count(), 17);
}

#[test]
fn pictures_inside_the_project_are_named_from_there() {
    let project = empty();
    write_classes(&project.path("photos"), &["cups", "shoes"], 8);
    let made = json(&project.similiai("init --pictures photos --json"));
    assert_eq!((&made["template"], &made["found"]["classes"]["cups"]), (&"classes".into(), &8.into()));
    let manifest = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    assert!(manifest.contains("    source: photos\n"), "{manifest}");
}

#[test]
fn folders_that_say_what_is_for_testing_keep_their_split() {
    let project = empty();
    for (part, count) in [("train", 8), ("test", 4)] {
        write_classes(&project.path("photos").join(part), &["cups", "shoes"], count);
    }
    let told = project.succeed("init --pictures photos");
    assert!(told.contains("found 24 pictures below photos: 2 classes with 12 pictures each"), "{told}");
    let manifest = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    assert!(manifest.contains("    method: official\n"), "{manifest}");
    project.succeed("run split");
}

#[test]
#[cfg(feature = "sample")]
fn pictures_without_classes_are_for_searching() {
    let project = empty();
    write_photos(&project, "photos", 9);
    fs::write(project.path("photos/shot.heic"), "").unwrap();
    let outcome = project.similiai("init mine --pictures photos");
    let (told, photos) = (&outcome.stdout, project.path("photos"));
    assert!(told.starts_with("found 9 pictures below photos: no classes to learn from\n"), "{told}");
    assert!(told.contains(&format!("similiai query PICTURE --in {}\n", photos.display())), "{told}");
    assert!(outcome.stderr.contains("HEIC pictures cannot be read"), "{}", outcome.stderr);
    assert!(project.path("mine/data/cifar-10-sample-2k.tar.gz").exists());
    write_classes(&project.path("few"), &["cups", "shoes"], 3);
    let told = project.succeed("init few-pictures --pictures few");
    assert!(
        told.contains(
            "to learn classes, two folders need 6 pictures or more; these have fewer:\n  cups (3)\n  shoes (3)\n"
        ),
        "{told}"
    );
    let outcome = project.similiai("init other --template classes --pictures photos");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("needs two folders with 6 pictures or more"), "{}", outcome.stderr);
    assert!(!project.path("other").exists());
}

#[test]
fn without_pictures_there_is_a_place_for_them() {
    let project = empty();
    let told = project.succeed("init --template classes");
    assert!(told.contains("put your pictures into pictures/<class>/<picture>\n"), "{told}");
    write_classes(&project.path("pictures"), &["cups", "shoes"], 8);
    project.succeed("run split");
}

#[test]
fn a_folder_without_pictures_is_refused() {
    let project = empty();
    fs::create_dir(project.path("photos")).unwrap();
    fs::write(project.path("photos/notes.txt"), "").unwrap();
    for (folder, why) in [
        ("photos", "there is no PNG, JPEG or WebP below photos"),
        ("photos/notes.txt", "photos/notes.txt is not a folder"),
        ("nowhere", "nowhere does not exist"),
    ] {
        let outcome = project.similiai(&format!("init mine --pictures {folder}"));
        assert_eq!(outcome.status, 2);
        assert!(outcome.stderr.contains(why), "{}", outcome.stderr);
        assert!(!project.path("mine").exists());
    }
    let outcome = project.similiai("init mine --template sample --pictures photos");
    assert!(outcome.status == 2 && outcome.stderr.contains("leave out --pictures"), "{}", outcome.stderr);
}
