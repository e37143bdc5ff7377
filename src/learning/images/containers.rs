//! Changes PNG and WebP files of other programs so that the decoders can read them, or refuses them.

use std::borrow::Cow;

use super::unreadable::Unreadable;

/// The last chunk of a PNG.
const PNG_END: [u8; 12] = [0, 0, 0, 0, b'I', b'E', b'N', b'D', 0xAE, 0x42, 0x60, 0x82];

/// Returns a PNG that its decoder can read. If only the end of the file is missing and all pixels are there, it adds
/// the end.
pub fn normal_png<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, [u8]>, Unreadable> {
    let (mut at, mut has_pixels) = (8, false);
    while let Some([a, b, c, d, kind @ ..]) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        // The decoder reads three bytes for each colour without a check of the length (png 0.18.1, `palette.rs`).
        if *kind == *b"PLTE" && !length.is_multiple_of(3) {
            return Err(Unreadable::Broken(format!("{name} is a damaged picture: its palette is cut short")));
        }
        if *kind == *b"IEND" || at + 12 + length > bytes.len() {
            break;
        }
        has_pixels |= *kind == *b"IDAT";
        at += 12 + length;
    }
    let ends = bytes.get(at + 4..at + 8) == Some(b"IEND") && bytes.len() >= at + 12;
    // The decoder itself finds pixels that are cut short.
    if ends || !has_pixels || bytes.get(at + 4..at + 8) == Some(b"IDAT") {
        return Ok(Cow::Borrowed(bytes));
    }
    Ok(Cow::Owned([&bytes[..at], &PNG_END].concat()))
}

/// Flags of an extended WebP (RFC 9649, section 2.7.1).
const ANIMATED: u8 = 2;
const XMP: u8 = 4;
const EXIF: u8 = 8;
const ALPHA: u8 = 16;

/// Returns a WebP that its decoder can read. It corrects flags that do not match the parts of the file.
pub fn normal_webp<'a>(bytes: &'a [u8], name: &str) -> Result<Cow<'a, [u8]>, Unreadable> {
    let chunks = webp_chunks(bytes).ok_or_else(|| {
        Unreadable::Broken(format!("{name} is a truncated picture: a part of it reaches past its end"))
    })?;
    let Some((b"VP8X", [flags, ..])) = chunks.first().map(|(kind, data)| (kind, *data)) else {
        return Ok(Cow::Borrowed(bytes));
    };
    let has = |wanted: &[u8; 4]| chunks.iter().any(|(kind, _)| *kind == *wanted);
    let mut right = *flags;
    if !has(b"EXIF") {
        right &= !EXIF;
    }
    if !has(b"XMP ") {
        right &= !XMP;
    }
    if right & ANIMATED == 0 {
        let lossless = chunks.iter().find(|(kind, _)| kind == b"VP8L").map(|(_, data)| *data);
        match lossless {
            // After width and height comes this format's own bit for transparency.
            Some([_, _, _, _, last, ..]) if last & 0x10 != 0 => right |= ALPHA,
            Some(_) => {}
            None if !has(b"ALPH") => right &= !ALPHA,
            None => {}
        }
    }
    if right == *flags {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut changed = bytes.to_vec();
    changed[20] = right;
    Ok(Cow::Owned(changed))
}

/// Returns the chunks of a WebP, or `None` if a chunk extends past the end of the file (RFC 9649, section 2.3). The
/// decoder would allocate memory for such a chunk before it checks the length.
fn webp_chunks(bytes: &[u8]) -> Option<Vec<([u8; 4], &[u8])>> {
    let whole = 8 + u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let mut rest = bytes.get(12..bytes.len().min(whole))?;
    let mut chunks = Vec::new();
    while let [k, i, n, o, a, b, c, d, data @ ..] = rest {
        let size = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        chunks.push(([*k, *i, *n, *o], data.get(..size)?));
        // Chunks begin at even positions.
        rest = data.get(size.next_multiple_of(2)..).unwrap_or_default();
    }
    Some(chunks)
}

/// Names the format of `bytes`, if it is one that people often use for pictures, or a file that stands in for a
/// picture.
pub fn known_as(bytes: &[u8]) -> Option<&'static str> {
    let brand = bytes.get(8..12).filter(|_| bytes.get(4..8) == Some(b"ftyp"));
    if let Some(brand) = brand {
        return match brand {
            b"heic" | b"heix" | b"hevc" | b"heim" | b"heis" | b"mif1" | b"msf1" => Some("a HEIC picture"),
            b"avif" | b"avis" => Some("an AVIF picture"),
            b"crx " => Some("a raw picture of a camera"),
            _ => Some("a video"),
        };
    }
    let starts: [(&[u8], &str); 12] = [
        (b"\xFF\x0A", "a JPEG XL picture"),
        (b"\0\0\0\x0CJXL ", "a JPEG XL picture"),
        (b"\0\0\0\x0CjP  ", "a JPEG 2000 picture"),
        (b"8BPS", "a Photoshop file"),
        (b"%PDF", "a PDF file"),
        (b"<svg", "an SVG drawing"),
        (b"<?xml", "an XML file"),
        (b"<!DOCTYPE html", "a web page"),
        (b"<!doctype html", "a web page"),
        (b"<html", "a web page"),
        (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull` to get the picture"),
        (b"Rar!", "an archive"),
    ];
    starts.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, what)| *what)
}
