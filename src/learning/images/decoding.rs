//! Decodes untrusted pictures in separate processes, the [workers](crate::base::worker).
//!
//! Decoders have their own tables, whose size no limit on pixels bounds. For example, a lossless WebP of 16 × 16 pixels
//! and 9 MB makes image-webp 0.2.4 allocate more than 4 GB. Its `read_huffman_codes` in `src/lossless.rs` keeps five
//! trees for each group, up to the largest group number in the entropy image, even if the group is not used. Each tree
//! of `build_implicit` in `src/huffman.rs` has a table of 1,024 entries, and 16 bytes for each further node. That is
//! about 120 KB a group, and there can be 65,536 groups.

use image::{DynamicImage, RgbImage};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::picture::{MOST_PIXELS, Undecoded, without_panic};
use super::preparation::{Ground, Preparation};
use super::unreadable::Unreadable;
use crate::base::worker::{Allowance, Lost, Task, call};

/// Memory for a decoder's tables and for other data that is not pixels, in bytes.
const TABLES: u64 = 192 << 20;
/// Memory for each pixel, in bytes. A progressive JPEG needs coefficients, colours and a rotated copy.
const A_PIXEL: u64 = 16;
/// Pictures with more pixels are decoded one at a time.
pub const LARGE: u64 = 4_000_000;
/// Files with more bytes are decoded one at a time.
const LARGE_BYTES: usize = 32 << 20;
static LARGE_ONE: Mutex<()> = Mutex::new(());
/// Seconds on one core for any picture. There is one more second for each [`PIXELS_A_SECOND`] pixels.
const SECONDS: u32 = 10;
const PIXELS_A_SECOND: u64 = 4_000_000;
/// Bytes of a reply in addition to its pixels.
const ABOUT: u64 = 64 << 10;

/// The forms of a picture that the caller wants.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// The picture prepared for a network.
    pub preparation: Option<Preparation>,
    /// The picture within a square of this side, to be shown to users.
    pub thumbnail: Option<u32>,
    /// All pixels of the picture.
    pub whole: bool,
}

/// A picture in the forms that [`Wanted`] asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// Width in pixels, after the picture is rotated upright.
    pub width: u32,
    pub height: u32,
    pub prepared: Option<RgbImage>,
    pub thumbnail: Option<RgbImage>,
    pub whole: Option<RgbImage>,
}

#[derive(Serialize, Deserialize)]
struct Request {
    name: String,
    most_pixels: u64,
    /// A picture with more than [`LARGE`] pixels is only decoded if this is true.
    large: bool,
    wanted: Wanted,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    width: u32,
    height: u32,
    /// Width and height of each picture that follows.
    images: [Option<(u32, u32)>; 3],
}

/// Decodes `bytes`, which are called `name` in messages. Large pictures are decoded one at a time.
pub fn decode_for(bytes: &[u8], name: &str, wanted: &Wanted) -> Result<Decoded, Unreadable> {
    if bytes.len() <= LARGE_BYTES {
        match decode_small(bytes, name, wanted, MOST_PIXELS) {
            Err(Unreadable::Large) => {}
            decoded => return decoded,
        }
    }
    let _turn = LARGE_ONE.lock();
    decode_large(bytes, name, wanted, MOST_PIXELS)
}

/// Like [`decode_for`], for at most `most_pixels`. If it returns [`Unreadable::Large`], call [`decode_large`].
pub fn decode_small(bytes: &[u8], name: &str, wanted: &Wanted, most_pixels: u64) -> Result<Decoded, Unreadable> {
    ask(bytes, name, wanted, most_pixels, false)
}

/// Like [`decode_for`], for a large picture. The caller must decode only one of these at a time.
pub fn decode_large(bytes: &[u8], name: &str, wanted: &Wanted, most_pixels: u64) -> Result<Decoded, Unreadable> {
    ask(bytes, name, wanted, most_pixels, true)
}

fn ask(bytes: &[u8], name: &str, wanted: &Wanted, most_pixels: u64, large: bool) -> Result<Decoded, Unreadable> {
    let pixels = if large { most_pixels } else { most_pixels.min(LARGE) };
    let allowance = Allowance {
        // The file itself, and copies of it in the form that the decoder reads.
        memory: TABLES + A_PIXEL * pixels.max(LARGE) + 3 * bytes.len() as u64,
        seconds: SECONDS + (pixels / PIXELS_A_SECOND) as u32,
        reply: ABOUT + 9 * pixels.max(LARGE),
    };
    let request = Request { name: name.to_owned(), most_pixels, large, wanted: wanted.clone() };
    let failed = |error: serde_json::Error| Unreadable::NoDecoder(error.to_string());
    let request = serde_json::to_vec(&request).map_err(failed)?;
    let reply = call(&TASK, &request, bytes, allowance).map_err(|lost| match lost {
        Lost::Unavailable(why) => {
            Unreadable::NoDecoder(format!("cannot decode any picture: the decoder process cannot be started: {why}"))
        }
        lost => demanding(name, &lost),
    })?;
    parse(&reply).unwrap_or_else(|| Err(demanding(name, &Lost::Nonsense)))
}

fn demanding(name: &str, lost: &Lost) -> Unreadable {
    Unreadable::Demanding(format!("{name} cannot be decoded: the decoder {lost}"))
}

/// The task of the workers.
pub static TASK: Task = Task { name: "picture", work };

fn work(request: &[u8], bytes: &[u8]) -> Vec<u8> {
    let done = match serde_json::from_slice::<Request>(request) {
        Ok(request) => without_panic(&request.name, || request.decode(bytes)),
        Err(error) => Err(Unreadable::NoDecoder(error.to_string())),
    };
    let (about, images) = match done {
        Ok(Decoded { width, height, prepared, thumbnail, whole }) => {
            let images = [prepared, thumbnail, whole];
            let sizes = [0, 1, 2].map(|at: usize| images[at].as_ref().map(RgbImage::dimensions));
            (Ok(Reply { width, height, images: sizes }), images)
        }
        Err(why) => (Err(why), [None, None, None]),
    };
    // If the answer cannot be written, it is empty, and the caller rejects it.
    let about = serde_json::to_vec(&about).unwrap_or_default();
    let mut reply = (about.len() as u64).to_le_bytes().to_vec();
    reply.extend(about);
    images.into_iter().flatten().for_each(|image| reply.extend(image.as_raw()));
    reply
}

impl Request {
    fn decode(&self, bytes: &[u8]) -> Result<Decoded, Unreadable> {
        let Wanted { preparation, thumbnail, whole } = &self.wanted;
        let undecoded = Undecoded::open(bytes, &self.name, self.most_pixels)?;
        if undecoded.pixels > LARGE && !self.large {
            return Err(Unreadable::Large);
        }
        let ground = preparation.as_ref().map_or(Ground::default(), |preparation| preparation.ground);
        let image = undecoded.decode(ground)?;
        let (width, height) = image.dimensions();
        let prepared = preparation.as_ref().map(|preparation| preparation.apply(&image));
        let small = |side: u32| DynamicImage::from(image.clone()).thumbnail(side, side).into_rgb8();
        let thumbnail = thumbnail.map(small);
        Ok(Decoded { width, height, prepared, thumbnail, whole: whole.then_some(image) })
    }
}

/// Reads the reply of [`work`]. Returns `None` if it is not valid.
fn parse(reply: &[u8]) -> Option<Result<Decoded, Unreadable>> {
    let (length, rest) = reply.split_first_chunk::<8>()?;
    let (about, mut pixels) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let Reply { width, height, images } = match serde_json::from_slice::<Result<Reply, Unreadable>>(about).ok()? {
        Ok(reply) => reply,
        Err(why) => return Some(Err(why)),
    };
    let mut take = |size: Option<(u32, u32)>| -> Option<Option<RgbImage>> {
        let Some((width, height)) = size else { return Some(None) };
        let length = (width as usize).checked_mul(height as usize)?.checked_mul(3)?;
        let (these, rest) = pixels.split_at_checked(length)?;
        pixels = rest;
        RgbImage::from_raw(width, height, these.to_vec()).map(Some)
    };
    let [prepared, thumbnail, whole] = images;
    let decoded =
        Decoded { width, height, prepared: take(prepared)?, thumbnail: take(thumbnail)?, whole: take(whole)? };
    pixels.is_empty().then_some(Ok(decoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learning::images::{Filter, Sharpen, encode_png};
    use proptest::prelude::*;

    #[test]
    fn all_that_is_wanted_comes_and_nothing_else() {
        let image = RgbImage::from_fn(40, 20, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let bytes = encode_png(&image, &Default::default()).unwrap();
        let preparation =
            Preparation { size: 8, filter: Filter::Lanczos, sharpen: Sharpen::default(), ground: Ground::default() };
        let wanted = Wanted { preparation: Some(preparation.clone()), thumbnail: Some(10), whole: true };
        let decoded = decode_for(&bytes, "it", &wanted).unwrap();
        assert_eq!((decoded.width, decoded.height), (40, 20));
        assert_eq!(decoded.prepared, Some(preparation.apply(&image)));
        assert_eq!(decoded.thumbnail.map(|it| it.dimensions()), Some((10, 5)));
        assert_eq!(decoded.whole, Some(image));
        let nothing = decode_for(&bytes, "it", &Wanted::default()).unwrap();
        assert_eq!((nothing.prepared, nothing.thumbnail, nothing.whole), (None, None, None));
        let why = decode_for(b"text", "notes", &Wanted::default()).unwrap_err();
        assert!(matches!(&why, Unreadable::NoPicture(why) if why.starts_with("notes is no picture")), "{why:?}");
    }

    #[test]
    fn large_ones_are_told_apart() {
        let image = RgbImage::new(2001, 2000);
        let bytes = encode_png(&image, &Default::default()).unwrap();
        let wanted = Wanted { thumbnail: Some(8), ..Wanted::default() };
        assert_eq!(decode_small(&bytes, "it", &wanted, MOST_PIXELS), Err(Unreadable::Large));
        assert!(decode_for(&bytes, "it", &wanted).unwrap().thumbnail.is_some());
        let too_many = decode_large(&bytes, "it", &wanted, 1000).unwrap_err();
        assert!(matches!(too_many, Unreadable::TooManyPixels(_)), "{too_many:?}");
    }

    proptest! {
        #[test]
        fn a_reply_that_is_no_reply_is_told(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
