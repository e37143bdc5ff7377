//! Queries: pictures of the pipeline, pictures of users, copies, and errors in queries.

use std::path::Path;

use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::Value;
use similiai::retrieval::embeddings::Embeddings;
use similiai::retrieval::search::{FlatIndex, Graph, Query};

use crate::fixture::Project;
use crate::pictures::{encoded, picture, write_classes};

fn answers(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn paths(answer: &Value) -> Vec<String> {
    answer["results"].as_array().unwrap().iter().map(|hit| hit["path"].as_str().unwrap().to_owned()).collect()
}

/// Runs a command that must fail with `status`, and whose messages must contain each of `said`.
fn refused(project: &Project, arguments: &str, status: i32, said: &[&str]) {
    let outcome = project.similiai(arguments);
    assert_eq!(outcome.status, status, "{arguments}: {}{}", outcome.stdout, outcome.stderr);
    for said in said {
        assert!(outcome.stderr.contains(said), "{arguments}: {said}: {}", outcome.stderr);
    }
}

fn trained() -> Project {
    let project = Project::trained();
    project.edit_manifest(
        "  benchmark:",
        "  index: {uses: index, needs: [embed], m: 2, ef_construction: 2}\n  benchmark:",
    );
    project.succeed("run index");
    project
}

/// Paths of all rows except `id`, sorted by their distance from row `id`.
fn by_sorting(embeddings: &Embeddings, id: usize) -> Vec<String> {
    let distance = |other: &usize| -> f64 {
        let pairs = embeddings.row(id).iter().zip(embeddings.row(*other));
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum()
    };
    let mut others: Vec<usize> = (0..embeddings.len()).filter(|other| *other != id).collect();
    others.sort_by(|a, b| distance(a).total_cmp(&distance(b)).then(a.cmp(b)));
    others.into_iter().map(|other| embeddings.paths[other].clone()).collect()
}

#[test]
fn the_pipelines_pictures_are_found() {
    let project = trained();
    let embeddings = Embeddings::read(&project.path("artifacts/embed/embeddings.parquet")).unwrap();
    let answer = answers(&project.succeed("query --id 7 -k 9 --json")).remove(0);
    assert_eq!(paths(&answer), by_sorting(&embeddings, 7)[..9]);
    let best = &answer["results"][0];
    assert_eq!((best["rank"].as_u64(), best["id"].as_u64().is_some()), (Some(1), true));
    assert!((0.0..=1.0).contains(&best["chance"].as_f64().unwrap()) && answer["close"].is_boolean());

    // The picture's file is prepared already, and gives the same answer.
    let file = format!("artifacts/prepare/{}", embeddings.paths[7]);
    let by_file = answers(&project.succeed(&format!("query {file} -k 9 --json"))).remove(0);
    assert_eq!(by_file["results"], answer["results"]);
    // The approximate search finds what the graph finds, which is not always the nearest.
    let path = project.path("artifacts/embed/embeddings.parquet");
    let digest = similiai::base::files::digest(&path).unwrap();
    let graph = Graph::load(&project.path("artifacts/index/index.hnsw"), &digest).unwrap();
    let gallery = FlatIndex::of_rows(embeddings.dimension, &embeddings.values[..]).unwrap();
    let ids: String = (0..100).map(|id| format!(" --id {id}")).collect();
    let mut otherwise = 0;
    for (id, answer) in
        answers(&project.succeed(&format!("query -k 1 --json --approximate --ef 1{ids}"))).iter().enumerate()
    {
        let (found, _) = graph.search(&gallery, &Query::nearest(embeddings.row(id), 1).without(id), 1).unwrap();
        assert_eq!(paths(answer), [embeddings.paths[found[0].id].as_str()]);
        otherwise += usize::from(paths(answer)[0] != by_sorting(&embeddings, id)[0]);
    }
    assert!(otherwise > 0);

    // Several pictures at once, one of them from standard input. The output for people is a table.
    let photo = encoded(&picture(3, 1), ImageFormat::Png);
    std::fs::write(project.path("photo.png"), &photo).unwrap();
    let from_file = answers(&project.succeed("query photo.png --id 3 --json"));
    assert_eq!((from_file.len(), from_file[1]["results"].as_array().unwrap().len()), (2, 5));
    let mut command = assert_cmd::Command::from_std(project.command());
    let output = command.args(["query", "-", "--json"]).write_stdin(photo.clone()).output().unwrap();
    let from_stdin = answers(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!((&from_stdin["query"], &from_stdin["results"]), (&"standard input".into(), &from_file[1]["results"]));
    let table = project.succeed("query photo.png -k 2 --html found.html");
    assert!(table.starts_with("photo.png") && table.lines().count() == 3 && table.contains(" %  "), "{table}");
    let page = std::fs::read_to_string(project.path("found.html")).unwrap();
    assert_eq!(page.matches("<img ").count(), 3);
    // A picture that was modified since is shown in its old form.
    project.succeed("query --id 3 -k 1 --html before.html");
    let third = std::fs::read_to_string(project.path("artifacts/prepare/images.csv")).unwrap();
    let third = third.lines().nth(4).unwrap().split(',').next().unwrap().to_owned();
    let third = project.path(&format!("artifacts/prepare/{third}"));
    std::fs::remove_file(&third).unwrap();
    std::fs::write(&third, &photo).unwrap();
    project.succeed("query --id 3 -k 1 --html after.html");
    let [before, after] = ["before", "after"].map(|name| std::fs::read(project.path(&format!("{name}.html"))).unwrap());
    assert!(before == after);

    std::fs::write(project.path("text.jpg"), "hello").unwrap();
    refused(&project, "query text.jpg", 4, &["text.jpg is no picture"]);
    let jpeg = encoded(&picture(3, 1), ImageFormat::Jpeg);
    std::fs::write(project.path("half.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    refused(&project, "query half.jpg", 4, &["half.jpg is a damaged or truncated picture"]);
    refused(&project, "query nowhere.png", 2, &["there is no file nowhere.png"]);
    refused(&project, "query photo.png --gallery nowhere.parquet", 2, &["there is no file nowhere.parquet"]);
    refused(&project, "query - -", 2, &["can be given only once"]);
    refused(&project, "query --id 100", 2, &["ids go from 0 to 99"]);
    refused(&project, "query --id 1 -k 100", 2, &["-k 100 asks for more", "99 other pictures"]);
    refused(&project, "query", 2, &["IMAGE"]);
    // A picture that cannot be read does not stop the answers for the others.
    let outcome = project.similiai("query half.jpg photo.png --json");
    assert_eq!((outcome.status, answers(&outcome.stdout).len()), (4, 1));

    project.succeed("run train --set seed=8");
    refused(&project, "query --id 7", 4, &["another result of `split`", "run `similiai run all --set seed=8`"]);
    project.succeed("run embed --set seed=8");
    refused(&project, "query --id 7 --approximate", 4, &["was made for other embeddings"]);
    refused(&Project::new(), "query --id 7", 2, &["no embeddings yet", "run `similiai run embed`"]);
}

/// A folder with three classes in subfolders, and some pictures next to them.
fn album(project: &Project) {
    write_classes(&project.path("album"), &["cups", "shoes"], 6);
    let photo = picture(7, 0);
    std::fs::write(project.path("album/photo.png"), encoded(&photo, ImageFormat::Png)).unwrap();
    let smaller = photo.resize_exact(39, 39, image::imageops::FilterType::Triangle);
    std::fs::write(project.path("album/smaller.jpg"), encoded(&smaller, ImageFormat::Jpeg)).unwrap();
}

#[test]
fn ones_own_pictures_are_found_and_remembered() {
    let project = trained();
    album(&project);
    let query = "query album/photo.png --in album --json";
    let outcome = project.similiai(query);
    assert_eq!(outcome.status, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("14 pictures, 14 of them embedded now"), "{}", outcome.stderr);
    let first = answers(&outcome.stdout).remove(0);
    assert_eq!(paths(&first)[0], "album/smaller.jpg");
    let again = project.similiai(query);
    assert!(again.stderr.contains("14 pictures, 0 of them embedded now"), "{}", again.stderr);
    assert_eq!(answers(&again.stdout)[0], first);
    std::fs::write(project.path("album/new.png"), encoded(&picture(5, 3), ImageFormat::Png)).unwrap();
    let one = project.similiai(query);
    assert!(one.stderr.contains("15 pictures, 1 of them embedded now"), "{}", one.stderr);

    // A file is in the answer once, even if it is named several times. The query itself is not in the answer.
    std::os::unix::fs::symlink("photo.png", project.path("album/link.png")).unwrap();
    let twice = project.similiai(&query.replace("--in album", "--in album --in ./album/cups --in album"));
    assert!(twice.stderr.contains("15 pictures, 0 of them"), "{}", twice.stderr);
    assert!(
        !twice.stdout.contains("album/photo.png\",\"label") && !twice.stdout.contains("link.png"),
        "{}",
        twice.stdout
    );

    // Copies are found, and shown as one with `--distinct`.
    std::fs::copy(project.path("album/smaller.jpg"), project.path("album/cups/copy.jpg")).unwrap();
    let folded = answers(&project.succeed("query album/photo.png --in album --distinct -k 3 --json")).remove(0);
    let copies = folded["results"][0]["copies"].as_array().unwrap().len();
    assert!(copies >= 1 && paths(&folded).len() == 3, "{folded}");
    let found: Value = serde_json::from_str(&project.succeed("duplicates album --threshold 0.000001 --json")).unwrap();
    let groups = found["groups"].as_array().unwrap();
    assert_eq!((groups.len(), groups[0].as_array().unwrap().len(), found["pictures"].as_u64()), (1, 2, Some(16)));
}

#[test]
fn a_file_of_embeddings_answers_like_the_folder() {
    let project = trained();
    album(&project);
    std::fs::write(project.path("album/cups/broken.png"), "hello").unwrap();
    refused(
        &project,
        "embed album -o mine.parquet",
        4,
        &["1 picture cannot be read", "album/cups/broken.png is no picture"],
    );
    let mine = Embeddings::read(&project.path("mine.parquet")).unwrap();
    assert_eq!((mine.len(), mine.label_names[0].as_str(), mine.labels[0]), (14, "cups", 0));
    let plain = mine.paths.iter().position(|path| path == "album/photo.png").unwrap();
    assert_eq!((mine.labels[plain], mine.label_names[plain].as_str()), (-1, ""));
    let by_file = project.succeed("query album/photo.png --gallery mine.parquet --json");
    let by_folder = project.similiai("query album/photo.png --in album --json");
    let mut answer = answers(&by_folder.stdout).remove(0);
    let bad = answer.as_object_mut().unwrap().remove("bad").unwrap();
    assert!(bad[0].as_str().unwrap().contains("album/cups/broken.png is no picture"), "{bad}");
    assert_eq!((by_folder.status, answer), (4, answers(&by_file).remove(0)));

    // A query uses the current content of a picture.
    let before = std::fs::read(project.path("album/photo.png")).unwrap();
    std::fs::write(project.path("album/photo.png"), encoded(&picture(2, 9), ImageFormat::Png)).unwrap();
    let changed = project.succeed("query album/photo.png --gallery mine.parquet --json");
    std::fs::copy(project.path("album/photo.png"), project.path("elsewhere.png")).unwrap();
    let elsewhere = answers(&project.succeed("query elsewhere.png --gallery mine.parquet -k 14 --json")).remove(0);
    let mut others = paths(&elsewhere);
    others.retain(|path| path != "album/photo.png");
    assert_eq!(paths(&answers(&changed)[0]), others[..5]);
    std::fs::write(project.path("album/photo.png"), before).unwrap();

    refused(&project, "embed nowhere -o x.parquet", 2, &["no file or folder nowhere"]);
    std::fs::create_dir(project.path("empty")).unwrap();
    refused(&project, "embed empty -o x.parquet", 2, &["picture in the given paths"]);
    refused(&project, "query album/photo.png --in empty", 2, &["no PNG, JPEG or WebP picture in empty"]);
    assert!(!project.path("x.parquet").exists());
    std::fs::write(project.path("x.parquet"), "hello").unwrap();
    refused(&project, "query album/photo.png --gallery x.parquet", 4, &["x.parquet"]);
    project.succeed("run embed --set seed=8");
    refused(
        &project,
        "query album/photo.png --gallery mine.parquet",
        4,
        &["mine.parquet was made by another model", "similiai embed … -o mine.parquet"],
    );
}

#[test]
fn parts_of_a_collection_join_to_what_one_machine_makes() {
    let project = trained();
    album(&project);
    project.succeed("embed album -o whole.parquet");
    for part in 1..=3 {
        let model = "--model artifacts/train/model.safetensors";
        project.succeed(&format!("embed album {model} --shard {part}/3 -o part-{part}.parquet"));
    }
    refused(&project, "embed --join part-3.parquet part-1.parquet -o joined.parquet", 2, &["parts are missing: 2/3"]);
    refused(&project, "embed --join whole.parquet -o joined.parquet", 4, &["whole.parquet is not a part"]);
    assert!(!project.path("joined.parquet").exists());
    project.succeed("embed --join part-3.parquet part-1.parquet part-2.parquet -o joined.parquet");
    let read = |path: &str| std::fs::read(project.path(path)).unwrap();
    assert_eq!(read("joined.parquet"), read("whole.parquet"));
    assert_eq!(project.similiai("embed album --shard 4/3 -o x.parquet").status, 2);
}

#[test]
fn copies_between_two_folders() {
    let project = trained();
    album(&project);
    let write = |path: &str, picture: &DynamicImage| {
        let path = project.path(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).unwrap();
        std::fs::write(path, encoded(picture, ImageFormat::Png)).unwrap();
    };
    write("card/a.png", &picture(7, 0));
    write("card/b.png", &DynamicImage::from(RgbImage::from_pixel(50, 50, image::Rgb([250, 3, 90]))));
    let table = project.succeed("duplicates album card --threshold 0.0001 --html copies.html");
    assert!(
        table.contains("album/photo.png") && table.contains("card/a.png") && !table.contains("card/b.png"),
        "{table}"
    );
    assert!(table.contains("16 pictures, groups of copies: 1, and copies in them: 1"), "{table}");
    assert_eq!(std::fs::read_to_string(project.path("copies.html")).unwrap().matches("<img ").count(), 2);
    refused(&project, "duplicates album album/cups", 2, &["lies within the other"]);
    refused(&project, "duplicates album --threshold -1", 2, &["--threshold"]);
}
