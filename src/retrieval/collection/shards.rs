//! Parts of a collection that are embedded separately, and joined into what one machine would have made.

use std::ops::Range;
use std::str::FromStr;

use anyhow::Result;

use super::{Search, labels};
use crate::base::error::Failure;
use crate::damaged;
use crate::retrieval::embeddings::Embeddings;

/// Facts in the file of a part: which part it is, and the digests of the complete list and of the part's rows.
const SHARD: &str = "similiai.shard";
const LIST: &str = "similiai.shard.list";
const ROWS: &str = "similiai.shard.rows";

/// One of `of` parts of nearly equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    number: usize,
    of: usize,
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Self { number, of }),
            _ => Err("a part is named I/N, from 1/N to N/N".to_owned()),
        }
    }
}

impl Shard {
    fn places(self, all: usize) -> Range<usize> {
        let start = |number: usize| (number as u128 * all as u128 / self.of as u128) as usize;
        start(self.number - 1)..start(self.number)
    }

    /// Keeps only this part of `search`. Returns the facts about it for its file.
    pub fn part(self, search: &mut Search) -> [(String, String); 2] {
        let mut hasher = blake3::Hasher::new();
        for found in &search.found {
            hasher.update(format!("{}\0{}\n", found.path, found.class).as_bytes());
        }
        let places = self.places(search.found.len());
        search.found = search.found.drain(places).collect();
        let shard = format!("{}/{}", self.number, self.of);
        [(SHARD.to_owned(), shard), (LIST.to_owned(), hasher.finalize().to_hex().to_string())]
    }
}

/// Adds the digest of a part's rows to its facts, for [`join`].
pub fn seal(part: &mut Embeddings) {
    part.facts.insert(ROWS.to_owned(), rows_digest(part));
}

fn rows_digest(part: &Embeddings) -> String {
    let mut hasher = blake3::Hasher::new();
    for (path, class) in part.paths.iter().zip(&part.label_names) {
        hasher.update(format!("{path}\0{class}\n").as_bytes());
    }
    for value in &part.values {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Joins all parts of one collection, each with the name of its file, as if they had been embedded together.
///
/// # Errors
/// If a part is missing or there twice, is of another collection or another model, or was changed after it was written.
pub fn join(parts: Vec<(String, Embeddings)>) -> Result<Embeddings> {
    let mut known: Vec<(Shard, String, Embeddings)> = Vec::new();
    for (name, mut part) in parts {
        let shard = part.facts.remove(SHARD).and_then(|shard| shard.parse().ok());
        let shard: Shard = shard
            .ok_or_else(|| damaged!("{name} is not a part of a collection; `similiai embed --shard` makes one"))?;
        if part.facts.remove(ROWS) != Some(rows_digest(&part)) {
            return Err(damaged!("{name} is damaged: its rows changed after it was written; embed this part again"));
        }
        if let Some((first, other, before)) = known.first() {
            let same = first.of == shard.of && before.facts == part.facts;
            if !same {
                return Err(damaged!("{name} and {other} are parts of different collections, or of different models"));
            }
        }
        if let Some((_, other, _)) = known.iter().find(|(other, ..)| *other == shard) {
            let why = format!("{name} and {other} are the same part, {}/{}; name one", shard.number, shard.of);
            return Err(Failure::Usage(why).into());
        }
        known.push((shard, name, part));
    }
    known.sort_by_key(|(shard, ..)| shard.number);
    let of = known.first().map_or(0, |(shard, ..)| shard.of);
    let missing: Vec<String> = (1..=of)
        .filter(|number| known.iter().all(|(shard, ..)| shard.number != *number))
        .map(|number| format!("{number}/{of}"))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::Usage(format!("parts are missing: {}", missing.join(", "))).into());
    }
    let mut all = Embeddings::default();
    for (_, _, part) in known {
        // An empty part does not know the dimension.
        all.dimension = all.dimension.max(part.dimension);
        all.facts.clone_from(&part.facts);
        all.append(part);
    }
    all.facts.remove(LIST);
    all.labels = labels(&all.label_names);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::Found;
    use super::*;
    use proptest::prelude::*;

    fn search(count: usize) -> Search {
        let found =
            |place: usize| Found { path: format!("{place:03}.png"), class: ["", "cat", "ant"][place % 3].to_owned() };
        Search { found: (0..count).map(found).collect(), ..Search::default() }
    }

    fn embedded(search: &Search) -> Embeddings {
        let label_names: Vec<String> = search.found.iter().map(|found| found.class.clone()).collect();
        Embeddings {
            dimension: if search.found.is_empty() { 0 } else { 1 },
            paths: search.found.iter().map(|found| found.path.clone()).collect(),
            labels: labels(&label_names),
            splits: vec![String::new(); label_names.len()],
            label_names,
            values: search.found.iter().map(|found| found.path.len() as f32).collect(),
            facts: [("model".to_owned(), "m".to_owned())].into(),
        }
    }

    fn part(text: &str, count: usize) -> (String, Embeddings) {
        let mut search = search(count);
        let facts = text.parse::<Shard>().unwrap().part(&mut search);
        let mut part = embedded(&search);
        part.facts.extend(facts);
        seal(&mut part);
        (text.to_owned(), part)
    }

    proptest! {
        #[test]
        fn parts_in_any_order_are_the_whole(count in 0usize..30, of in 1usize..8, turn in 0usize..8) {
            let mut parts: Vec<_> = (1..=of).map(|number| part(&format!("{number}/{of}"), count)).collect();
            let lengths: Vec<usize> = parts.iter().map(|(_, part)| part.len()).collect();
            prop_assert!(lengths.iter().max().unwrap() - lengths.iter().min().unwrap() <= 1);
            parts.rotate_left(turn % of);
            let (joined, whole) = (join(parts).unwrap(), embedded(&search(count)));
            prop_assert_eq!((joined.paths, joined.labels), (whole.paths, whole.labels));
            prop_assert_eq!((joined.values, joined.facts, joined.dimension), (whole.values, whole.facts, whole.dimension));
        }
    }

    #[test]
    fn what_is_no_whole_is_refused() {
        let message = |parts: Vec<(String, Embeddings)>| join(parts).unwrap_err().to_string();
        assert!(message(vec![part("1/3", 9), part("3/3", 9)]).contains("parts are missing: 2/3"));
        assert!(message(vec![part("1/2", 9), part("1/2", 9)]).contains("the same part, 1/2"));
        assert!(message(vec![part("1/2", 9), part("2/2", 8)]).contains("different collections"));
        assert!(message(vec![part("1/2", 9), part("2/3", 9)]).contains("different collections"));
        assert!(message(vec![("x".to_owned(), embedded(&search(3)))]).contains("x is not a part"));
        let mut altered = part("2/2", 9);
        altered.1.values[0] += 1.0;
        assert!(message(vec![part("1/2", 9), altered]).contains("2/2 is damaged"));
        for text in ["0/2", "3/2", "1", "a/b", "1/0"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
