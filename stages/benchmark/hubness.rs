//! Hubs: pictures that are near neighbours of many others (Radovanović et al. 2010, "Hubs in Space").

use serde::Serialize;

/// Number of neighbours of each query that are counted.
pub const K: usize = 10;
/// Number of hubs that the report names.
const NAMED: usize = 5;

/// How often a picture was among the nearest [`K`] of a query.
#[derive(Debug, Clone, Copy, Default)]
pub struct Appeared {
    pub times: usize,
    /// Number of these queries that were of another class.
    pub wrong: usize,
}

impl Appeared {
    pub fn count(&mut self, same: bool) {
        self.times += 1;
        self.wrong += usize::from(!same);
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Hubness {
    pub k: usize,
    /// Mean number of times that a picture appeared.
    pub mean: f64,
    /// Skewness (third standardised moment) of the numbers of times; near 0 without hubs.
    pub skewness: f64,
    /// Share of the gallery that never appeared.
    pub never: f64,
    /// Number of pictures that appeared 0, 1, 2, … times.
    pub histogram: Vec<usize>,
    /// Pictures that were wrong most often, the worst first.
    pub hubs: Vec<Hub>,
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Hub {
    pub id: usize,
    pub times: usize,
    pub wrong: usize,
}

impl Hubness {
    /// Measures the pictures with the ids `among`; `appeared` has an entry for every id.
    pub fn of(among: &[usize], appeared: &[Appeared]) -> Self {
        let times = || among.iter().map(|id| appeared[*id].times);
        let count = among.len().max(1) as f64;
        let mean = times().sum::<usize>() as f64 / count;
        let moment = |power| times().map(|times| (times as f64 - mean).powi(power)).sum::<f64>() / count;
        let deviation = moment(2).sqrt();
        let skewness = if deviation > 0.0 { moment(3) / deviation.powi(3) } else { 0.0 };
        let mut histogram = vec![0; times().max().map_or(0, |most| most + 1)];
        times().for_each(|times| histogram[times] += 1);
        let never = histogram.first().copied().unwrap_or(0) as f64 / count;
        let hub = |id: &usize| Hub { id: *id, times: appeared[*id].times, wrong: appeared[*id].wrong };
        let mut hubs: Vec<Hub> = among.iter().map(hub).filter(|hub| hub.wrong > 0).collect();
        hubs.sort_by(|a, b| b.wrong.cmp(&a.wrong).then(a.id.cmp(&b.id)));
        hubs.truncate(NAMED);
        Self { k: K, mean, skewness, never, histogram, hubs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_picture_that_is_everywhere_is_a_hub() {
        let of = |times, wrong| Appeared { times, wrong };
        let found = Hubness::of(&[0, 1, 2, 4], &[of(0, 0), of(8, 6), of(0, 0), of(9, 9), of(0, 0)]);
        assert_eq!((found.mean, found.never), (2.0, 0.75));
        assert_eq!(found.histogram, [3, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(found.hubs, [Hub { id: 1, times: 8, wrong: 6 }]);
        // Deviations −2, −2, −2, 6: moments 12 and 48.
        assert!((found.skewness - 48.0 / 12.0f64.powf(1.5)).abs() < 1e-12);
        assert_eq!(Hubness::of(&[0, 1], &[of(3, 0), of(3, 0)]).skewness, 0.0);
    }
}
