//! How deep the pictures of an archive lie: those at the depth of most are taken, and the others are not.

use std::path::{Path, PathBuf};

use anyhow::Result;
use similiai::engine::stage::Outputs;

/// How many folders deep a picture lies, and whether below a part such as `train`.
pub type Depth = (usize, bool);

/// The pictures written so far: by depth, the first one first, their names in the result and in the archive.
#[derive(Default)]
pub struct Depths(Vec<(Depth, Vec<(String, PathBuf)>)>);

impl Depths {
    fn place(&mut self, depth: Depth) -> usize {
        let place = self.0.iter().position(|(other, _)| *other == depth);
        place.unwrap_or_else(|| {
            self.0.push((depth, Vec::new()));
            self.0.len() - 1
        })
    }

    /// Where to write the picture that is to be `member` of the result.
    pub fn name(&mut self, depth: Depth, member: &str) -> String {
        name(self.place(depth), member)
    }

    /// Notes a picture that was written; `path` is its name in the archive.
    pub fn add(&mut self, depth: Depth, member: &str, path: &Path) {
        let place = self.place(depth);
        self.0[place].1.push((member.to_owned(), path.to_owned()));
    }

    /// Leaves the pictures at the depth of most, or at the first of two such depths. Removes the others, and gives their
    /// names in the archive.
    pub fn settle(self, outputs: &Outputs) -> Result<Vec<PathBuf>> {
        let most = self.0.iter().map(|(_, pictures)| pictures.len()).max().unwrap_or_default();
        let kept = self.0.iter().position(|(_, pictures)| pictures.len() == most).unwrap_or_default();
        let mut others = Vec::new();
        for (place, (_, pictures)) in self.0.iter().enumerate().filter(|(place, _)| *place != kept) {
            for (member, path) in pictures {
                outputs.remove(&name(place, member))?;
                others.push(path.clone());
            }
        }
        let pictures = self.0.get(kept).filter(|_| kept > 0).into_iter().flat_map(|(_, pictures)| pictures);
        for (member, _) in pictures {
            outputs.rename(&name(kept, member), member)?;
        }
        Ok(others)
    }
}

/// Only once all are there is it known which depth has most: those at another depth than the first stand apart until then.
fn name(place: usize, member: &str) -> String {
    if place == 0 { member.to_owned() } else { format!(".depth-{place}/{member}") }
}
