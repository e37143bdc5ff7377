//! Statistics of the steps of an epoch, and a check whether the training has collapsed.

use anyhow::{Result, bail};

use super::Train;
use super::loss::StepLoss;
use similiai::report::training_log::Epoch;

/// Share of the margin. If the standard deviation of the distances is below it, the distances are alike. If the loss
/// differs from the margin by less, the loss is at the margin.
const ALIKE: f64 = 0.01;

#[derive(Default)]
pub struct EpochStatistics {
    steps: Vec<StepLoss>,
    rate: f64,
}

impl EpochStatistics {
    pub fn add(&mut self, step: StepLoss, rate: f64) {
        self.steps.push(step);
        self.rate = rate;
    }

    /// The row of the log. Fails if all distances of the last step are alike.
    pub fn epoch(mut self, train: &Train, number: usize) -> Result<Epoch> {
        if let Some(last) = self.steps.last() {
            let distances = || last.triplet.positives.iter().chain(&last.triplet.negatives).map(|d| f64::from(*d));
            let (spread, loss) = (deviation(distances), last.triplet.loss);
            if spread < ALIKE * train.margin && (loss - train.margin).abs() < ALIKE * train.margin {
                let rate = match train.learning_rate {
                    rate if rate > 1e-2 => format!("lower train.learning_rate ({rate}; 0.005 is usual)"),
                    rate => format!("lower train.learning_rate ({rate}), or raise train.warm_up ({})", train.warm_up),
                };
                let length = if train.normalize { "" } else { ", and set train.normalize: true" };
                bail!(
                    "the embeddings collapsed in epoch {number}: the triplet loss ({loss:.4}) stays at the margin ({}), \
                     because all distances are alike (standard deviation {spread:.1e}); {rate}{length}",
                    train.margin,
                );
            }
        }
        let count = self.steps.len().max(1) as f64;
        let mean = |of: fn(&StepLoss) -> f64| self.steps.iter().map(of).sum::<f64>() / count;
        let mut epoch = Epoch {
            epoch: number,
            learning_rate: self.rate,
            loss: mean(|seen| seen.loss),
            triplet_loss: mean(|seen| seen.triplet.loss),
            cross_entropy: mean(|seen| seen.cross_entropy),
            active_triplets: mean(|seen| seen.triplet.active),
            ..Epoch::default()
        };
        let mut gather = |of: fn(&mut StepLoss) -> &mut Vec<f32>| -> Vec<f32> {
            self.steps.iter_mut().flat_map(|seen| std::mem::take(of(seen))).collect()
        };
        let positives = gather(|seen| &mut seen.triplet.positives);
        let negatives = gather(|seen| &mut seen.triplet.negatives);
        [epoch.positive_low, epoch.positive_distance, epoch.positive_high] = distribution(positives);
        [epoch.negative_low, epoch.negative_distance, epoch.negative_high] = distribution(negatives);
        Ok(epoch)
    }
}

fn deviation<I: Iterator<Item = f64>>(values: impl Fn() -> I) -> f64 {
    let count = values().count().max(1) as f64;
    let mean = values().sum::<f64>() / count;
    (values().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt()
}

/// 10th percentile, mean, 90th percentile.
fn distribution(mut values: Vec<f32>) -> [f64; 3] {
    if values.is_empty() {
        return [0.0; 3];
    }
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
    let last = (values.len() - 1) as f64;
    let mut at =
        |share: f64| f64::from(*values.select_nth_unstable_by((last * share).round() as usize, f32::total_cmp).1);
    [at(0.1), mean, at(0.9)]
}

#[cfg(test)]
mod tests {
    use similiai::learning::nn::TripletLoss;

    use super::*;

    fn seen(loss: f64, positives: &[f32], negatives: &[f32]) -> StepLoss {
        let triplet =
            TripletLoss { loss, positives: positives.into(), negatives: negatives.into(), ..TripletLoss::default() };
        StepLoss { loss, triplet, cross_entropy: 0.0, for_proxies: Vec::new() }
    }

    fn watched(train: &Train, steps: Vec<StepLoss>) -> Result<Epoch> {
        let mut statistics = EpochStatistics::default();
        steps.into_iter().for_each(|seen| statistics.add(seen, 0.1));
        statistics.epoch(train, 3)
    }

    #[test]
    fn an_epoch_is_the_mean_of_its_steps_and_the_distribution_of_all_distances() {
        let nine: Vec<f32> = (1..10).map(|i| i as f32).collect();
        let epoch =
            watched(&Train::default(), vec![seen(1.0, &nine, &[1.0]), seen(2.0, &[0.0, 10.0], &[3.0])]).unwrap();
        assert_eq!((epoch.epoch, epoch.loss, epoch.learning_rate), (3, 1.5, 0.1));
        assert_eq!((epoch.positive_low, epoch.positive_distance, epoch.positive_high), (1.0, 5.0, 9.0));
        assert_eq!(epoch.negative_distance, 2.0);
    }

    #[test]
    fn distances_all_alike_with_the_loss_at_the_margin_are_a_collapse() {
        let train = Train { margin: 0.2, normalize: false, ..Train::default() };
        let error = watched(&train, vec![seen(0.2, &[1e-4; 4], &[1e-4; 4])]).unwrap_err().to_string();
        assert!(
            error.contains("epoch 3") && error.contains("learning_rate") && error.contains("normalize: true"),
            "{error}"
        );
        assert!(watched(&train, vec![seen(0.2, &[0.1, 0.9], &[0.5; 2])]).is_ok());
        assert!(watched(&train, vec![seen(0.1, &[1e-4; 4], &[1e-4; 4])]).is_ok());
    }
}
