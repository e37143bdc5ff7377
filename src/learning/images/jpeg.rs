//! Changes JPEG files of cameras and programs so that the decoder can read them, or refuses their kind.
//!
//! The decoder (zune-jpeg) is stricter than libjpeg, which Pillow uses. It rejects padding between segments, several
//! Exif segments and odd Adobe markers. Only the head of the file is changed. The scans stay as they are.

use std::borrow::Cow;

use super::unreadable::Unreadable;

const START: [u8; 2] = [0xFF, 0xD8];
/// A segment that makes the decoder use the tables of ITU-T T.81, annex K.3. It is added to files without tables
/// (Motion JPEG).
const DEFAULT_TABLES: [u8; 10] = [0xFF, 0xE0, 0, 8, b'A', b'V', b'I', b'1', 0, 0];

/// A frame header (T.81, section B.2.2).
struct Frame {
    baseline: bool,
    components: usize,
    /// Whether a component has several rows of blocks in a unit.
    tall: bool,
}

/// Returns `bytes` in the form that the decoder reads.
pub fn normal<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, [u8]>, Unreadable> {
    let truncated = || Unreadable::Broken(format!("{name} is a damaged or truncated picture: its end is missing"));
    let mut head = Vec::new();
    let (mut frame, mut has_tables, mut has_exif, mut has_jfif) = (None, false, false, false);
    let mut adobe: Option<Vec<u8>> = None;
    let mut at = START.len();
    let scan = loop {
        let (marker, after) = next_marker(bytes, at).ok_or_else(truncated)?;
        // Markers without a segment: restarts, and one for private use.
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            at = after;
            continue;
        }
        if marker == 0xD9 {
            return Err(truncated());
        }
        let length = bytes.get(after..after + 2).ok_or_else(truncated)?;
        // Some programs write 0 for an empty segment.
        let length = usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
        let content = bytes.get(after + 2..after + length).ok_or_else(truncated)?;
        let segment = &bytes[after - 2..after + length];
        at = after + length;
        match marker {
            0xC0..=0xC2 => {
                frame = Some(self::frame(marker, content, name)?);
                head.extend(segment);
            }
            0xC3 | 0xC5..=0xCF if marker != 0xCC => return Err(kind(name, coding(marker))),
            0xF7 => return Err(kind(name, "JPEG-LS")),
            0xC4 => {
                has_tables = true;
                head.extend(segment);
            }
            0xDA => {
                if frame.as_ref().is_some_and(|frame: &Frame| {
                    frame.baseline
                        && frame.tall
                        && content.first().is_some_and(|count| usize::from(*count) < frame.components)
                }) {
                    return Err(kind(name, "a scan for each colour"));
                }
                break after - 2;
            }
            0xDB | 0xDD => head.extend(segment),
            0xE0 => has_jfif |= content.starts_with(b"JFIF\0"),
            0xE1 if content.starts_with(b"Exif\0\0") && !has_exif => {
                has_exif = true;
                head.extend(segment);
            }
            0xEE if content.starts_with(b"Adobe") && content.len() >= 12 => adobe = Some(segment.to_vec()),
            // Comments, profiles and other segments do not change the pixels.
            _ => {}
        }
    };
    // Remove or correct an Adobe segment from which the decoder would conclude a wrong colour coding.
    let components = frame.map_or(0, |frame| frame.components);
    let adobe = adobe.filter(|_| components == 4 || (components == 3 && !has_jfif)).map(|mut adobe| {
        let transform = &mut adobe[15];
        if components == 4 && *transform == 1 {
            *transform = 2;
        }
        if components == 3 && *transform > 2 {
            *transform = 1;
        }
        adobe
    });
    if !bytes[scan..].windows(2).any(|pair| pair == [0xFF, 0xD9]) {
        return Err(truncated());
    }
    let tables = if has_tables { &[][..] } else { &DEFAULT_TABLES };
    Ok(Cow::Owned([&START[..], tables, adobe.as_deref().unwrap_or_default(), &head, &bytes[scan..]].concat()))
}

/// Finds the next marker from `at` on, after padding and stray bytes. Returns it and the position after it.
fn next_marker(bytes: &[u8], at: usize) -> Option<(u8, usize)> {
    let rest = bytes.get(at..)?;
    let place = rest.windows(2).position(|pair| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0xFF))?;
    Some((rest[place + 1], at + place + 2))
}

fn frame(marker: u8, content: &[u8], name: &str) -> Result<Frame, Unreadable> {
    let [depth, _, _, _, _, components, sampling @ ..] = content else {
        return Err(Unreadable::Broken(format!("{name} is a damaged picture: its frame header is too short")));
    };
    if *depth != 8 {
        return Err(kind(name, &format!("{depth} bits a colour")));
    }
    if !matches!(components, 1 | 3 | 4) {
        return Err(kind(name, &format!("{components} colours")));
    }
    let tall = sampling.chunks(3).filter_map(|component| component.get(1)).any(|factors| factors & 15 > 1);
    Ok(Frame { baseline: marker != 0xC2, components: usize::from(*components), tall })
}

/// Names the coding of a frame marker (T.81, table B.1).
fn coding(marker: u8) -> &'static str {
    match marker {
        0xC3 => "lossless coding",
        0xC9..=0xCB => "arithmetic coding",
        0xCD..=0xCF => "hierarchical arithmetic coding",
        _ => "hierarchical coding",
    }
}

fn kind(name: &str, what: &str) -> Unreadable {
    Unreadable::NoPicture(format!(
        "{name} is a kind of JPEG that cannot be read here: {what}; save it as an ordinary JPEG"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::decode;
    use image::RgbImage;
    use image::codecs::jpeg::JpegEncoder;
    use proptest::prelude::*;

    fn jpeg() -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = RgbImage::from_fn(24, 16, |x, y| image::Rgb([(x * 9) as u8, (y * 13) as u8, 90]));
        JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture).unwrap();
        bytes
    }

    /// The picture with `extra` before the first segment with this marker.
    fn with(extra: &[u8], marker: u8) -> Vec<u8> {
        let plain = jpeg();
        let at = plain.windows(2).position(|pair| pair == [0xFF, marker]).unwrap();
        [&plain[..at], extra, &plain[at..]].concat()
    }

    #[test]
    fn oddities_that_others_read_change_no_pixel() {
        let expected = decode(&jpeg(), "it").unwrap();
        for (what, extra) in [
            ("padding", &[0xFF, 0xFF, 0xFF][..]),
            ("stray zeros", &[0, 0, 0, 0, 0]),
            ("stray text", b"hello\xFF\x00there"),
            ("a restart", &[0xFF, 0xD3]),
            ("an empty segment of length 0", &[0xFF, 0xE5, 0, 0]),
            ("a short Adobe segment", b"\xFF\xEE\0\x09Adobe\0\0"),
            ("an Adobe segment that says RGB", b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0\0"),
            ("unused arithmetic conditioning", &[0xFF, 0xCC, 0, 4, 0, 0x10]),
        ] {
            assert_eq!(decode(&with(extra, 0xDB), "it").unwrap(), expected, "{what}");
        }
        let after = [&jpeg()[..], b"what follows the end"].concat();
        assert_eq!(decode(&after, "it").unwrap(), expected);
    }

    #[test]
    fn other_kinds_are_named() {
        let plain = jpeg();
        let frame = plain.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
        let changed = |at: usize, value: u8| {
            let mut bytes = plain.clone();
            bytes[frame + at] = value;
            decode(&bytes, "it").unwrap_err().to_string()
        };
        for (marker, said) in [(0xC9, "arithmetic"), (0xC3, "lossless"), (0xC7, "hierarchical"), (0xF7, "JPEG-LS")] {
            assert!(changed(1, marker).contains(said), "{}", changed(1, marker));
        }
        assert!(changed(4, 12).contains("12 bits") && changed(9, 2).contains("2 colours"));
        assert!(changed(1, 0xC9).contains("cannot be read here"));
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_no_panic(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = jpeg();
            let place = at.index(bytes.len());
            bytes[place] = value;
            let _ = decode(&bytes, "it");
            let cut = cut.index(bytes.len());
            let _ = decode(&bytes[..cut], "it");
        }
    }
}
