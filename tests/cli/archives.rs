//! Archives that are not what they claim to be: they are refused with exit status 4 and a reason, and leave no files.

use flate2::write::GzEncoder;
use std::io::Write;

use crate::fixture::{Member, NAMES, Project, archive, batch, sound};

/// Runs fetch on `bytes`, which must be refused for a reason that contains each of `reasons`.
fn refused(bytes: &[u8], reasons: &[&str]) {
    let project = Project::with(bytes);
    let outcome = project.similiai("run fetch");
    assert_eq!(outcome.status, 4, "{reasons:?}: {}", outcome.stderr);
    for reason in reasons {
        assert!(outcome.stderr.contains(reason), "{reason}: {}", outcome.stderr);
    }
    assert!(!project.path("artifacts/fetch").exists(), "{reasons:?}");
    let left = similiai::base::files::list(&project.path("artifacts")).unwrap();
    assert_eq!(left, [".cache/last_run.json", ".cache/lock", ".cache/seen"], "{reasons:?}");
}

fn refused_with(extra: Member, reasons: &[&str]) {
    let mut members = sound();
    members.insert(1, extra);
    refused(&archive(&members), reasons);
}

/// A valid archive with another batch.
fn with_batch(bytes: Vec<u8>) -> Vec<u8> {
    let mut members = sound();
    members[1].bytes = bytes;
    archive(&members)
}

fn with_names(names: &str) -> Vec<u8> {
    let mut members = sound();
    members[0].bytes = names.into();
    archive(&members)
}

#[test]
fn paths_that_lead_outside() {
    refused_with(Member::file("../data_batch_2.bin", batch(1)), &["../data_batch_2.bin", "outside its folder"]);
    refused_with(Member::file("/tmp/data_batch_2.bin", batch(1)), &["/tmp/data_batch_2.bin", "outside its folder"]);
}

#[test]
fn pictures_that_lead_outside_or_clash() {
    let refused = |extra: Member, reasons| refused(&archive(&[Member::file("cups/a.png", "x"), extra]), reasons);
    refused(Member::file("../cups/b.png", "x"), &["../cups/b.png", "outside its folder"]);
    refused(Member::file("Cups/A.png", "x"), &["Cups/A.png: the archive has this name twice"]);
    refused(Member::file("more/cups/b.png", "x"), &["more/cups/b.png: it is at another folder depth"]);
    refused(Member::file("cups/a\nb.png", "x"), &["is no name for a class or a picture"]);
    refused(Member::file("cups/b.png", vec![0; 250 << 20]), &["it unpacks to more than"]);
    refused(Member::file("cups/b.png", vec![0; 300 << 20]), &["cups/b.png: it has 314572800 bytes, more than the"]);
}

#[test]
fn special_files() {
    for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Char, tar::EntryType::Fifo] {
        refused_with(
            Member { path: "c/data_batch_2.bin".into(), kind, bytes: Vec::new() },
            &["c/data_batch_2.bin", if kind == tar::EntryType::Link { "is a link" } else { "a device" }],
        );
    }
}

#[test]
fn duplicate_members() {
    refused_with(sound()[1].clone(), &["data_batch_1.bin: the archive has this name twice"]);
}

#[test]
fn batches_of_the_wrong_length() {
    let reason = &["data_batch_1.bin", "must have 1 to 10000 records of 3073 bytes"];
    refused(&with_batch(batch(1)[..3072].to_vec()), reason);
    refused(&with_batch(Vec::new()), reason);
    refused(&with_batch(batch(1001)), reason);
}

#[test]
fn labels_above_nine() {
    let mut bytes = batch(2);
    bytes[3073 * 4] = 10;
    refused(&with_batch(bytes), &["data_batch_1.bin has label 10 in record 4"]);
}

#[test]
fn invalid_class_names() {
    refused(&with_names("a\nb\n"), &["batches.meta.txt", "2 class names"]);
    refused(&with_names(&NAMES.replace("truck", "plane")), &["batches.meta.txt", "\"plane\" is listed twice"]);
    refused(&with_names(&NAMES.replace("truck", "../truck")), &["\"../truck\" cannot be the name of a folder"]);
}

#[test]
fn missing_members() {
    refused(&archive(&sound()[1..]), &["batches.meta.txt", "is missing"]);
    refused(&archive(&sound()[..1]), &["no batch of images"]);
}

#[test]
fn damage_to_the_archive_itself() {
    let good = archive(&sound());
    refused(&good[..good.len() / 2], &["data_batch_1.bin ends in record"]);
    refused(b"not an archive", &["not a valid gzip-compressed tar archive"]);
    refused(&[good.as_slice(), b"more"].concat(), &["bytes after the end"]);
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x55;
    refused(&flipped, &["sample.tar.gz"]);
}

#[test]
fn bytes_after_the_end_of_the_tar() {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(archive(&sound()).as_slice()), &mut plain).unwrap();
    gzip.write_all(&plain).unwrap();
    gzip.write_all(b"hidden").unwrap();
    refused(&gzip.finish().unwrap(), &["bytes after the end"]);
}

#[test]
fn zeros_after_the_end_of_the_gzip_are_ignored() {
    let padded = [archive(&sound()), vec![0; 700]].concat();
    Project::with(&padded).succeed("run fetch");
}

#[test]
fn odd_members_are_skipped_on_request() {
    let odd = |path: &str, kind| Member { path: path.into(), kind, bytes: Vec::new() };
    let members = [
        Member::file("cups/a.png", "x"),
        Member::file("cups/A.png", "y"),
        Member::file("more/cups/b.png", "x"),
        Member::file("cups/a\nb.png", "x"),
        Member::file("cups/.hidden.png", "x"),
        Member::file("alone.png", "x"),
        odd("cups/link.png", tar::EntryType::Symlink),
        odd("cups/pipe.png", tar::EntryType::Fifo),
        Member::file("deep/er/hats/c.png", "other"),
        Member::file("hats/c.png", "z"),
    ];
    let project = Project::with(&archive(&members));
    project.succeed("run fetch --set fetch.on_bad_image=skip");
    let found = similiai::base::files::list(&project.path("artifacts/fetch")).unwrap();
    assert_eq!(found, ["cups/a.png", "hats/c.png", "skipped.csv"]);
    assert_eq!(std::fs::read_to_string(project.path("artifacts/fetch/hats/c.png")).unwrap(), "z");
    let skipped = std::fs::read_to_string(project.path("artifacts/fetch/skipped.csv")).unwrap();
    assert_eq!(skipped.matches("has this name twice").count(), 1, "{skipped}");
    for odd in ["more/cups/b.png", "alone.png", "cups/link.png", "cups/pipe.png", "cups/.hidden.png"] {
        assert!(skipped.contains(odd), "{odd}: {skipped}");
    }
}

#[test]
fn a_picture_at_another_depth_is_skipped_even_if_it_comes_first() {
    let members = ["root/cover.png", "root/cups/a.png", "root/cups/cover.png", "root/hats/c.png"];
    let project = Project::with(&archive(&members.map(|path| Member::file(path, path))));
    let outcome = project.similiai("run fetch");
    assert!(outcome.status == 4 && outcome.stderr.contains("root/cover.png: it is at another"), "{}", outcome.stderr);
    project.succeed("run fetch --set fetch.on_bad_image=skip");
    let found = similiai::base::files::list(&project.path("artifacts/fetch")).unwrap();
    assert_eq!(found, ["cups/a.png", "cups/cover.png", "hats/c.png", "skipped.csv"]);
    assert_eq!(std::fs::read_to_string(project.path("artifacts/fetch/hats/c.png")).unwrap(), members[3]);
    project.succeed("verify");
}

#[test]
fn an_archive_without_usable_pictures() {
    let link = Member { path: "cups/a.png".into(), kind: tar::EntryType::Link, bytes: Vec::new() };
    let outcome = Project::with(&archive(&[link])).similiai("run fetch --set fetch.on_bad_image=skip");
    assert!(outcome.status == 4 && outcome.stderr.contains("it has no batches"), "{}", outcome.stderr);
}

#[test]
fn a_gzip_bomb() {
    let bomb = Member::file("cifar-10-batches-bin/readme.html", vec![0; 300 << 20]);
    refused_with(bomb, &["it unpacks to more than", "the limit for an archive of pictures"]);
}

#[test]
fn digests_that_do_not_match() {
    let project = Project::new();
    let zeros = "0".repeat(64);
    let outcome = project.similiai(&format!("run fetch --set fetch.sha256={zeros}"));
    assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("its sha256 is") && outcome.stderr.contains(&zeros), "{}", outcome.stderr);
    assert!(!project.path("artifacts/fetch").exists());
    assert_eq!(project.similiai("run fetch --set fetch.md5=xyz").status, 2);
    let outcome = project.similiai(&format!("run fetch --set fetch.contents={zeros}"));
    assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("its content has the digest") && !project.path("artifacts/fetch").exists());
    // The digest of the content is that of the result, however the archive is packed.
    let events = project.succeed("run fetch --json");
    let last: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    let digest = last["stages"][0]["digest"].as_str().unwrap();
    project.succeed(&format!("run fetch --force --set fetch.contents={digest}"));
}

#[test]
fn a_source_that_is_not_there() {
    let outcome = Project::new().similiai("run fetch --set fetch.source=nowhere.tar.gz");
    assert_eq!(outcome.status, 1);
    assert!(outcome.stderr.contains("nowhere.tar.gz"), "{}", outcome.stderr);
    let outcome = Project::new().similiai("run fetch --set fetch.source=ftp://example.org/x.tar.gz");
    assert_eq!(outcome.status, 2);
    assert!(outcome.stderr.contains("starts with http, https or file"), "{}", outcome.stderr);
}
