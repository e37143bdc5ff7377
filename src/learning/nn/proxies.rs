//! Cross-entropy over the cosines between embeddings and class proxies: the normalised softmax of Zhai and Wu 2019,
//! "Classification is a Strong Baseline for Deep Metric Learning", section 3.1.
//!
//! A proxy is a learned direction. Each class has one.

use super::normalize::normalize;

/// The class of a picture, or two classes if two pictures are mixed (Zhang et al. 2018, "mixup", section 2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixed {
    pub labels: [u8; 2],
    /// Share of the first class.
    pub share: f32,
}

/// A loss with its gradients.
pub struct Entropy {
    /// Mean over the batch.
    pub loss: f64,
    /// (batch, dimension)
    pub for_embeddings: Vec<f32>,
    /// (classes, dimension)
    pub for_proxies: Vec<f32>,
}

/// Computes the loss. `embeddings` is (batch, dimension), of any length. `proxies` is (classes, dimension). A cosine of
/// 1 gives a logit of `scale`.
pub fn cross_entropy(embeddings: &[f32], proxies: &[f32], dimension: usize, targets: &[Mixed], scale: f64) -> Entropy {
    let (mut units, mut directions) = (embeddings.to_vec(), proxies.to_vec());
    let (lengths, sizes) = (normalize(&mut units, dimension), normalize(&mut directions, dimension));
    let classes = sizes.len();
    let mut entropy =
        Entropy { loss: 0.0, for_embeddings: vec![0.0; units.len()], for_proxies: vec![0.0; directions.len()] };
    let each = 1.0 / targets.len() as f64;
    let mut for_directions = vec![0.0f64; directions.len()];
    for (place, target) in targets.iter().enumerate() {
        let unit = &units[place * dimension..][..dimension];
        let direction = |class: usize| &directions[class * dimension..][..dimension];
        let logits: Vec<f64> = (0..classes).map(|class| scale * dot(unit, direction(class))).collect();
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits.iter().map(|logit| libm::exp(logit - most)).collect();
        let sum: f64 = powers.iter().sum();
        let mut for_unit = vec![0.0f64; dimension];
        for class in 0..classes {
            let shares = [target.share, 1.0 - target.share].map(f64::from);
            let wanted: f64 = target
                .labels
                .iter()
                .zip(shares)
                .filter(|(label, _)| usize::from(**label) == class)
                .map(|(_, s)| s)
                .sum();
            if wanted > 0.0 {
                entropy.loss += each * wanted * (most + libm::log(sum) - logits[class]);
            }
            let slope = each * scale * (powers[class] / sum - wanted);
            let for_direction = &mut for_directions[class * dimension..][..dimension];
            for i in 0..dimension {
                for_unit[i] += slope * f64::from(direction(class)[i]);
                for_direction[i] += slope * f64::from(unit[i]);
            }
        }
        along(&for_unit, unit, lengths[place], &mut entropy.for_embeddings[place * dimension..]);
    }
    let to = entropy.for_proxies.chunks_exact_mut(dimension).zip(&sizes);
    let from = for_directions.chunks_exact(dimension).zip(directions.chunks_exact(dimension));
    from.zip(to).for_each(|((gradient, direction), (to, size))| along(gradient, direction, *size, to));
    entropy
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Turns the gradient of a unit vector into the gradient of the vector with `length` that was scaled to it.
fn along(gradient: &[f64], unit: &[f32], length: f32, to: &mut [f32]) {
    let radial: f64 = gradient.iter().zip(unit).map(|(g, u)| g * f64::from(*u)).sum();
    for ((to, g), u) in to.iter_mut().zip(gradient).zip(unit) {
        *to = ((g - radial * f64::from(*u)) / f64::from(length)) as f32;
    }
}
