//! Describes how two results differ that should be equal: the first different file, and the first difference in it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use crate::base::files;
use crate::engine::cache::{Contents, File};

/// Compares two files with the extension `ending`: the expected one, and the one found.
pub struct FileDiff {
    pub ending: &'static str,
    pub compare: fn(&Path, &Path) -> Result<String>,
}

/// The comparisons for kinds of files that the engine does not know.
pub type FileDiffs = &'static [FileDiff];

/// The files of a result, and the path at which each can be read.
pub type Readable<'a> = (&'a Contents, &'a dyn Fn(&File) -> PathBuf);

/// The first file that differs, and how. `None` if all files are equal.
pub fn first(diffs: FileDiffs, (expected, expected_path): Readable, (found, found_path): Readable) -> Option<String> {
    let changes = found.changes_since(expected);
    let all = [&changes.changed, &changes.removed, &changes.added].into_iter().filter_map(|paths| paths.first());
    let path = all.min()?;
    Some(match (expected.find(path), found.find(path)) {
        (Some(one), Some(two)) => {
            let (one, two) = (expected.file(one), found.file(two));
            // A damaged file may make a reader fail or panic. In both cases, show the digests.
            let how = catch_unwind(AssertUnwindSafe(|| within(diffs, path, &expected_path(&one), &found_path(&two))));
            let how = how
                .unwrap_or_else(|_| Err(anyhow!("it cannot be read")))
                .unwrap_or_else(|_| format!("digest {} where {} is expected", two.digest, one.digest));
            format!("{path}: {how}")
        }
        (Some(_), None) => format!("{path} is missing"),
        _ => format!("{path} is new"),
    })
}

fn within(diffs: FileDiffs, name: &str, expected: &Path, found: &Path) -> Result<String> {
    let ending = Path::new(name).extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match (diffs.iter().find(|diff| diff.ending == ending), ending) {
        (Some(diff), _) => (diff.compare)(expected, found),
        (None, "csv" | "json" | "md" | "html" | "txt") => lines(expected, found),
        (None, _) => bytes(expected, found),
    }
}

/// The beginning of a long text.
pub fn short(text: &str) -> String {
    let cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}

fn lines(expected: &Path, found: &Path) -> Result<String> {
    let (one, two) = (files::read_to_string(expected)?, files::read_to_string(found)?);
    let (mut a, mut b) = (one.lines(), two.lines());
    for number in 1.. {
        return Ok(match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => format!("line {number}: `{}` where `{}` is expected", short(b), short(a)),
            (None, Some(_)) => format!("it has more lines after line {}", number - 1),
            (Some(_), None) => format!("it ends after line {}", number - 1),
            (None, None) => "the line endings differ".to_owned(),
        });
    }
    bytes(expected, found)
}

fn bytes(expected: &Path, found: &Path) -> Result<String> {
    let (one, two) = (files::read(expected)?, files::read(found)?);
    Ok(match one.iter().zip(&two).position(|(a, b)| a != b) {
        Some(place) => format!("byte {place}: {:#04x} where {:#04x} is expected", two[place], one[place]),
        None => format!("{} bytes where {} are expected", two.len(), one.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn how(name: &str, write: impl Fn(&Path, f32)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["expected", "found"].map(|side| folder.path().join(side));
        write(&paths[0], 1.0);
        write(&paths[1], 2.0);
        let contents = |path: &Path| {
            Contents::new(vec![(name.to_owned(), 1, files::digest(path).unwrap()), ("same".into(), 1, "0".repeat(64))])
        };
        let (expected, found) = (contents(&paths[0]).unwrap(), contents(&paths[1]).unwrap());
        assert_eq!(first(&[], (&expected, &|_| paths[0].clone()), (&expected, &|_| paths[0].clone())), None);
        first(&[], (&expected, &|_| paths[0].clone()), (&found, &|_| paths[1].clone())).unwrap()
    }

    #[test]
    fn names_the_place_in_text_and_in_other_files() {
        let text = how("t.csv", |path, value| fs::write(path, format!("a,b\n1,{value}\n")).unwrap());
        assert_eq!(text, "t.csv: line 2: `1,2` where `1,1` is expected");
        let other = how("x.bin", |path, value| fs::write(path, [7, value as u8]).unwrap());
        assert_eq!(other, "x.bin: byte 1: 0x02 where 0x01 is expected");
    }
}
