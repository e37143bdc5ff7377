//! What goes into a bucket in memory comes out of it, and nothing else does.

use object_store::memory::InMemory;

use super::super::KeyDocument;
use super::super::store::tests::written;
use super::*;
use crate::base::progress::Screen;

/// A machine with its own store.
struct Machine {
    folder: tempfile::TempDir,
    store: Store,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("cache"));
        Self { folder, store }
    }

    /// A result with a file of this text.
    fn make(&self, text: &str) -> StoredResult {
        let work = self.folder.path().join("work");
        files::create_folder(&work).unwrap();
        std::fs::write(work.join("a.txt"), text).unwrap();
        let (parameters, reads) = (serde_json::json!({}), Default::default());
        let document = KeyDocument { stage: "s".into(), version: 1, seed: None, parameters, reads };
        self.store.commit(document, (&work, &written(&work)), Vec::new(), Vec::new()).unwrap()
    }

    fn send(&self, remote: &Remote, stored: &StoredResult) {
        remote.send(&self.store.blobs, stored, self.store.contents(&stored.digest).unwrap());
        remote.settle(&progress());
    }

    fn fetch(&self, remote: &Remote, stored: &StoredResult, digest: Option<&str>) -> Option<StoredResult> {
        remote.fetch(&self.store, &stored.key, digest, &progress())
    }
}

fn progress() -> Progress {
    Screen::new(true).progress("test")
}

fn remote(bucket: &Arc<InMemory>, mode: Mode) -> Remote {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    Remote::with("memory", (Box::new(bucket.clone()), Key::from("prefix")), mode, runtime)
}

/// The names in a bucket.
fn names(bucket: &Arc<InMemory>) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let all = runtime.block_on(bucket.list(None).map_ok(|it| it.location.to_string()).try_collect::<Vec<_>>());
    all.unwrap()
}

fn replace(bucket: &Arc<InMemory>, name: &str, bytes: &'static [u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(bucket.put(&Key::from(name), bytes.into())).unwrap();
}

#[test]
fn what_one_machine_sends_another_fetches() {
    let (bucket, one, two) = (Arc::new(InMemory::new()), Machine::new(), Machine::new());
    let stored = one.make("hello");
    let writer = remote(&bucket, Mode::ReadWrite);
    assert!(two.fetch(&writer, &stored, None).is_none(), "it is not there yet");
    one.send(&writer, &stored);
    assert_eq!(
        names(&bucket).iter().filter(|name| name.starts_with("prefix/v1/cas/")).count(),
        2,
        "the list and the file"
    );
    assert!(names(&bucket).contains(&format!("prefix/v1/ac/{}", stored.key)));

    assert!(two.fetch(&writer, &stored, Some(&"0".repeat(64))).is_none(), "another digest is wanted");
    let reader = remote(&bucket, Mode::ReadOnly);
    let fetched = two.fetch(&reader, &stored, Some(&stored.digest)).unwrap();
    assert_eq!((fetched.key, &fetched.digest), (stored.key.clone(), &stored.digest));
    assert_eq!(two.store.result(&stored.key).unwrap().unwrap().digest, stored.digest);
    let contents = two.store.contents(&stored.digest).unwrap();
    assert_eq!(two.store.blobs.read(contents.file(0).digest).unwrap(), b"hello");
}

#[test]
fn a_reader_sends_nothing() {
    let (bucket, one) = (Arc::new(InMemory::new()), Machine::new());
    let stored = one.make("hello");
    one.send(&remote(&bucket, Mode::ReadOnly), &stored);
    assert_eq!(names(&bucket), Vec::<String>::new());
}

#[test]
fn what_is_damaged_there_is_refused_and_sent_again() {
    let (bucket, one) = (Arc::new(InMemory::new()), Machine::new());
    let stored = one.make("hello");
    one.send(&remote(&bucket, Mode::ReadWrite), &stored);
    for name in names(&bucket) {
        replace(&bucket, &name, b"hellO");
        let (reader, two) = (remote(&bucket, Mode::ReadWrite), Machine::new());
        assert!(two.fetch(&reader, &stored, None).is_none(), "{name}");
        assert!(two.store.result(&stored.key).unwrap().is_none(), "{name}");
        // The machine that found the damage may replace it.
        let own = two.make("hello");
        two.send(&reader, &own);
        two.store.remove_result(&own.key).unwrap();
        let third = Machine::new();
        assert!(third.fetch(&reader, &stored, None).is_some(), "{name}");
    }
}

#[test]
fn the_first_result_for_a_key_stays() {
    let (bucket, one, two) = (Arc::new(InMemory::new()), Machine::new(), Machine::new());
    let (first, second) = (one.make("hello"), two.make("other"));
    assert_eq!(first.key, second.key);
    let writer = remote(&bucket, Mode::ReadWrite);
    one.send(&writer, &first);
    two.send(&writer, &second);
    assert_eq!(Machine::new().fetch(&writer, &first, None).unwrap().digest, first.digest);
}
