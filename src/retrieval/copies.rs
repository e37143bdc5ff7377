//! Copies: pictures whose embeddings are so near that they count as the same picture.

use std::collections::HashSet;

use anyhow::Result;

use super::search::{FlatIndex, Neighbour, Query};

/// Pictures that are nearer to each other than this count as copies: resized, recompressed or slightly cropped.
pub const COPY: f32 = 0.1;

/// Number of pictures whose copies are searched for at a time. Each of them may have many copies.
const AT_ONCE: usize = 64;

/// Finds sets of copies among `values`, (pictures, `dimension`). The first picture of a set has the lowest id, and the
/// others are at most `reach` away from it. A picture is in at most one set. With `between`, the id of the first
/// picture of each set is below `between`, and the ids of the others are not.
pub fn copies(dimension: usize, values: Vec<f32>, reach: f32, between: Option<usize>) -> Result<Vec<Vec<Neighbour>>> {
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let own = FlatIndex::of_rows(dimension, values)?;
    let all = own.len();
    let seconds = between.map(|first| (first..all).flat_map(|id| own.row(id)).copied().collect::<Vec<f32>>());
    let seconds = seconds.map(|rows| FlatIndex::of_rows(dimension, rows)).transpose()?;
    let (gallery, offset) = (seconds.as_ref().unwrap_or(&own), between.unwrap_or(0));
    let (mut sets, mut taken) = (Vec::new(), HashSet::new());
    let mut next = 0..between.unwrap_or(all);
    loop {
        let ids: Vec<usize> = next.by_ref().filter(|id| !taken.contains(id)).take(AT_ONCE).collect();
        if ids.is_empty() {
            return Ok(sets);
        }
        let queries: Vec<Query> = ids.iter().map(|id| Query::within(own.row(*id), reach)).collect();
        for (id, near) in ids.into_iter().zip(gallery.search(&queries)?) {
            if taken.contains(&id) {
                continue;
            }
            let near = near.into_iter().map(|it| Neighbour { id: it.id + offset, ..it });
            let others: Vec<Neighbour> = near.filter(|it| it.id > id && !taken.contains(&it.id)).collect();
            if !others.is_empty() {
                taken.insert(id);
                taken.extend(others.iter().map(|it| it.id));
                sets.push([vec![Neighbour { id, distance: 0.0 }], others].concat());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_found_within_a_folder_and_between_two() {
        let sets = |reach, between| -> Vec<Vec<usize>> {
            let sets = copies(1, vec![0.0, 1.0, 0.05, 1.04, 7.0, 1.08], reach, between).unwrap();
            sets.iter().map(|set| set.iter().map(|it| it.id).collect()).collect()
        };
        assert_eq!(sets(0.06, None), [vec![0, 2], vec![1, 3]]);
        assert_eq!(sets(0.09, None), [vec![0, 2], vec![1, 3, 5]]);
        assert_eq!(sets(0.06, Some(3)), [vec![1, 3]]);
        assert!(copies(1, Vec::new(), 1.0, None).unwrap().is_empty());
    }
}
