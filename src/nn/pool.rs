//! Pooling, ReLU and addition: what only moves memory.

use rayon::prelude::*;

use super::FeatureMap;

/// 2×2 maximum: (batch, height, width, channels) → (batch, height/2, width/2, channels), with which of the four
/// values won (the first of equals). An odd last row or column is left out.
pub fn max_pool(x: &FeatureMap) -> (FeatureMap, Vec<u8>) {
    let (height, width, c) = (x.height / 2, x.width / 2, x.channels);
    let image = (height * width * c).max(1);
    let mut y = vec![0.0; x.batch * height * width * c];
    let mut winners = vec![0u8; y.len()];
    let source = x.values.par_chunks(x.image().max(1));
    y.par_chunks_mut(image).zip(winners.par_chunks_mut(image)).zip(source).for_each(|((y, winners), x_values)| {
        let pixels = y.chunks_exact_mut(c).zip(winners.chunks_exact_mut(c));
        for (place, (y, winners)) in pixels.enumerate() {
            let corner = (place / width * 2 * x.width + place % width * 2) * c;
            y.copy_from_slice(&x_values[corner..corner + c]);
            for (which, offset) in [(1u8, c), (2, x.width * c), (3, (x.width + 1) * c)] {
                let candidates = &x_values[corner + offset..corner + offset + c];
                for ((y, winner), candidate) in y.iter_mut().zip(winners.iter_mut()).zip(candidates) {
                    let wins = *candidate > *y;
                    *y = if wins { *candidate } else { *y };
                    *winner = if wins { which } else { *winner };
                }
            }
        }
    });
    (FeatureMap::new((x.batch, height, width, c), y), winners)
}

/// The gradient goes to the value that won. `size` is the input's (height, width).
pub fn max_pool_backward(g: &FeatureMap, winners: &[u8], (height, width): (usize, usize)) -> FeatureMap {
    let c = g.channels;
    let image = (height * width * c).max(1);
    let mut x = vec![0.0; g.batch * height * width * c];
    let small = g.image().max(1);
    x.par_chunks_mut(image).zip(g.values.par_chunks(small)).zip(winners.par_chunks(small)).for_each(
        |((x, g_values), winners)| {
            for (place, (g_pixel, winners)) in g_values.chunks_exact(c).zip(winners.chunks_exact(c)).enumerate() {
                let corner = (place / g.width * 2 * width + place % g.width * 2) * c;
                for (which, offset) in [(0u8, 0), (1, c), (2, width * c), (3, (width + 1) * c)] {
                    let targets = &mut x[corner + offset..corner + offset + c];
                    for ((target, value), winner) in targets.iter_mut().zip(g_pixel).zip(winners) {
                        *target = if *winner == which { *value } else { 0.0 };
                    }
                }
            }
        },
    );
    FeatureMap::new((g.batch, height, width, c), x)
}

/// (batch, height, width, channels) → (batch, channels)
pub fn global_average(x: &FeatureMap) -> Vec<f32> {
    let pixels = (x.height * x.width) as f32;
    let mut y = vec![0.0; x.batch * x.channels];
    y.par_chunks_mut(x.channels).zip(x.values.par_chunks(x.image().max(1))).for_each(|(y, x)| {
        for pixel in x.chunks_exact(y.len()) {
            y.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
        }
        y.iter_mut().for_each(|sum| *sum /= pixels);
    });
    y
}

/// The gradient spread evenly over the pixels of `like`'s shape.
pub fn global_average_backward(g: &[f32], like: &FeatureMap) -> FeatureMap {
    let share = 1.0 / (like.height * like.width) as f32;
    let mut x = vec![0.0; like.values.len()];
    x.par_chunks_mut(like.image().max(1)).zip(g.par_chunks(like.channels)).for_each(|(x, g)| {
        for pixel in x.chunks_exact_mut(g.len()) {
            pixel.iter_mut().zip(g).for_each(|(x, g)| *x = g * share);
        }
    });
    like.like(like.channels, x)
}

pub fn relu(x: &mut FeatureMap) {
    x.values.par_chunks_mut(1 << 14).for_each(|x| x.iter_mut().for_each(|x| *x = x.max(0.0)));
}

/// Clears `g` where the ReLU's output `y` was not positive.
pub fn relu_backward(g: &mut FeatureMap, y: &FeatureMap) {
    let chunks = g.values.par_chunks_mut(1 << 14).zip(y.values.par_chunks(1 << 14));
    chunks.for_each(|(g, y)| g.iter_mut().zip(y).for_each(|(g, y)| *g = if *y > 0.0 { *g } else { 0.0 }));
}

pub fn add(to: &mut FeatureMap, other: &FeatureMap) {
    let chunks = to.values.par_chunks_mut(1 << 14).zip(other.values.par_chunks(1 << 14));
    chunks.for_each(|(to, other)| to.iter_mut().zip(other).for_each(|(to, other)| *to += other));
}
