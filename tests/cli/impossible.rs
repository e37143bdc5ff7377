//! Runs that cannot succeed, by the manifest or by the results that exist: they are refused before any work.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::fixture::{Project, contents};
use crate::pictures::write_classes;

const TRAIN: &str = "uses: train, needs: [prepare, split]";

/// Adds `more` to the manifest and runs `target`, which must be refused before the training with the message `said`.
fn refused(project: &Project, more: &str, target: &str, said: &str) {
    let path = project.path("pipeline.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}{more}")).unwrap();
    let outcome = project.similiai(&format!("run {target}"));
    assert!(outcome.status != 0 && outcome.stderr.contains(said), "{said}: {}{}", outcome.stdout, outcome.stderr);
    for training in ["train", "short", "a-1", "b-2", "btwo"] {
        assert!(!project.path(&format!("artifacts/{training}")).exists(), "{training}: {}", outcome.stdout);
    }
    fs::write(&path, text).unwrap();
}

#[test]
fn wrong_settings_are_reported_together() {
    let project = Project::new();
    let sets = ["train.epochs=x", "train.classes_per_batch=y", "prepare.size=-1", "nosuch.a=1", "nothing"];
    let outcome = project.similiai(&format!("run all --set {}", sets.join(" --set ")));
    assert_eq!(outcome.status, 2);
    for said in
        ["`epochs` of `train`", "`classes_per_batch` of `train`", "`size` of `prepare`", "`nosuch`", "`=` is missing"]
    {
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
    }
    assert!(!project.path("artifacts").exists());
}

#[test]
fn an_out_that_is_no_folder() {
    let project = Project::new();
    fs::write(project.path("notes"), "mine").unwrap();
    symlink("no/such/folder", project.path("nowhere")).unwrap();
    for out in ["notes", "notes/below", "nowhere"] {
        let outcome = project.similiai(&format!("run all --set benchmark.out={out}"));
        assert!(outcome.status == 2 && outcome.stderr.contains("is not a folder"), "{out}: {}", outcome.stderr);
        assert!(!project.path("artifacts/fetch").exists());
    }
    assert_eq!(fs::read_to_string(project.path("notes")).unwrap(), "mine");
    assert!(project.path("nowhere").is_symlink());
}

#[test]
fn an_out_that_cannot_be_written() {
    let project = Project::new();
    let closed = project.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
    let (status, stderr) = project.as_nobody(&["run", "split", "--set", "split.out=closed/split"]);
    assert!(status == Some(2) && stderr.contains("closed: Permission denied"), "{stderr}");
    assert!(!project.path("artifacts/fetch").exists());
    // Files that are already checked out need no write access.
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o777)).unwrap();
    assert_eq!(project.as_nobody(&["run", "split", "--set", "split.out=closed/split"]).0, Some(0));
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o555)).unwrap();
    assert_eq!(project.as_nobody(&["run", "split", "--set", "split.out=closed/split"]).0, Some(0));
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o777)).unwrap();
}

#[test]
fn variants_without_their_baseline() {
    let project = Project::new();
    let variants = |names: [&str; 2], baseline: &str| {
        let [one, two] = names;
        format!(
            "  {one}: {{{TRAIN}}}\n  {two}: {{{TRAIN}, seed: 2}}\n  sum: {{uses: compare, needs: [{one}, {two}], baseline: \
             {baseline}}}\n"
        )
    };
    refused(&project, &variants(["a-1", "b-2"], "a"), "sum", "there is no `a-2`");
    refused(&project, &variants(["a-1", "b-2"], "full"), "sum", "no instance is called `full-");
    refused(&project, &variants(["a-1", "btwo"], "a"), "sum", "is not like");
}

#[test]
fn trainings_that_cannot_be_measured_together() {
    let project = Project::new();
    let short = format!("  short: {{{TRAIN}, epochs: 1}}\n");
    let two = "  two: {uses: benchmark, needs: [prepare, train, short, embed], out: two}\n";
    refused(&project, &(short + two), "two", "no embeddings of it");
    // The other split runs before the training, so that it exists when it is checked.
    let path = project.path("pipeline.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let other = "  split2: {uses: split, needs: [prepare], seed: 9}\n";
    fs::write(&path, text.replace("  train:", &format!("{other}  train:"))).unwrap();
    let unpaired = "  embed2: {uses: embed, needs: [prepare, split2, short]}\n  two: {uses: benchmark, needs: [prepare, train, \
                    embed, embed2], out: two}\n";
    refused(
        &project,
        &(format!("  short: {{{TRAIN}, epochs: 2}}\n") + unpaired),
        "two",
        "not the training that it uses",
    );
    let two = "  embed2: {uses: embed, needs: [prepare, split2, train]}\n  two: {uses: benchmark, needs: [prepare, train, embed, \
               embed2], out: two}\n";
    refused(&project, two, "two", "cannot be compared");
}

#[test]
fn needs_that_do_not_fit_together() {
    let project = Project::new();
    let two = "  two: {uses: embed, needs: [prepare, split, split2, train]}\n";
    let split = "  split2: {uses: split, needs: [prepare], test: 0.5}\n";
    refused(&project, &format!("{split}{two}"), "two", "needs one instance of `split`, and `needs` names two");
    // Prepares fewer pictures than were split. This runs before the training, so that it exists when it is checked.
    let path = project.path("pipeline.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let fewer = "  fewer: {uses: prepare, needs: [fetch], images_per_class: 4, size: 64}\n";
    fs::write(&path, text.replace("  train:", &format!("{fewer}  train:"))).unwrap();
    for two in [
        "  two: {uses: embed, needs: [fewer, split, train]}\n".to_owned(),
        format!("  two: {{{}}}\n", TRAIN.replace("[prepare", "[fewer")),
        "  two: {uses: benchmark, needs: [fewer, train, embed], out: two}\n".to_owned(),
    ] {
        refused(&project, &two, "fewer two", "name the pictures of `split` in `needs`");
    }
}

#[test]
fn results_do_not_overwrite_files_of_users() {
    let project = Project::new();
    write_classes(&project.path("mine"), &["a", "b", "c"], 10);
    let before = contents(&project.path("mine"));
    fs::create_dir_all(project.path("artifacts/split")).unwrap();
    symlink("mine", project.path("way")).unwrap();
    symlink("artifacts/split", project.path("way-in")).unwrap();
    let own = "all --set fetch.source=mine --set prepare.images_per_class=null";
    let cache = project.path("artifacts/.cache/results").display().to_string();
    for (out, why) in [
        ("mine", "`fetch` reads ./mine"),
        ("mine/a", "`fetch` reads ./mine"),
        ("way/a", "`fetch` reads ./mine"),
        (cache.as_str(), "the cache is there"),
        (&cache[..cache.len() - "/.cache/results".len()], "the cache is there"),
        ("way-in", "`split` writes there"),
        ("way-in/x", "it is in the folder of `split`"),
    ] {
        refused(&project, "", &format!("{own} --set prepare.out={out}"), why);
    }
    refused(&project, "", "all --set fetch.source=.", "`fetch` reads");
    refused(&project, "", "all --set fetch.source=artifacts/split/x.tar.gz", "`fetch` reads");
    assert!(contents(&project.path("mine")) == before);
    // A file of the user is kept, even if the store has the same content.
    fs::create_dir_all(project.path("shared/a")).unwrap();
    let copy = fs::read(project.path("mine/a/00.png")).unwrap();
    project.succeed(&format!("run prepare {}", &own["all ".len()..]));
    fs::write(project.path("shared/a/00001.png"), &copy).unwrap();
    let run = project.similiai(&format!("run prepare --set prepare.out=shared {}", &own["all ".len()..]));
    assert!(run.status == 0 && run.stdout.contains("kept aside"), "{}{}", run.stdout, run.stderr);
    assert_eq!(fs::read(project.path("artifacts/.cache/altered/prepare/a/00001.png")).unwrap(), copy);
}

#[test]
fn parts_without_a_class_in_common() {
    let project = Project::new();
    write_classes(&project.path("parted/train"), &["a", "b", "c", "d"], 8);
    fs::create_dir(project.path("parted/test")).unwrap();
    for class in ["c", "d"] {
        let [from, to] = ["train", "test"].map(|part| project.path(&format!("parted/{part}/{class}")));
        fs::rename(from, to).unwrap();
    }
    let own = "--set fetch.source=parted --set prepare.images_per_class=null --set split.method=official";
    refused(&project, "", &format!("all {own}"), "no class has both training and test pictures");
}

#[test]
fn names_and_values_out_of_range() {
    let project = Project::new();
    refused(&project, &format!("  {}: {{uses: fetch}}\n", "a".repeat(101)), "all", "is not a valid instance name");
    refused(&project, "  -x: {uses: fetch}\n", "all", "is not a valid instance name");
    refused(&project, "", "all --set train.cross_entropy.mixup=1e-9", "a mixup of 0 or of 0.01");
    refused(&project, "", "all --set train.triplets.validation=18446744073709551615", "validation of 1 to");
    let deep = format!("all --set train.{}x=1", "a.".repeat(15_000));
    refused(&project, "", &deep, "no parameter has a name of 30007 characters");
    // Each list has a hundred aliases of the list before.
    let aliases = |of: char| vec![format!("*{of}"); 100].join(", ");
    let (b, c) = (aliases('a'), aliases('b'));
    let bomb = format!("profiles:\n  a: &a {{<<: {{x: 1}}}}\n  b: &b [{b}]\n  c: &c [{c}]\n  d: [{}]\n", aliases('c'));
    refused(&project, &bomb, "all", "aliases expand to more than 100000 values");
}
