//! t-SNE: places points in the plane so that near neighbours stay near (van der Maaten and Hinton 2008).

use rayon::prelude::*;

/// A point's neighbours: the place of each, and the distance to it.
pub type Neighbours = Vec<(usize, f32)>;

const EPOCHS: usize = 1000;
/// In the first epochs, neighbours attract each other this much more, so that clusters form (van der Maaten 2014,
/// section 5.2).
const EXAGGERATION: f32 = 12.0;
const EXAGGERATED_EPOCHS: usize = 250;
/// The highest learning rate. It grows with the number of points (Belkina et al. 2019), because a high rate throws few
/// points apart.
const MOST_RATE: f32 = 50.0;
/// The lowest gain of a coordinate. A gain grows while the coordinate keeps its direction (Jacobs 1988).
const LEAST_GAIN: f32 = 0.01;
/// Every sum over points adds in this many lanes, and then adds the lanes in their order. So the compiler may use
/// vectors, and the result is the same on every CPU.
const LANES: usize = 16;
/// Where the points stand that fill the lanes up: so far that they repel no other, and their squares are still numbers.
const FAR: f32 = 1e18;

/// Moves the points of `start` until the distances in the plane fit the neighbours. `perplexity` is the effective
/// number of neighbours of a point. Every pair is computed, without the Barnes-Hut approximation, so the time grows with
/// the square of the number of points.
pub fn place(neighbours: &[Neighbours], start: &[[f32; 2]], perplexity: f64) -> Vec<[f32; 2]> {
    let count = start.len();
    let width = count.next_multiple_of(LANES);
    let affinities = joint_affinities(neighbours, perplexity, width);
    let rate = (count as f32 / EXAGGERATION).min(MOST_RATE);
    let mut axes = [0, 1].map(|axis| {
        let mut values: Vec<f32> = start.iter().map(|point| point[axis]).collect();
        values.resize(width, FAR);
        values
    });
    let mut motion = vec![[Motion { step: 0.0, gain: 1.0 }; 2]; count];
    for epoch in 0..EPOCHS {
        let (exaggeration, momentum) = if epoch < EXAGGERATED_EPOCHS { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let forces: Vec<Forces> =
            (0..count).into_par_iter().map(|i| forces(i, &axes, &affinities[i * width..][..width])).collect();
        let sum: f32 = forces.iter().map(|force| force.closeness).sum();
        for (i, force) in forces.iter().enumerate() {
            for (axis, motion) in motion[i].iter_mut().enumerate() {
                let gradient = 4.0 * (exaggeration * force.attraction[axis] - force.repulsion[axis] / sum);
                axes[axis][i] += motion.next(gradient, momentum, rate);
            }
        }
        // Only differences matter. Without this, all points drift together.
        for axis in &mut axes {
            let mean = axis[..count].iter().sum::<f32>() / count as f32;
            axis[..count].iter_mut().for_each(|value| *value -= mean);
        }
    }
    (0..count).map(|i| [axes[0][i], axes[1][i]]).collect()
}

#[derive(Clone, Copy)]
struct Motion {
    step: f32,
    gain: f32,
}

impl Motion {
    fn next(&mut self, gradient: f32, momentum: f32, rate: f32) -> f32 {
        let turns = gradient * self.step >= 0.0;
        self.gain = if turns { (self.gain * 0.8).max(LEAST_GAIN) } else { self.gain + 0.2 };
        self.step = momentum * self.step - rate * self.gain * gradient;
        self.step
    }
}

/// What acts on one point, before exaggeration and normalisation.
struct Forces {
    attraction: [f32; 2],
    repulsion: [f32; 2],
    /// The sum of its closeness to all other points, 1 / (1 + distance²) each.
    closeness: f32,
}

fn forces(i: usize, axes: &[Vec<f32>; 2], affinities: &[f32]) -> Forces {
    let here = [axes[0][i], axes[1][i]];
    let [mut attraction, mut repulsion] = [[[0.0f32; LANES]; 2]; 2];
    let mut closeness = [0.0f32; LANES];
    let [xs, ys] = [0, 1].map(|axis| axes[axis].as_chunks::<LANES>().0);
    for ((xs, ys), affinities) in xs.iter().zip(ys).zip(affinities.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            let [x, y] = [here[0] - xs[lane], here[1] - ys[lane]];
            let close = 1.0 / (1.0 + x * x + y * y);
            let (attract, repel) = (affinities[lane] * close, close * close);
            closeness[lane] += close;
            attraction[0][lane] += attract * x;
            attraction[1][lane] += attract * y;
            repulsion[0][lane] += repel * x;
            repulsion[1][lane] += repel * y;
        }
    }
    let sum = |lanes: [f32; LANES]| lanes.iter().sum::<f32>();
    // The point's closeness to itself is 1.
    Forces { attraction: attraction.map(sum), repulsion: repulsion.map(sum), closeness: sum(closeness) - 1.0 }
}

/// The symmetric affinities of all pairs, which sum to 1: a matrix with rows of `width` values, zero between points of
/// which neither is a neighbour of the other (van der Maaten and Hinton 2008, section 3.1; only
/// near neighbours count: van der Maaten 2014, section 4.1).
fn joint_affinities(neighbours: &[Neighbours], perplexity: f64, width: usize) -> Vec<f32> {
    let count = neighbours.len();
    let mut joint = vec![0.0f32; count * width];
    for (i, neighbours) in neighbours.iter().enumerate() {
        let squares: Vec<f64> = neighbours.iter().map(|(_, distance)| f64::from(*distance).powi(2)).collect();
        for ((j, _), affinity) in neighbours.iter().zip(affinities(&squares, perplexity)) {
            let half = affinity as f32 / (2 * count) as f32;
            joint[i * width + j] += half;
            joint[j * width + i] += half;
        }
    }
    joint
}

/// The affinities of a point to its neighbours, which sum to 1: a Gaussian whose width gives them the wanted perplexity
/// (van der Maaten and Hinton 2008, section 2).
fn affinities(squares: &[f64], perplexity: f64) -> Vec<f64> {
    // Distances count from the nearest, so that not all become 0.
    let nearest = squares.iter().copied().fold(f64::INFINITY, f64::min);
    let at = |precision: f64| {
        let all: Vec<f64> = squares.iter().map(|square| libm::exp(-precision * (square - nearest))).collect();
        let sum: f64 = all.iter().sum();
        all.into_iter().map(|it| it / sum).collect::<Vec<f64>>()
    };
    let entropy = |all: &[f64]| all.iter().filter(|it| **it > 0.0).map(|it| -it * libm::log(*it)).sum::<f64>();
    let wanted = libm::log(perplexity);
    let (mut low, mut high, mut precision) = (0.0, f64::INFINITY, 1.0);
    // Each step halves the range, or doubles the precision while it is too low.
    for _ in 0..100 {
        if entropy(&at(precision)) > wanted {
            low = precision
        } else {
            high = precision
        }
        precision = if high.is_finite() { 0.5 * (low + high) } else { 2.0 * low };
    }
    at(precision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use similiai::base::seed::rng;

    const COUNT: usize = 61;
    const PERPLEXITY: f64 = 10.0;

    /// The nearest neighbours of random points in five dimensions.
    fn neighbours() -> Vec<Neighbours> {
        let mut rng = rng(1, "t-SNE");
        let points: Vec<[f32; 5]> = (0..COUNT).map(|_| rng.r#gen()).collect();
        let all = |point: &[f32; 5]| {
            let square = |other: &[f32; 5]| point.iter().zip(other).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let mut all: Neighbours = points.iter().map(|other| square(other).sqrt()).enumerate().collect();
            all.sort_by(|a, b| a.1.total_cmp(&b.1));
            all[1..=30].to_vec()
        };
        points.iter().map(all).collect()
    }

    /// Random places, each axis filled up as `place` does.
    fn axes(spread: f32) -> [Vec<f32>; 2] {
        let mut rng = rng(2, "t-SNE");
        [(); 2].map(|()| {
            let mut values: Vec<f32> = (0..COUNT).map(|_| rng.gen_range(-spread..spread)).collect();
            values.resize(COUNT.next_multiple_of(LANES), FAR);
            values
        })
    }

    fn joint() -> Vec<f32> {
        joint_affinities(&neighbours(), PERPLEXITY, COUNT.next_multiple_of(LANES))
    }

    /// The divergence of the closeness in the plane from the affinities, in double precision (van der Maaten and Hinton
    /// 2008, section 3).
    fn divergence(affinities: &[f32], place: impl Fn(usize) -> [f32; 2]) -> f64 {
        let close = |i: usize, j: usize| {
            let [[a, b], [c, d]] = [i, j].map(|point| place(point).map(f64::from));
            1.0 / (1.0 + (a - c).powi(2) + (b - d).powi(2))
        };
        let pairs = || (0..COUNT).flat_map(|i| (0..COUNT).map(move |j| (i, j))).filter(|(i, j)| i != j);
        let sum: f64 = pairs().map(|(i, j)| close(i, j)).sum();
        let width = affinities.len() / COUNT;
        pairs()
            .map(|(i, j)| (f64::from(affinities[i * width + j]), close(i, j) / sum))
            .filter(|(wanted, _)| *wanted > 0.0)
            .map(|(wanted, found)| wanted * (wanted / found).ln())
            .sum()
    }

    #[test]
    fn few_points_come_to_rest_close_together() {
        let start: Vec<[f32; 2]> = {
            let [xs, ys] = axes(1e-4);
            (0..COUNT).map(|i| [xs[i], ys[i]]).collect()
        };
        let places = place(&neighbours(), &start, PERPLEXITY);
        let divergence = divergence(&joint(), |i| places[i]);
        let most = places.as_flattened().iter().fold(0.0f32, |most, value| most.max(value.abs()));
        assert!(divergence < 0.55 && most < 40.0, "divergence {divergence}, farthest coordinate {most}");
    }

    #[test]
    fn forces_are_the_gradient_of_the_divergence() {
        let (affinities, mut axes) = (joint(), axes(2.0));
        let width = axes[0].len();
        let all: Vec<Forces> = (0..COUNT).map(|i| forces(i, &axes, &affinities[i * width..][..width])).collect();
        let sum: f32 = all.iter().map(|force| force.closeness).sum();
        for (i, axis) in (0..COUNT).flat_map(|i| [(i, 0), (i, 1)]) {
            let at = axes[axis][i];
            let [above, below] = [1.0, -1.0].map(|sign| {
                axes[axis][i] = at + sign / 64.0;
                divergence(&affinities, |i| [axes[0][i], axes[1][i]])
            });
            axes[axis][i] = at;
            let gradient = 4.0 * (all[i].attraction[axis] - all[i].repulsion[axis] / sum);
            let expected = (above - below) * 32.0;
            assert!((f64::from(gradient) - expected).abs() < 2e-4, "{i} {axis}: {gradient} instead of {expected}");
        }
    }

    #[test]
    fn affinities_have_the_wanted_perplexity() {
        for scale in [1e-6, 1.0, 1e6] {
            let squares: Vec<f64> = (1..=90).map(|place| scale * f64::from(place)).collect();
            let all = affinities(&squares, 30.0);
            let entropy: f64 = all.iter().map(|it| -it * it.ln()).sum();
            assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-12 && (entropy.exp() - 30.0).abs() < 1e-6, "{scale}");
        }
        assert_eq!(affinities(&[0.0; 4], 2.0), [0.25; 4], "equal pictures");
        let joint = joint();
        assert!((joint.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        let width = joint.len() / COUNT;
        assert!((0..COUNT).all(|i| (0..COUNT).all(|j| joint[i * width + j] == joint[j * width + i])));
    }
}
