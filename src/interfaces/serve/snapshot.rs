//! A network and the gallery that it embedded.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use axum::body::Bytes;

use super::etag::tag;
use super::map::Map;
use super::problem::Problem;
use crate::engine::cache::ResultFiles;
use crate::learning::dataset::Subset;
use crate::learning::model::Model;
use crate::report::results;
use crate::retrieval::searcher::Searcher;

pub struct Snapshot {
    pub model: Model,
    pub searcher: Searcher,
    /// BLAKE3 of the file of embeddings.
    pub digest: String,
    pub pictures: ResultFiles,
    pub map: Option<Map>,
    pub report: Option<Report>,
    /// Prefix of the addresses of its pictures.
    pub base: String,
    /// Names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// Ids by class and split. An empty name means all of them.
    members: BTreeMap<(String, String), Vec<usize>>,
}

/// The report's page.
pub struct Report {
    pub page: Bytes,
    pub tag: String,
}

impl From<Vec<u8>> for Report {
    fn from(page: Vec<u8>) -> Self {
        Self { tag: tag(&page), page: page.into() }
    }
}

impl Snapshot {
    /// Makes a snapshot of `model` and of the gallery that it embedded. `digest` is that of the file of embeddings.
    pub fn new(model: Model, searcher: Searcher, digest: String, pictures: ResultFiles) -> Result<Self> {
        let embeddings = &searcher.embeddings;
        let mut classes = BTreeMap::new();
        let mut members: BTreeMap<(String, String), Vec<usize>> = BTreeMap::new();
        for (id, label) in embeddings.labels.iter().enumerate() {
            let (class, split) = (&embeddings.label_names[id], &embeddings.splits[id]);
            if !class.is_empty() {
                classes.insert(*label, class.clone());
            }
            let of = [(class.as_str(), split.as_str()), (class, ""), ("", split), ("", "")];
            for (class, split) in BTreeSet::from(of) {
                members.entry((class.to_owned(), split.to_owned())).or_default().push(id);
            }
        }
        let classes = classes.into_values().collect();
        Ok(Self { model, searcher, digest, pictures, map: None, report: None, base: String::new(), classes, members })
    }

    /// Adds these embeddings to the map of a report.
    ///
    /// # Errors
    /// If the map is of another gallery.
    pub fn map(&self, drawn: Option<results::Map>) -> Result<Option<Map>> {
        drawn.map(|drawn| Map::new(drawn, &self.searcher)).transpose()
    }

    pub fn splits(&self) -> Vec<&str> {
        let all = self.members.keys().filter(|(class, split)| class.is_empty() && !split.is_empty());
        all.map(|(_, split)| split.as_str()).collect()
    }

    /// The ids of a class, a split or both, in rising order.
    ///
    /// # Errors
    /// If the gallery has no such class or split.
    pub fn members(&self, class: Option<&str>, split: Option<&str>) -> Result<&[usize], Problem> {
        let (class, split) = (class.unwrap_or_default(), split.unwrap_or_default());
        if !class.is_empty() && !self.classes.iter().any(|other| other == class) {
            return Err(Problem::missing(format!("the gallery has no class `{class}`: {}", self.classes.join(", "))));
        }
        if !split.is_empty() && !self.splits().contains(&split) {
            return Err(Problem::missing(format!("the gallery has no split `{split}`: {}", self.splits().join(", "))));
        }
        Ok(self.members.get(&(class.to_owned(), split.to_owned())).map_or(&[], Vec::as_slice))
    }

    /// Returns pictures to try the search with: the first test picture of each class, or its first picture.
    pub fn samples(&self) -> Vec<usize> {
        let first = |class: &String| {
            let of = |split: &str| self.members.get(&(class.clone(), split.to_owned()))?.first().copied();
            of(Subset::Test.name()).or_else(|| of(""))
        };
        self.classes.iter().filter_map(first).collect()
    }
}
