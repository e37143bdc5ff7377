//! Pictures of many sizes and kinds, like those of users.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgba, RgbaImage};

/// A picture of a class. Each has another pattern; `variant` also selects its size and kind.
pub fn picture(class: u32, variant: u32) -> DynamicImage {
    let (width, height) = [(40, 40), (64, 48), (33, 90), (120, 50)][variant as usize % 4];
    let value = |x: u32, y: u32, channel: u32| {
        let wave = (x * (1 + variant % 5) / 2 + y * (1 + variant / 5) / 2) % 64;
        ((class * (50 + 30 * channel)) % 190 + wave) as u8
    };
    let plain = RgbaImage::from_fn(width, height, |x, y| Rgba([value(x, y, 0), value(x, y, 1), value(x, y, 2), 255]));
    match variant % 5 {
        0 => DynamicImage::from(plain).into_rgb8().into(),
        1 => DynamicImage::from(plain).into_luma8().into(),
        2 => ImageBuffer::from_fn(width, height, |x, y| Luma([u16::from(value(x, y, 0)) * 257])).into(),
        3 => RgbaImage::from_fn(width, height, |x, y| {
            let Rgba([red, green, blue, _]) = *plain.get_pixel(x, y);
            Rgba([red, green, blue, if x < 4 { 0 } else { 255 }])
        })
        .into(),
        _ => plain.into(),
    }
}

pub fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    // JPEG has no transparency and only 8 bits a channel.
    let plain = if format == ImageFormat::Jpeg { picture.to_rgb8().into() } else { picture.clone() };
    plain.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// `<class>/<variant>` for each class and variant, as PNG, JPEG and WebP in turn.
pub fn write_classes(folder: &Path, classes: &[&str], variants: u32) {
    for (class, name) in (0u32..).zip(classes) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for variant in 0..variants {
            let (ending, format) = [("png", ImageFormat::Png), ("JPG", ImageFormat::Jpeg), ("webp", ImageFormat::WebP)]
                [variant as usize % 3];
            // This WebP encoder needs 8 bits a channel.
            let picture = picture(class, variant);
            let picture = if format == ImageFormat::WebP { picture.to_rgba8().into() } else { picture };
            std::fs::write(folder.join(format!("{name}/{variant:02}.{ending}")), encoded(&picture, format)).unwrap();
        }
    }
}
