//! The fuzz targets: each of our parsers and each file that the program reads may refuse its input, but must not
//! panic, crash or take gigabytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use similiai::base::text;
use similiai::engine::cache::{Contents, KeyDocument, OutputDir, Store, Written};
use similiai::engine::lock::LockFile;
use similiai::engine::manifest::{Manifest, Variation};
use similiai::engine::stage::Outputs;
use similiai::learning::dataset::{self, Split};
use similiai::learning::images::{self, LAYOUTS, OnBadImage};
use similiai::learning::model::{self, Model};
use similiai::retrieval::embeddings::{Embeddings, Row, Writer};
use similiai::retrieval::metrics;
use similiai::retrieval::search::{FlatIndex, Graph, Query};

use crate::stages;

pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 19] = [
    Target {
        name: "manifest",
        run: manifest,
        seeds: || vec![include_bytes!("../pipeline.yaml").to_vec(), MANIFEST.into()],
    },
    Target {
        name: "set",
        run: set,
        seeds: || texts(&["train.epochs=5", "fetch.source=a #b", "train.embed={shift: 1}", "seed=7"]),
    },
    Target { name: "archive", run: archive, seeds: archives },
    Target { name: "records", run: records, seeds: || vec![[vec![3; 3073], vec![0; 3073]].concat()] },
    Target { name: "picture", run: picture, seeds: pictures },
    Target { name: "parquet", run: parquet, seeds: parquets },
    Target { name: "index", run: index, seeds: indexes },
    Target { name: "model", run: model, seeds: || vec![template().1.clone()] },
    Target { name: "contents", run: contents, seeds: || vec![list().into()] },
    Target { name: "items", run: items, seeds: || vec![[vec![7; 32], vec![3, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]].concat()] },
    Target {
        name: "checked-out",
        run: checked_out,
        seeds: || texts(&[r#"{"key":"","digest":"","out":"artifacts/s","leaving":[]}"#]),
    },
    Target { name: "stamp-index", run: stamp_index, seeds: || vec![[DIGEST.as_bytes(), &[0; 8 + 40 * 3]].concat()] },
    Target { name: "result", run: result, seeds: || texts(&[RECORD]) },
    Target { name: "history", run: history, seeds: || texts(&[r#"{"instance":"s","key":"k","seconds":1.5,"at":7}"#]) },
    Target { name: "lock-file", run: lock_file, seeds: || vec![include_bytes!("../pipeline.lock")[..4000].to_vec()] },
    Target { name: "kept", run: kept, seeds: || texts(&["what is kept"]) },
    Target { name: "lists", run: lists, seeds: || texts(&["path,label,label_name,split\na/1.png,0,a,train\n"]) },
    Target { name: "arrow", run: arrow, seeds: arrows },
    Target {
        name: "form",
        run: form,
        seeds: || texts(&["--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nx\r\n--b--\r\n"]),
    },
];

const MANIFEST: &str =
    "version: 1\nstages:\n  a: &a {uses: fetch, source: x}\n  b: {<<: *a, needs: [a]}\nprofiles:\n  p: {seed: 3}\n";
const DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const RECORD: &str = r#"{"key":"k","digest":"d","document":{"stage":"s","version":1,"seed":0,"parameters":{},"reads":{}},"files":1,"bytes":1}"#;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// A folder for this process, in memory if the system has /dev/shm.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let folder = root.join(format!("similiai-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    })
}

/// Removes the folder. Call it when no target runs any more.
pub fn clean() {
    let _ = fs::remove_dir_all(folder());
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, bytes).expect("a file");
    path
}

/// Appends the checksum that the cache's own files end with; without it, a changed file would be refused unread.
fn sealed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(b"\0").update(bytes);
    [bytes, hasher.finalize().as_bytes()].concat()
}

/// Adds the checksum to a JSON object.
fn sealed_json(name: &str, bytes: &[u8]) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return bytes.to_vec() };
    let mut hasher = blake3::Hasher::new();
    hasher.update(name.as_bytes()).update(b"\0").update(value.to_string().as_bytes());
    if let Some(fields) = value.as_object_mut() {
        fields.insert("checksum".to_owned(), hasher.finalize().to_hex().as_str().into());
    }
    value.to_string().into_bytes()
}

fn manifest(bytes: &[u8]) {
    let path = file("manifest/pipeline.yaml", bytes);
    for profiles in [vec![], vec!["p".to_owned()], vec!["quick".to_owned(), "p".to_owned()]] {
        let variation = Variation { profiles, ..Variation::default() };
        if let Err(error) = Manifest::load(&path, stages::KINDS, &variation) {
            let _ = text::legible(&format!("{error:#}"));
        }
    }
}

fn set(bytes: &[u8]) {
    let path = file("set/pipeline.yaml", include_bytes!("../pipeline.yaml"));
    let sets = vec![String::from_utf8_lossy(bytes).into_owned()];
    if let Err(error) = Manifest::load(&path, stages::KINDS, &Variation { sets, ..Variation::default() }) {
        let _ = format!("{error:#}");
    }
}

/// The input is the unpacked tar archive: changes in a packed one would mostly fail its checksum.
fn archive(bytes: &[u8]) {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let packed = std::io::Write::write_all(&mut gzip, bytes).and_then(|()| gzip.finish()).expect("a packed archive");
    for (packed, on_bad_image) in [(&packed[..], OnBadImage::Skip), (bytes, OnBadImage::Fail)] {
        let to = folder().join("archive");
        let _ = fs::remove_dir_all(&to);
        let _ = stages::fetch::unpack::unpack(&mut &*packed, "it", on_bad_image, &Outputs::new(to));
    }
}

fn records(bytes: &[u8]) {
    let names = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
    for layout in &LAYOUTS {
        let batch = file("records/data_batch_1.bin", bytes);
        file("records/train.bin", bytes);
        file("records/batches.meta.txt", names.as_bytes());
        file("records/fine_label_names.txt", bytes);
        let from = batch.parent().expect("a folder");
        let _ = layout.select(from, (1, Some(2)), |record, _| {
            let _ = record.image();
            Ok(())
        });
    }
}

fn picture(bytes: &[u8]) {
    // Limits on pixels do not bound the groups of prefix codes: each takes a few bytes of input and kilobytes of
    // memory. Workers handle this known case.
    if bytes.len() <= 1 << 16 {
        let _ = images::decode(bytes, "it");
    }
}

fn parquet(bytes: &[u8]) {
    let path = file("parquet/it.parquet", bytes);
    match Embeddings::read_foreign(&path) {
        Ok(all) => assert!(all.values.iter().all(|value| value.is_finite()), "a value is not finite"),
        Err(error) => assert!(error.is::<similiai::base::error::Failure>(), "{error:#}"),
    }
}

const ROWS: usize = 40;
const DIMENSION: usize = 8;

fn rows() -> Vec<f32> {
    (0..ROWS * DIMENSION).map(|at| ((at * 37 % 101) as f32 - 50.0) / 50.0).collect()
}

/// The input is an index file without its checksum.
fn index(bytes: &[u8]) {
    let path = file("index/index.hnsw", &[bytes, blake3::hash(bytes).as_bytes()].concat());
    let rows = rows();
    let gallery = FlatIndex::of_rows(DIMENSION, &rows[..]).expect("a gallery");
    if let Ok(graph) = Graph::load(&path, "abc") {
        let _ = graph.search(&gallery, &Query::nearest(&rows[..DIMENSION], 5), 9);
    }
}

fn indexes() -> Vec<Vec<u8>> {
    let graph = Graph::build("abc", DIMENSION, &rows(), Default::default(), || Ok(())).expect("a graph");
    let bytes = graph.to_bytes().expect("bytes");
    vec![bytes[..bytes.len() - 32].to_vec()]
}

/// A valid model: the number of bytes of its tensors, and its header.
fn template() -> &'static (usize, Vec<u8>) {
    static TEMPLATE: OnceLock<(usize, Vec<u8>)> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let bytes = untrained();
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        (bytes.len() - 8 - length, bytes[8..8 + length].to_vec())
    })
}

fn untrained() -> Vec<u8> {
    use similiai::learning::calibration::{Calibration, Curve};
    use similiai::learning::images::{Filter, Ground, Preparation, Sharpen};
    use similiai::learning::model::{Configuration, DIMENSION, Network, NetworkName, Residual};
    let (sharpen, ground) = (Sharpen::default(), Ground::default());
    let configuration = Configuration {
        network: NetworkName::Residual,
        dimension: DIMENSION,
        normalize: true,
        mirrored: false,
        shift: 0,
        preparation: Preparation { size: 32, filter: Filter::Nearest, sharpen, ground },
        preprocessing: NetworkName::Residual.preprocessing(),
    };
    let curve = Curve::fit((0..200).map(|at| (at as f32 / 100.0, at < 100)).collect(), Vec::new());
    let calibration = Calibration { learned: curve.clone(), unseen: curve };
    let network = Residual::with_seed(1).expect("a network");
    model::to_bytes(&network, &configuration, calibration, BTreeMap::new()).expect("a model")
}

/// The input is the header; the tensors are zeros.
fn model(header: &[u8]) {
    let bytes = [&(header.len() as u64).to_le_bytes(), header, &vec![0; template().0]].concat();
    if let Ok(model) = Model::load(&file("model/model.safetensors", &bytes)) {
        let picture = image::RgbImage::new(9, 7);
        let _ = model.embed(vec![model.prepare(&picture)]);
    }
}

fn list() -> String {
    format!("a/b.png\x003\x00{DIGEST}\nc\x007\x00{DIGEST}\n")
}

fn contents(bytes: &[u8]) {
    if let Ok(contents) = Contents::parse(String::from_utf8_lossy(bytes).into_owned()) {
        assert!(
            contents.iter().all(|file| !file.path.starts_with('/') && !file.path.split('/').any(|part| part == ".."))
        );
        let _ = contents.folders();
    }
}

fn items(bytes: &[u8]) {
    file(&format!("store/items/{DIGEST}"), &sealed(&format!("items/{DIGEST}"), bytes));
    let _ = Store::new(folder().join("store")).items(DIGEST);
}

fn checked_out(bytes: &[u8]) {
    file("store/laid/s.json", &sealed_json("laid/s.json", bytes));
    let _ = Store::new(folder().join("store")).checked_out("s");
}

/// A store with a result that is checked out, and the contents of this result.
fn store() -> &'static (Store, Contents) {
    static STORE: OnceLock<(Store, Contents)> = OnceLock::new();
    STORE.get_or_init(|| {
        let store = Store::new(folder().join("p/artifacts/.cache"));
        let work = folder().join("p/work");
        fs::create_dir_all(&work).expect("a folder");
        fs::write(work.join("a"), "a").expect("a file");
        let digest = blake3::hash(b"a").to_hex().to_string();
        let written = BTreeMap::from([("a".to_owned(), Written { bytes: 1, digest })]);
        let (parameters, reads) = (serde_json::json!({}), BTreeMap::new());
        let document = KeyDocument { stage: "s".into(), version: 1, seed: None, parameters, reads };
        let stored = store.commit(document, (&work, &written), Vec::new(), Vec::new()).expect("a result");
        store.check_out(&place(), &stored, true).expect("it is checked out");
        let contents = (*store.contents(&stored.digest).expect("contents")).clone();
        (store, contents)
    })
}

fn place() -> OutputDir<'static> {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    let project = PROJECT.get_or_init(|| folder().join("p"));
    OutputDir { instance: "s", project, out: Path::new("artifacts/s") }
}

fn stamp_index(bytes: &[u8]) {
    let (store, contents) = store();
    // Also with a valid digest at the start: most inputs do not have it.
    let rest = bytes.get(64..).unwrap_or_default();
    for bytes in [bytes, &[contents.digest().as_bytes(), rest].concat()] {
        file("p/artifacts/.cache/laid/s.index", &sealed("laid/s.index", bytes));
        let _ = store.inspect(&place(), contents);
    }
}

fn result(bytes: &[u8]) {
    let name = format!("results/{DIGEST}");
    for bytes in [bytes.to_vec(), sealed_json(&name, bytes)] {
        file(&format!("store/results/{DIGEST}.json"), &bytes);
        let _ = Store::new(folder().join("store")).result(DIGEST);
    }
}

fn history(bytes: &[u8]) {
    file("store/history.jsonl", &[&sealed_json("history.jsonl", bytes)[..], b"\n", bytes].concat());
    let _ = Store::new(folder().join("store")).history();
}

fn lock_file(bytes: &[u8]) {
    let path = file("lock/pipeline.lock", bytes);
    let _ = LockFile::read(path.parent().expect("a folder"));
}

fn kept(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), sealed("train/key/it", bytes)] {
        let _ = similiai::engine::cache::read_kept(&file("scratch/train/key/it", &bytes));
    }
    let _ = stages::train::checkpoint::Checkpoint::read(bytes);
}

fn lists(bytes: &[u8]) {
    let _ = dataset::read::<Split>(&file("lists/split.csv", bytes));
    if let Ok(rows) = metrics::parse(bytes, "it") {
        let _ = metrics::differences(&rows, &rows, "p");
    }
}

#[cfg(feature = "cloud")]
fn arrow(bytes: &[u8]) {
    static MODEL: OnceLock<Model> = OnceLock::new();
    let model = MODEL.get_or_init(|| Model::load(&file("arrow/model.safetensors", &untrained())).expect("a model"));
    let options = similiai::retrieval::arrow_filter::Options { list: false, strict: false };
    let _ = similiai::retrieval::arrow_filter::filter(
        model,
        std::io::Cursor::new(bytes.to_vec()),
        Vec::new(),
        &options,
        |_| (),
    );
}

#[cfg(not(feature = "cloud"))]
fn arrow(_: &[u8]) {}

#[cfg(feature = "serve")]
fn form(bytes: &[u8]) {
    let _ = similiai::interfaces::serve::picture_of_form("multipart/form-data; boundary=b", bytes.to_vec());
}

#[cfg(not(feature = "serve"))]
fn form(_: &[u8]) {}

fn pictures() -> Vec<Vec<u8>> {
    use image::{DynamicImage, ImageFormat, RgbaImage};
    let image =
        RgbaImage::from_fn(19, 13, |x, y| image::Rgba([(x * 13) as u8, (y * 17) as u8, (x * y) as u8, (x * 9) as u8]));
    let encode = |format: ImageFormat| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let image = DynamicImage::from(image.clone());
        let image = if format == ImageFormat::Jpeg { image.into_rgb8().into() } else { image };
        image.write_to(&mut bytes, format).expect("a picture");
        bytes.into_inner()
    };
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP].map(encode).to_vec()
}

fn archives() -> Vec<Vec<u8>> {
    let tar = |members: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *bytes).expect("a member");
        }
        tar.into_inner().expect("an archive")
    };
    let names = b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n";
    vec![
        tar(&[("c/batches.meta.txt", names), ("c/data_batch_1.bin", &[1; 3073])]),
        tar(&[("train/cat/1.png", b"x"), ("val/cat/2.png", b"y"), ("train/dog/notes.txt", b"z")]),
    ]
}

fn parquets() -> Vec<Vec<u8>> {
    let row =
        |at: i32| Row { path: format!("a/{at}.png"), label: at % 2, label_name: "a".into(), split: "train".into() };
    let facts = BTreeMap::from([("similiai.model".to_owned(), DIGEST.to_owned())]);
    let mut writer = Writer::new(Vec::new(), 4, facts).expect("a writer");
    writer.write(&(0..20).map(row).collect::<Vec<Row>>(), (0..80).map(|at| at as f32).collect()).expect("rows");
    vec![writer.finish().expect("a file")]
}

fn arrows() -> Vec<Vec<u8>> {
    #[cfg(feature = "cloud")]
    {
        use std::sync::Arc;

        use arrow::{BinaryArray, Int32Array, RecordBatch};
        use arrow_ipc::writer::StreamWriter;
        let picture = pictures().remove(0);
        let images = BinaryArray::from(vec![Some(&picture[..]), None, Some(b"no picture")]);
        let columns =
            [("id", Arc::new(Int32Array::from(vec![1, 2, 3])) as arrow::array::ArrayRef), ("image", Arc::new(images))];
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a stream");
        writer.write(&batch).expect("a batch");
        vec![writer.into_inner().expect("a stream")]
    }
    #[cfg(not(feature = "cloud"))]
    {
        Vec::new()
    }
}
