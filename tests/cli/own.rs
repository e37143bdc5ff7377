//! Training on the user's own pictures: folders of classes, archives of them, CIFAR-100, and errors in them.

use crate::fixture::{Member, Project, archive};
use crate::pictures::{encoded, picture, write_classes};

const CLASSES: [&str; 3] = ["cups", "Hände", "old shoes"];
const OWN: &str = "--set fetch.source=photos --set prepare.images_per_class=null";

fn project() -> Project {
    let project = Project::new();
    write_classes(&project.path("photos"), &CLASSES, 10);
    project
}

fn text(project: &Project, path: &str) -> String {
    std::fs::read_to_string(project.path(path)).unwrap()
}

#[test]
fn a_folder_of_classes_runs_through_the_pipeline() {
    let project = project();
    std::fs::write(project.path("photos/notes.txt"), "no picture").unwrap();
    std::fs::write(project.path("photos/cups/.hidden.png"), "no picture").unwrap();
    project.succeed(&format!("run all {OWN}"));
    let split = text(&project, "artifacts/split/split.csv");
    assert_eq!(split.lines().count(), 31);
    assert!(split.contains("Hände/00003.png,0,Hände,") || split.contains("Hände/00003.png,1,Hände,"), "{split}");
    let sources = text(&project, "artifacts/prepare/sources.csv");
    assert!(sources.contains("old shoes/00001.png,old shoes/01.JPG"), "{sources}");
    let side = |path: &str| image::open(project.path(path)).unwrap().into_rgb8().dimensions();
    assert_eq!(side("artifacts/prepare/cups/00002.png"), (64, 64));
    // After one picture is added to the last class, one picture is prepared.
    std::fs::write(project.path("photos/old shoes/99.png"), encoded(&picture(2, 40), image::ImageFormat::Png)).unwrap();
    let lines = project.succeed(&format!("run prepare {OWN} --json"));
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["stages"][1]["items"], serde_json::json!({"made": 1, "all": 31}), "{last}");
}

#[test]
fn an_archive_of_a_folder_gives_the_same_pictures() {
    let project = project();
    project.succeed(&format!("run prepare {OWN}"));
    let from_folder = crate::fixture::contents(&project.path("artifacts/prepare"));
    let list = similiai::base::files::list(&project.path("photos")).unwrap();
    let member = |path: &String| {
        // Old headers allow only ASCII names. The name of the folder above the classes does not matter.
        Member::file(&format!("any/{path}"), std::fs::read(project.path("photos").join(path)).unwrap())
    };
    let members: Vec<Member> = list.iter().map(member).chain([Member::file("any/README.md", "no picture")]).collect();
    std::fs::write(project.path("photos.tar.gz"), archive(&members)).unwrap();
    project.succeed(&format!("run prepare {}", OWN.replace("=photos", "=photos.tar.gz")));
    assert_eq!(crate::fixture::contents(&project.path("artifacts/prepare")), from_folder);
    let mut nowhere = members.clone();
    nowhere.push(Member::file("alone.png", "x"));
    std::fs::write(project.path("photos.tar.gz"), archive(&nowhere)).unwrap();
    let outcome = project.similiai("run fetch --set fetch.source=photos.tar.gz");
    assert_eq!(outcome.status, 4);
    assert!(outcome.stderr.contains("alone.png: it is in no folder that names its class"), "{}", outcome.stderr);
}

#[test]
fn cifar_100_is_read_by_its_fine_labels() {
    let names: String = (0..100).map(|class| format!("class_{class}\n")).collect();
    let record = |class: u8, last: u8| [vec![class / 5, class], vec![class; 3071], vec![last]].concat();
    let train: Vec<u8> = (0..100).flat_map(|class| [record(class, 0), record(99 - class, 255)].concat()).collect();
    let members = [
        Member::file("cifar-100-binary/coarse_label_names.txt", "twenty of them"),
        Member::file("cifar-100-binary/fine_label_names.txt", names),
        Member::file("cifar-100-binary/train.bin", train.clone()),
        Member::file("cifar-100-binary/test.bin", [vec![1, 7], vec![200; 3072]].concat()),
    ];
    let project = Project::with(&archive(&members));
    project.succeed("run prepare --set prepare.images_per_class=2");
    let list = text(&project, "artifacts/prepare/images.csv");
    assert_eq!(list.lines().count(), 201);
    assert!(list.contains("class_42/00001.png,42,class_42,train"), "{list}");
    let picture = image::open(project.path("artifacts/prepare/class_42/00001.png")).unwrap().into_rgb8();
    assert_eq!(picture.get_pixel(30, 30).0, [42; 3]);
    project.succeed("run split --set prepare.images_per_class=null --set split.method=official");
    assert_eq!(text(&project, "artifacts/split/split.csv").matches(",test").count(), 1);

    let mut wrong = members.to_vec();
    wrong[2].bytes[3074 + 1] = 100;
    let outcome = Project::with(&archive(&wrong)).similiai("run fetch");
    assert_eq!(outcome.status, 4);
    assert!(
        outcome.stderr.contains("train.bin has label 100 in record 1; labels go from 0 to 99"),
        "{}",
        outcome.stderr
    );
    let mut mixed = members.to_vec();
    mixed.push(Member::file("c/data_batch_1.bin", train));
    let outcome = Project::with(&archive(&mixed)).similiai("run fetch");
    assert!(outcome.stderr.contains("data_batch_1.bin has another layout"), "{}", outcome.stderr);
}

#[test]
fn pictures_that_cannot_be_read_are_named_or_left_out() {
    let project = project();
    let good = encoded(&picture(1, 0), image::ImageFormat::Jpeg);
    std::fs::write(project.path("photos/cups/03a.jpg"), &good[..good.len() / 2]).unwrap();
    std::fs::write(project.path("photos/Hände/99.png"), "hello").unwrap();
    let outcome = project.similiai(&format!("run prepare {OWN}"));
    assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    for said in [
        "2 pictures cannot be read",
        "cups/03a.jpg: it is a damaged or truncated picture",
        "Hände/99.png: it is no picture",
        "on_bad_image: skip",
    ] {
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
    }
    assert!(!project.path("artifacts/prepare").exists());
    let outcome = project.similiai(&format!("run prepare {OWN} --set prepare.on_bad_image=skip"));
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("2 pictures cannot be read and are skipped"), "{}", outcome.stderr);
    let skipped = text(&project, "artifacts/prepare/skipped.csv");
    assert!(
        skipped.lines().count() == 3 && skipped.contains("cups/03a.jpg,it is a damaged or truncated picture"),
        "{skipped}"
    );
    // The other pictures keep their positions.
    assert!(text(&project, "artifacts/prepare/sources.csv").contains("cups/00005.png,cups/04.JPG"));
}

#[test]
fn too_few_pictures_are_refused() {
    let project = project();
    let outcome = project.similiai("run prepare --set fetch.source=photos");
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let outcome = project.similiai("run prepare --set fetch.source=photos --set prepare.images_per_class=11");
    assert_eq!(outcome.status, 4);
    assert!(outcome.stderr.contains("10 pictures of class `Hände`, fewer than the 11 requested"), "{}", outcome.stderr);
    for variant in 4..10 {
        let ending = ["png", "JPG", "webp"][variant % 3];
        std::fs::remove_file(project.path(&format!("photos/cups/{variant:02}.{ending}"))).unwrap();
    }
    let outcome = project.similiai(&format!("run train {OWN}"));
    assert_eq!(outcome.status, 4);
    assert!(outcome.stderr.contains("class `cups` has 3 training pictures, and 4 are needed"), "{}", outcome.stderr);
    std::fs::create_dir(project.path("flat")).unwrap();
    std::fs::write(project.path("flat/a.png"), encoded(&picture(0, 0), image::ImageFormat::Png)).unwrap();
    let outcome = project.similiai("run fetch --set fetch.source=flat");
    assert_eq!(outcome.status, 4);
    assert!(outcome.stderr.contains("no picture at <class>/<name>.png"), "{}", outcome.stderr);
    let digest = "0".repeat(64);
    let outcome = project.similiai(&format!("run fetch --set fetch.source=photos --set fetch.sha256={digest}"));
    assert_eq!(outcome.status, 1);
    assert!(
        outcome.stderr.contains("is a folder") && outcome.stderr.contains("fetch.sha256=null"),
        "{}",
        outcome.stderr
    );
}
