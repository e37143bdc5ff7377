//! Inputs from outside: pictures that need gigabytes, files that cannot be read, names that control terminals, values
//! as people type them, and files that other programs write.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use image::{DynamicImage, ImageFormat, RgbImage, Rgba, RgbaImage};
use serde_json::Value;

use crate::bomb;
use crate::fixture::{Member, Outcome, Project, archive};
use crate::pictures::{encoded, picture, write_classes};

const STEERS: &str = "\x1b]0;owned\x07\x1b[2K";

fn photo(project: &Project, path: &str, variant: u32) {
    let path = project.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, encoded(&picture(variant % 5, variant), ImageFormat::Png)).unwrap();
}

/// Runs `similiai` with arguments that may contain spaces.
fn similiai(project: &Project, arguments: &[&str]) -> Outcome {
    let output = project.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Outcome { status: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_picture_that_needs_gigabytes_fails_alone() {
    let project = Project::trained();
    photo(&project, "photos/good.png", 1);
    fs::write(project.path("photos/bomb.webp"), bomb::webp(16_000)).unwrap();
    let outcome = project.similiai("query photos/bomb.webp photos/good.png -k 1 --json");
    assert_eq!((outcome.status, outcome.stdout.lines().count()), (4, 1), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("photos/bomb.webp cannot be decoded: the decoder needed more than"),
        "{}",
        outcome.stderr
    );
    let outcome = project.similiai("embed photos -o mine.parquet");
    assert!(outcome.status == 4 && outcome.stdout.starts_with("1 pictures in mine.parquet"), "{}", outcome.stderr);
    let outcome = project.similiai("duplicates photos --json");
    let found: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!((found["pictures"].as_u64(), found["bad"].as_array().unwrap().len()), (Some(1), 1));
    // A large file that does not start like a picture is not read to its end.
    fs::File::create(project.path("zeros.png")).unwrap().set_len(1 << 40).unwrap();
    let outcome = project.similiai("query zeros.png");
    assert!(outcome.status == 4 && outcome.stderr.contains("it begins neither as PNG"), "{}", outcome.stderr);
    fs::rename(project.path("zeros.png"), project.path("photos/zeros.png")).unwrap();
    let outcome = project.similiai("query photos/good.png --in photos");
    assert!(outcome.status == 4 && outcome.stderr.contains("zeros.png"), "{}", outcome.stderr);
    fs::remove_file(project.path("photos/zeros.png")).unwrap();
    // A few groups are unusual, but allowed.
    fs::write(project.path("photos/few.webp"), bomb::webp(3)).unwrap();
    project.succeed("query photos/few.webp");
}

#[test]
fn a_worker_has_no_files_and_no_network() {
    use similiai::base::worker::{Allowance, PROBE, call, start_from};
    start_from(assert_cmd::cargo::cargo_bin!("similiai").to_owned());
    let allowance = Allowance { memory: 100 << 20, seconds: 5, reply: 1000 };
    let reply = String::from_utf8(call(&PROBE, &[], &[], allowance).unwrap()).unwrap();
    let expected = "files false, network false, processes false, names false";
    assert_eq!(reply, if cfg!(target_os = "linux") { expected } else { &reply });
}

#[test]
fn skipped_files_are_reported() {
    let project = Project::trained();
    for number in 0..3 {
        let path = project.path(&format!("phone/IMG_{number}.HEIC"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"\0\0\0\x18ftypheic").unwrap();
    }
    photo(&project, "real/a.png", 1);
    symlink(project.path("real"), project.path("phone/2023")).unwrap();
    let outcome = project.similiai("duplicates phone");
    assert_eq!(outcome.status, 2, "{}", outcome.stdout);
    for said in [
        "3 files are skipped, for example phone/IMG_0.HEIC: HEIC pictures cannot be read",
        "phone/2023",
        "nothing to compare",
    ] {
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
    }
    assert_eq!(outcome.stderr.matches("HEIC pictures").count(), 1, "it is told once");
    photo(&project, "phone/b.png", 2);
    symlink("/nowhere/object.png", project.path("phone/annexed.png")).unwrap();
    fs::write(project.path("phone/notes.txt"), "notes").unwrap();
    let outcome = project.similiai("embed phone -o mine.parquet --json");
    assert_eq!(outcome.status, 4, "{}", outcome.stderr);
    let told: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(told["pictures"] == 1 && told["bad"][0].as_str().unwrap().contains("annexed.png"), "{told}");
    let reasons: Vec<(&str, u64)> = told["passed_over"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["reason"].as_str().unwrap(), it["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(reasons, [("kind", 3), ("linked-folder", 1), ("no-picture", 1)]);
    let answer: Value = serde_json::from_str(&project.similiai("query real/a.png --in phone --json").stdout).unwrap();
    assert_eq!(answer["passed_over"].as_array().unwrap().len(), 3);
}

#[test]
fn a_link_to_nowhere_may_have_been_a_folder() {
    let project = Project::trained();
    write_classes(&project.path("parted/train"), &["cups", "shoes"], 10);
    symlink("/nowhere/val", project.path("parted/val")).unwrap();
    for command in ["run fetch --set fetch.source=parted", "embed parted -o out.parquet --json"] {
        let outcome = project.similiai(command);
        assert!(outcome.status == 4 && outcome.stderr.contains("parted/val"), "{command}: {}", outcome.stderr);
    }
    project.succeed("run fetch --set fetch.source=parted --set fetch.on_bad_image=skip");
    let skipped = fs::read_to_string(project.path("artifacts/fetch/skipped.csv")).unwrap();
    assert!(skipped.starts_with("source,why\nval,No such file"), "{skipped}");
}

#[test]
fn files_that_fetch_skips_are_listed() {
    let project = Project::new();
    write_classes(&project.path("photos"), &["cups", "shoes"], 10);
    fs::write(project.path("photos/cups/x.heic"), "x").unwrap();
    fs::write(project.path("photos/notes.txt"), "x").unwrap();
    fs::write(project.path("photos/cups/.hidden.png"), "x").unwrap();
    for folder in ["empty", "only", "cups/deep"] {
        fs::create_dir(project.path(&format!("photos/{folder}"))).unwrap();
    }
    fs::write(project.path("photos/only/y.heic"), "x").unwrap();
    symlink("/nowhere/object.png", project.path("photos/shoes/annexed.png")).unwrap();
    let own = "--set fetch.source=photos --set prepare.images_per_class=null";
    let outcome = project.similiai(&format!("run prepare {own}"));
    assert_eq!(outcome.status, 4);
    assert!(
        outcome.stderr.contains("annexed.png") && outcome.stderr.contains("on_bad_image: skip"),
        "{}",
        outcome.stderr
    );
    let outcome = project.similiai(&format!("run prepare {own} --set fetch.on_bad_image=skip --json"));
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    let skipped = fs::read_to_string(project.path("artifacts/fetch/skipped.csv")).unwrap();
    for row in [
        "cups/x.heic,HEIC pictures",
        "notes.txt,",
        "shoes/annexed.png,No such file",
        "cups/.hidden.png,",
        "cups/deep,",
        "empty,the class has no picture",
        "only,the class has no picture",
    ] {
        assert!(skipped.contains(row), "{row}: {skipped}");
    }
    let last: Value = serde_json::from_str(outcome.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last["stages"][0]["passed_over"].as_array().unwrap().len(), 6, "{last}");
    assert_eq!(fs::read_to_string(project.path("artifacts/prepare/images.csv")).unwrap().lines().count(), 21);
}

#[test]
fn one_bad_item_does_not_lose_the_rest() {
    let project = Project::trained();
    ["a.png", "b.png"].into_iter().for_each(|name| photo(&project, name, 3));
    fs::create_dir(project.path("folder")).unwrap();
    symlink("/nowhere.png", project.path("lost")).unwrap();
    let outcome = project.similiai("query a.png folder b.png -k 1 --json");
    assert_eq!((outcome.status, outcome.stdout.lines().count()), (4, 2), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("write `similiai query PICTURE --in folder`"), "{}", outcome.stderr);
    let outcome = project.similiai("query folder");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (2, ""));
    assert!(outcome.stderr.contains("write `similiai query PICTURE --in folder`"), "{}", outcome.stderr);
    // All errors in the arguments are reported at once.
    let outcome = project.similiai("query a.png no.png neither.png -k 1");
    assert!(outcome.status == 2 && outcome.stdout.is_empty());
    assert!(outcome.stderr.contains("no.png, nor neither.png"), "{}", outcome.stderr);
    fs::create_dir(project.path("bad")).unwrap();
    fs::write(project.path("bad/e.png"), "").unwrap();
    let outcome = project.similiai("query a.png --in bad");
    assert!(outcome.status == 4 && outcome.stderr.contains("bad/e.png"), "{}", outcome.stderr);
    photo(&project, "bad/f.png", 4);
    let outcome = project.similiai("query a.png --in bad -k 9");
    assert!(outcome.status == 2 && outcome.stderr.contains("bad/e.png"), "{}", outcome.stderr);
    let answer: Value = serde_json::from_str(&project.similiai("query a.png --in bad --json").stdout).unwrap();
    assert!(answer["bad"][0].as_str().unwrap().contains("bad/e.png"), "{answer}");
    let outcome = project.similiai("duplicates bad folder");
    assert!(outcome.status == 2 && outcome.stderr.contains("WebP picture in folder"), "{}", outcome.stderr);
    let outcome = project.similiai("query --id 3 --id 1000 --id 2000");
    assert!(outcome.status == 2 && outcome.stderr.contains("no picture 1000, nor 2000"), "{}", outcome.stderr);
    let outcome = project.similiai("embed a.png no.png neither.png -o x.parquet");
    assert!(outcome.status == 2 && outcome.stderr.contains("no.png, nor neither.png"), "{}", outcome.stderr);
    let outcome = project.similiai("embed no.png --model missing -o no/such/x.parquet");
    for said in ["no.png", "missing", "there is no folder no;"] {
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
    }
    let outcome = project.similiai("run nosuch neither");
    assert!(outcome.status == 2 && outcome.stderr.contains("`nosuch`, `neither`"), "{}", outcome.stderr);
    assert_eq!(project.similiai("--threads 60000 status").status, 2);
}

#[test]
fn names_do_not_steer_the_terminal() {
    let project = Project::trained();
    let name = format!("q{STEERS}\u{9b}1m.png");
    photo(&project, &name, 1);
    photo(&project, &format!("in/{STEERS}/1.png"), 2);
    let outcome = similiai(&project, &["query", &name, "--in", "in"]);
    assert_eq!(outcome.status, 0);
    let outcomes = [
        outcome,
        similiai(&project, &["query", &name, "--in", "in", "--json"]),
        similiai(&project, &["query", &format!("no{STEERS}.png")]),
        similiai(&project, &["duplicates", "in"]),
        similiai(&project, &["run", &format!("x{STEERS}")]),
        similiai(&project, &["run", &format!("--x{STEERS}")]),
    ];
    for Outcome { stdout, stderr, .. } in outcomes {
        for text in [stdout, stderr] {
            assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        }
    }
    let member = Member { path: format!("a/{STEERS}.png"), kind: tar::EntryType::Symlink, bytes: Vec::new() };
    fs::write(project.path("x.tar.gz"), archive(&[member])).unwrap();
    let outcome =
        project.similiai("run fetch --set fetch.source=x.tar.gz --events events.ndjson --summarize summary.md");
    assert_eq!(outcome.status, 4);
    let kept = ["events.ndjson", "summary.md"].map(|name| fs::read_to_string(project.path(name)).unwrap());
    for text in kept.into_iter().chain([outcome.stderr]) {
        assert!(text.contains("owned") && !text.contains('\x1b') && !text.contains("\\u001b"), "{text:?}");
    }
}

#[test]
fn a_log_that_cannot_be_written_is_lost_and_the_work_is_not() {
    let project = Project::trained();
    photo(&project, "a.png", 1);
    let full = || Stdio::from(fs::File::options().write(true).open("/dev/full").unwrap());
    let mut command = project.command();
    let status = command.args(["embed", "a.png", "-o", "mine.parquet"]).stderr(full()).status().unwrap();
    assert!(status.success() && project.path("mine.parquet").exists());
    let mut command = project.command();
    assert_eq!(command.args(["query", "no.png"]).stderr(full()).status().unwrap().code(), Some(2));
}

#[test]
fn a_signal_ends_what_waits_for_its_input() {
    let project = Project::trained();
    let mut command = project.command();
    let mut child = command.args(["query", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"\x89PNG\r\n\x1a\n").unwrap();
    // The program has started to read when it has taken more than fits into the pipe.
    input.write_all(&vec![0; 1 << 17]).unwrap();
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn a_value_is_used_as_it_is_typed() {
    let project = Project::new();
    for (folder, classes) in [("my photos", ["old", "old2"]), ("my photos #2", ["new", "new2"]), ("2024", ["a", "b"])] {
        write_classes(&project.path(folder), &classes, 8);
    }
    let own = ["run", "prepare", "--set", "prepare.images_per_class=null", "--set"];
    let classes = |source: &str| {
        let set = format!("fetch.source={source}");
        let outcome = similiai(&project, &[&own[..], &[&set]].concat());
        assert_eq!(outcome.status, 0, "{source}: {}", outcome.stderr);
        let list = fs::read_to_string(project.path("artifacts/prepare/images.csv")).unwrap();
        list.lines().nth(1).unwrap().split('/').next().unwrap().to_owned()
    };
    assert_eq!([classes("my photos #2"), classes("my photos"), classes("2024")], ["new", "old", "a"]);
    let refused = |set: &str, said: &str| {
        let outcome = similiai(&project, &["explain", "train", "--set", set]);
        assert!(outcome.status == 2 && outcome.stderr.contains(said), "{set}: {}", outcome.stderr);
    };
    refused("train.epochs=5 # five", "`#` begins a comment");
    refused("train.epochs=5] # five", "not valid YAML");
    refused("train.epochs=5, 6", "more than one value");
    refused("train.epochs=null", "`epochs` of `train` is null");
    refused("train.augment=null", "`augment` of `train` is null");
    refused("train.embed={shift: null}", "`embed.shift` of `train` is null");
    refused("prepare.sharpen=", "`sharpen` of `prepare` is null");
    let home = project.path("home");
    write_classes(&home.join("photos"), &["x", "y"], 8);
    let mut command = project.command();
    command.args(own).arg("fetch.source=~/photos").env("HOME", home);
    assert!(command.status().unwrap().success());
}

#[test]
fn manifests_are_read_as_editors_save_them() {
    let project = Project::new();
    let text = fs::read_to_string(project.path("pipeline.yaml")).unwrap();
    let utf16: Vec<u8> = std::iter::once(0xFEFF).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for bytes in [[b"\xEF\xBB\xBF", text.as_bytes()].concat(), text.replace('\n', "\r\n").into_bytes(), utf16] {
        fs::write(project.path("pipeline.yaml"), bytes).unwrap();
        assert!(project.succeed("dag").contains("train ← prepare, split"));
    }
    let refused = |text: &str, said: &str| {
        fs::write(project.path("pipeline.yaml"), text).unwrap();
        let outcome = project.similiai("status");
        assert!(outcome.status == 2 && outcome.stderr.contains(said), "{said}: {}", outcome.stderr);
        assert!(outcome.stderr.len() < 2000, "{}", outcome.stderr.len());
    };
    refused(&format!("version: 1\nx: {}{}", "[".repeat(100_000), "]".repeat(100_000)), "more than 500 levels deep");
    refused(&format!("version: 1\nx: {}{}", "[".repeat(90), "]".repeat(90)), "more than 64 levels deep");
    refused(&format!("{}x", "- ".repeat(20_000)), "more than 64 levels deep");
    refused(&format!("version: 1\nx: {}", "a".repeat(2 << 20)), "has at most");
    refused("version: 1\nstages:\n  2024: {uses: fetch}\n", "write it in quotes: '2024'");
    refused("version: 1\nstages:\n  a: {uses: fetch}\n  b: {uses: prepare, needs: [2024]}\n", "in quotes: '2024'");
    let many: String = (0..20_000).map(|i| format!("  s{i}: {{uses: fetch}}\n")).collect();
    fs::write(project.path("pipeline.yaml"), format!("version: 1\nstages:\n{many}")).unwrap();
    assert_eq!(project.succeed("dag").lines().count(), 20_000);
}

#[test]
fn a_class_cannot_have_the_name_of_a_list() {
    let project = Project::new();
    for name in ["images.csv", "Preparation.json", "skipped.csv"] {
        let folder = project.path("photos");
        let _ = fs::remove_dir_all(&folder);
        write_classes(&folder, &["cups", name], 8);
        let outcome = project.similiai("run prepare --set fetch.source=photos");
        assert_eq!(outcome.status, 4, "{name}");
        assert!(outcome.stderr.contains("is no name for a class"), "{}", outcome.stderr);
        assert!(!project.path("artifacts/fetch").exists());
    }
}

#[test]
fn archives_as_other_programs_write_them() {
    let project = Project::new();
    let png = |variant| encoded(&picture(variant % 5, variant), ImageFormat::Png);
    let members: Vec<Member> = (0..8)
        .flat_map(|i| {
            [Member::file(&format!("train/cat/{i}.png"), png(i)), Member::file(&format!("val/dog/{i}.png"), png(i + 9))]
        })
        .chain([Member::file("train/dog/0.png", png(20)), Member::file("val/cat/0.png", png(21))])
        .collect();
    let whole = archive(&members);
    // The same tar archive in several gzip members.
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&whole[..]), &mut tar).unwrap();
    let pack = |piece: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(piece).unwrap();
        gzip.finish().unwrap()
    };
    fs::write(project.path("x.tar.gz"), tar.chunks(3000).flat_map(pack).collect::<Vec<u8>>()).unwrap();
    let own = "--set fetch.source=x.tar.gz --set prepare.images_per_class=null";
    project.succeed(&format!("run split {own} --set split.method=official"));
    let split = fs::read_to_string(project.path("artifacts/split/split.csv")).unwrap();
    assert_eq!((split.matches(",train").count(), split.matches(",test").count()), (9, 9), "{split}");
    assert!(split.contains("cat/00000.png,0,cat,train") && split.contains("cat/00008.png,0,cat,test"), "{split}");

    // A hard link is unpacked like the file that it leads to. A link that leads outside is refused.
    let linked = |target: &str| {
        let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(png(1).len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "cat/a.png", &png(1)[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        tar.append_link(&mut header, "dog/b.png", target).unwrap();
        fs::write(project.path("x.tar.gz"), tar.into_inner().unwrap().finish().unwrap()).unwrap();
        project.similiai("run fetch --set fetch.source=x.tar.gz")
    };
    assert_eq!(linked("./cat/a.png").status, 0);
    assert_eq!(fs::read(project.path("artifacts/fetch/dog/b.png")).unwrap(), png(1));
    for target in ["/etc/passwd", "../../cat/a.png", "dog/b.png"] {
        let outcome = linked(target);
        assert!(outcome.status == 4 && outcome.stderr.contains("no picture before it"), "{target}: {}", outcome.stderr);
    }

    // The spelling of macOS, and that of other systems.
    let (apart, whole) = ("Ha\u{308}nde", "H\u{e4}nde");
    for (folder, class) in [("mac", apart), ("other", whole)] {
        write_classes(&project.path(folder), &[class, "cups"], 8);
    }
    for folder in ["mac", "other"] {
        project.succeed(&format!("run fetch --set fetch.source={folder}"));
        assert!(project.path(&format!("artifacts/fetch/{whole}/00.png")).exists(), "{folder}");
    }
    write_classes(&project.path("mac"), &[whole], 8);
    let outcome = project.similiai("run fetch --set fetch.source=mac");
    assert!(outcome.status == 4 && outcome.stderr.contains("accents"), "{}", outcome.stderr);
}

#[test]
fn white_drawings_on_transparency_are_not_all_equal() {
    let project = Project::trained();
    fs::create_dir(project.path("logos")).unwrap();
    for number in 0..2u32 {
        let inside = move |x: u32, y: u32| if number == 0 { (30..90).contains(&x) } else { (x + y) % 60 < 20 };
        let image = RgbaImage::from_fn(120, 120, |x, y| Rgba([255, 255, 255, if inside(x, y) { 255 } else { 0 }]));
        fs::write(project.path(&format!("logos/{number}.png")), encoded(&image.into(), ImageFormat::Png)).unwrap();
    }
    let sheet = DynamicImage::from(RgbImage::from_pixel(120, 120, image::Rgb([255; 3])));
    fs::write(project.path("logos/sheet.png"), encoded(&sheet, ImageFormat::Png)).unwrap();
    let found: Value = serde_json::from_str(&project.succeed("duplicates logos --threshold 0 --json")).unwrap();
    assert_eq!(found["groups"].as_array().unwrap().len(), 0, "{found}");
    project.succeed("run prepare");
    let preparation = fs::read_to_string(project.path("artifacts/prepare/preparation.json")).unwrap();
    assert!(preparation.contains("\"ground\": \"contrast\""), "{preparation}");
}

#[test]
fn a_page_of_copies_shows_only_so_many() {
    let project = Project::trained();
    fs::create_dir(project.path("copies")).unwrap();
    let bytes = encoded(&picture(1, 1), ImageFormat::Jpeg);
    (0..350).for_each(|i| fs::write(project.path(&format!("copies/{i:03}.jpg")), &bytes).unwrap());
    let stdout = project.succeed("duplicates copies --html copies.html");
    assert!(stdout.contains("and copies in them: 349"), "{stdout}");
    let page = fs::read_to_string(project.path("copies.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 300);
    assert!(page.contains("the first 300 pictures of 350"));
}

#[test]
fn an_output_replaces_nothing_else() {
    let project = Project::trained();
    ["1.png", "2.png", "3.png"].into_iter().for_each(|name| photo(&project, name, 1));
    let before = fs::read(project.path("1.png")).unwrap();
    let outcome = project.similiai("embed -o 1.png 2.png 3.png");
    assert!(outcome.status == 2 && outcome.stderr.contains("--force"), "{}", outcome.stderr);
    assert!(fs::read(project.path("1.png")).unwrap() == before);
    let outcome = project.similiai("run split --events 1.png");
    assert!(outcome.status == 2 && fs::read(project.path("1.png")).unwrap() == before);
    let outcome = project.similiai("embed 2.png -o no/such/folder/x.parquet");
    assert!(outcome.status == 2 && outcome.stderr.contains("there is no folder no/such"), "{}", outcome.stderr);
    assert!(!project.path("no").exists());
    let outcome = project.similiai("embed 2.png -o new/x.parquet");
    assert!(outcome.status == 0 && outcome.stderr.contains("created the folder new"), "{}", outcome.stderr);
    fs::write(project.path("real"), "").unwrap();
    symlink("real", project.path("link")).unwrap();
    project.succeed("embed 2.png -o link");
    assert!(project.path("link").is_symlink() && fs::read(project.path("real")).unwrap().starts_with(b"PAR1"));
    let mut command = project.command();
    let output = command.args(["embed", "2.png", "-o", "/dev/stdout"]).stdout(Stdio::piped()).output().unwrap();
    assert!(output.stdout.starts_with(b"PAR1") && output.stdout.ends_with(b"PAR1"), "nothing else goes there");
    let mut command = project.command();
    let output = command.args(["embed", "2.png", "-o", "-"]).stdout(Stdio::piped()).output().unwrap();
    assert!(output.stdout.starts_with(b"PAR1") && !project.path("-").exists());
    project.succeed("embed -o 1.png 2.png 3.png --force");
    // Nor the model, nor files that the pipeline made.
    fs::copy(project.path("artifacts/train/model.safetensors"), project.path("net")).unwrap();
    project.succeed("embed 2.png -o part.parquet");
    photo(&project, "album/4.png", 2);
    assert_eq!(project.similiai("run split --events -").status, 2);
    for (arguments, lost) in [
        ("embed 2.png --model net -o net --force", "net"),
        ("embed --join part.parquet -o part.parquet", "part.parquet"),
        ("run split --events pipeline.yaml", "pipeline.yaml"),
        ("embed 2.png -o artifacts/embed/embeddings.parquet", "artifacts/embed/embeddings.parquet"),
        ("run split --summarize artifacts/split/split.csv", "artifacts/split/split.csv"),
        ("run split --summarize artifacts/.cache/seen", "artifacts/.cache/seen"),
        ("embed 2.png --model net -o artifacts/embed/embeddings.parquet", "artifacts/embed/embeddings.parquet"),
        ("embed --join part.parquet -o artifacts/embed/embeddings.parquet", "artifacts/embed/embeddings.parquet"),
        ("embed album -o album/4.png --force", "album/4.png"),
        ("duplicates album --html album/4.png --force", "album/4.png"),
        ("query 2.png --in album --html album/4.png --force", "album/4.png"),
    ] {
        let before = fs::read(project.path(lost)).unwrap();
        let outcome = project.similiai(arguments);
        assert_eq!(outcome.status, 2, "{arguments}: {}", outcome.stderr);
        assert!(fs::read(project.path(lost)).unwrap() == before, "{arguments}");
    }
}

#[test]
fn six_pictures_a_class_are_enough_and_fewer_are_refused_before_the_training() {
    let project = Project::new();
    let own = "--set fetch.source=photos --set prepare.images_per_class=null --set train.images_per_class=2";
    write_classes(&project.path("photos"), &["cups", "hats", "shoes"], 6);
    project.succeed(&format!("run all {own}"));
    let tests = fs::read_to_string(project.path("artifacts/split/split.csv")).unwrap().matches(",test").count();
    assert_eq!(tests, 6);
    for class in ["cups", "hats", "shoes"] {
        fs::remove_file(project.path(&format!("photos/{class}/05.webp"))).unwrap();
    }
    let outcome = project.similiai(&format!("run all {own} --set train.validation=0.3"));
    assert_ne!(outcome.status, 0);
    assert!(
        outcome.stderr.contains("`benchmark` would fail") && outcome.stderr.contains("six pictures a class"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stdout.contains("train      ran"), "{}", outcome.stdout);
    let plan = project.similiai(&format!("run all {own} --dry-run"));
    assert!(plan.stderr.contains("`benchmark` would fail"), "{}{}", plan.stdout, plan.stderr);
}
