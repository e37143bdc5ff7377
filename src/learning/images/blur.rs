//! A Gaussian blur that gives the same bytes on every CPU.

use image::RgbImage;

/// Blurs `image` by a Gaussian with a standard deviation of `sigma` pixels. Pixels at the edge continue beyond it.
///
/// On x86 it gives the bytes of `image::imageops::blur`, which rounds differently on CPUs that multiply and add in one
/// instruction.
pub fn blur(image: &RgbImage, sigma: f32) -> RgbImage {
    let weights = weights(sigma);
    let (width, height) = (image.width() as usize, image.height() as usize);
    let row_length = 3 * width;
    let reach = weights.len() / 2;
    let across: Vec<f32> = image.as_raw().chunks_exact(row_length).flat_map(|row| blurred_row(row, &weights)).collect(); // (height, width, 3)
    let row = |y: usize| &across[y * row_length..][..row_length];
    let mut blurred = image.clone();
    for (y, target) in blurred.chunks_exact_mut(row_length).enumerate() {
        let mut sums: Vec<f32> = row(y).iter().map(|value| value * weights[reach]).collect();
        for (weight, distance) in weights.iter().zip((1..=reach).rev()) {
            let (above, below) = (row(y.saturating_sub(distance)), row((y + distance).min(height - 1)));
            for ((sum, above), below) in sums.iter_mut().zip(above).zip(below) {
                *sum += (above + below) * weight;
            }
        }
        for (value, sum) in target.iter_mut().zip(sums) {
            *value = sum.round() as u8;
        }
    }
    blurred
}

/// A row of pixels, each replaced by the weighted sum of those beside it.
fn blurred_row(row: &[u8], weights: &[f32]) -> Vec<f32> {
    let reach = weights.len() / 2;
    let pixel = |place: usize| row[3 * place..].iter().take(3);
    let last = row.len() / 3 - 1;
    let before = (0..reach).flat_map(|_| pixel(0));
    let after = (0..reach).flat_map(|_| pixel(last));
    let padded: Vec<f32> = before.chain(row).chain(after).map(|value| f32::from(*value)).collect();
    let at = |distance: usize| &padded[3 * (reach + distance)..];
    let mut sums: Vec<f32> = at(0).iter().take(row.len()).map(|value| value * weights[reach]).collect();
    for (place, weight) in weights.iter().take(reach).enumerate() {
        let (left, right) = (&padded[3 * place..], at(reach - place));
        for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
            *sum += (left + right) * weight;
        }
    }
    sums
}

/// The weights of a pixel's neighbours in one direction. Their number is odd, and their sum is 1.
fn weights(sigma: f32) -> Vec<f32> {
    let count = ((((sigma - 0.8) / 0.3 + 1.0) * 2.0 + 1.0).max(3.0) as usize) | 1;
    let scale = 1.0 / ((2.0 * std::f32::consts::PI).sqrt() * sigma);
    let weight = |place: usize| {
        let distance = (place as f32 - (count / 2) as f32) / sigma;
        libm::exp(f64::from(-0.5 * (distance * distance))) as f32 * scale
    };
    let weights: Vec<f32> = (0..count).map(weight).collect();
    let sum: f32 = weights.iter().sum();
    weights.into_iter().map(|weight| weight * (1.0 / sum)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Elsewhere, and with `target-cpu=native`, the other blur may round differently.
        #[test]
        #[cfg(all(target_arch = "x86_64", not(target_feature = "fma")))]
        fn it_is_the_blur_of_the_image_crate(
            width in 1u32..40, height in 1u32..40, sigma in 0.1f32..20.0, pixels in prop::collection::vec(any::<u8>(), 40 * 40 * 3),
        ) {
            let image = RgbImage::from_raw(width, height, pixels[..(3 * width * height) as usize].to_vec()).unwrap();
            prop_assert_eq!(blur(&image, sigma), image::imageops::blur(&image, sigma));
        }
    }

    #[test]
    fn one_colour_stays_and_an_edge_becomes_soft() {
        let one = RgbImage::from_pixel(9, 7, image::Rgb([13, 130, 255]));
        assert_eq!(blur(&one, 1.0), one);
        let edge = RgbImage::from_fn(8, 1, |x, _| image::Rgb([if x < 4 { 0 } else { 200 }; 3]));
        let soft: Vec<u8> = blur(&edge, 1.0).pixels().map(|pixel| pixel.0[0]).collect();
        assert!(soft.is_sorted() && soft[0] == 0 && soft[7] == 200, "{soft:?}");
        assert!(soft[3] > 0 && soft[4] < 200 && soft[3] + soft[4] == 200, "{soft:?}");
    }
}
