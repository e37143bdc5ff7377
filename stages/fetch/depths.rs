//! Depths of the pictures in an archive: the most frequent depth is kept, and pictures at other depths are not.

use std::path::{Path, PathBuf};

use anyhow::Result;
use similiai::engine::stage::Outputs;

/// Depth of a picture: the number of components of its path, and whether it is below a part such as `train`.
pub type Depth = (usize, bool);

/// The pictures written so far, by depth in order of appearance, with their names in the result and in the archive.
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

    /// Name under which to write the picture that will be `member` of the result.
    pub fn name(&mut self, depth: Depth, member: &str) -> String {
        name(self.place(depth), member)
    }

    /// Records a picture that was written; `path` is its name in the archive.
    pub fn add(&mut self, depth: Depth, member: &str, path: &Path) {
        let place = self.place(depth);
        self.0[place].1.push((member.to_owned(), path.to_owned()));
    }

    /// Keeps the pictures at the most frequent depth, or at the first one if two are equally frequent. Removes the
    /// others and returns their names in the archive.
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

/// Name of `member` while the archive is read. The most frequent depth is known only at the end, so pictures at any
/// other depth than the first go into a folder for that depth.
fn name(place: usize, member: &str) -> String {
    if place == 0 { member.to_owned() } else { format!(".depth-{place}/{member}") }
}
