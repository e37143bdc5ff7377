//! Shows pictures on terminals that can display them.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use icy_sixel::{DiffusionMethod, MethodForLargest, MethodForRep, PixelFormat, Quality, sixel_string};
use image::{DynamicImage, RgbImage, imageops};

use crate::base::files;
use crate::learning::images::encode_png;
use crate::retrieval::searcher::Hit;

const SIDE: u32 = 128;
const GAP: u32 = 8;
/// Height of a strip, in lines of the terminal.
const LINES: u32 = 8;
/// Longest wait until the terminal takes a piece of a picture.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most characters of a picture in one sequence of kitty's protocol.
const PIECE: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Protocol {
    /// <https://sw.kovidgoyal.net/kitty/graphics-protocol/>
    Kitty,
    /// <https://iterm2.com/documentation-images.html>
    ITerm,
    Sixel,
}

impl Protocol {
    /// Finds the protocol of a terminal by the environment variables that it sets. The terminal is not asked, because
    /// it might never answer.
    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let names =
            ["TERM", "TERM_PROGRAM", "LC_TERMINAL"].map(|name| variable(name).unwrap_or_default().to_lowercase());
        // Terminal multiplexers do not pass pictures on to the terminal.
        if ["screen", "tmux"].iter().any(|between| names[0].starts_with(between)) {
            return None;
        }
        let is = |known: &[&str]| known.iter().any(|known| names.iter().any(|name| name.contains(known)));
        match () {
            () if is(&["kitty", "ghostty"]) || variable("KITTY_WINDOW_ID").is_some() => Some(Self::Kitty),
            () if is(&["iterm", "wezterm", "mintty", "rio"]) => Some(Self::ITerm),
            () if is(&["foot", "mlterm", "contour", "sixel", "rlogin"]) => Some(Self::Sixel),
            () if variable("KONSOLE_VERSION").is_some() || is(&["konsole"]) => Some(Self::Kitty),
            () => None,
        }
    }

    fn encode(self, strip: RgbImage) -> Result<String> {
        if self == Self::Sixel {
            let (width, height) = (strip.width() as i32, strip.height() as i32);
            return sixel_string(
                strip.as_raw(),
                width,
                height,
                PixelFormat::RGB888,
                DiffusionMethod::Auto,
                MethodForLargest::Auto,
                MethodForRep::Auto,
                Quality::AUTO,
            )
            .map_err(|error| anyhow!("{error}"));
        }
        let png = STANDARD.encode(encode_png(&strip, &Default::default())?);
        if self == Self::ITerm {
            return Ok(format!("\x1b]1337;File=inline=1;height={LINES};preserveAspectRatio=1:{png}\x07"));
        }
        let pieces: Vec<&str> =
            png.as_bytes().chunks(PIECE).map(|piece| std::str::from_utf8(piece).unwrap_or("")).collect();
        let piece = |(at, piece): (usize, &&str)| {
            let first = if at == 0 { format!("a=T,f=100,r={LINES},q=2,") } else { String::new() };
            let more = usize::from(at + 1 < pieces.len());
            format!("\x1b_G{first}m={more};{piece}\x1b\\")
        };
        Ok(pieces.iter().enumerate().map(piece).collect())
    }
}

/// Shows the query and its neighbours side by side, without pictures that cannot be read.
///
/// Does nothing if the terminal cannot show pictures.
pub fn strip(query: Option<&RgbImage>, hits: &[Hit], thumbnail: impl Fn(&Hit, u32) -> Result<RgbImage>) {
    let Some(protocol) = Protocol::of(|name| std::env::var(name).ok()).filter(|_| std::io::stdout().is_terminal())
    else {
        return;
    };
    let neighbours = hits.iter().filter_map(|hit| thumbnail(hit, SIDE).ok());
    let query = query.map(|query| DynamicImage::from(query.clone()).thumbnail(SIDE, SIDE).into_rgb8());
    let pictures: Vec<RgbImage> = query.into_iter().chain(neighbours).collect();
    let mut strip = RgbImage::from_pixel(pictures.len().max(1) as u32 * (SIDE + GAP), SIDE, image::Rgb([255; 3]));
    for (place, picture) in pictures.iter().enumerate() {
        let (left, top) = (place as u32 * (SIDE + GAP), (SIDE - picture.height()) / 2);
        imageops::replace(&mut strip, picture, left.into(), top.into());
    }
    let shown = protocol.encode(strip).and_then(|text| send(text + "\n"));
    if let Err(error) = shown {
        tracing::debug!("the pictures cannot be shown here: {error}");
    }
}

/// Writes to the terminal. Gives up if the terminal stops reading, so that the program does not hang.
fn send(text: String) -> Result<()> {
    static STUCK: AtomicBool = AtomicBool::new(false);
    ensure!(!STUCK.load(Ordering::Relaxed), "the terminal has stopped reading");
    std::io::stdout().flush()?;
    // The standard library's stdout would stay locked if the thread hangs.
    let mut terminal = files::stdout()?;
    let (taken, done) = channel();
    std::thread::spawn(move || {
        for piece in text.as_bytes().chunks(PIECE) {
            // The receiver is gone if the terminal took too long.
            if terminal.write_all(piece).is_err() || taken.send(()).is_err() {
                return;
            }
        }
    });
    loop {
        match done.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                STUCK.store(true, Ordering::Relaxed);
                bail!("the terminal does not read");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_known_by_what_they_set() {
        let of = |set: &[(&str, &str)]| {
            Protocol::of(|name| set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()))
        };
        assert_eq!(of(&[("TERM", "xterm-kitty")]), Some(Protocol::Kitty));
        assert_eq!(of(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::ITerm));
        assert_eq!(of(&[("TERM", "foot")]), Some(Protocol::Sixel));
        assert_eq!(of(&[("TERM", "xterm"), ("KONSOLE_VERSION", "230800")]), Some(Protocol::Kitty));
        assert_eq!(of(&[("TERM", "tmux-256color"), ("LC_TERMINAL", "iTerm2")]), None);
        assert_eq!(of(&[("TERM", "xterm-256color")]), None);
    }

    #[test]
    fn each_protocol_frames_the_picture() {
        let strip = || RgbImage::from_fn(300, 128, |x, y| image::Rgb([(x * y) as u8, x as u8, y as u8]));
        let kitty = Protocol::Kitty.encode(strip()).unwrap();
        assert!(kitty.starts_with("\x1b_Ga=T,f=100,") && kitty.ends_with("\x1b\\") && kitty.contains("m=0;"));
        assert!(kitty.matches("\x1b_G").count() > 1 && kitty.matches("m=0;").count() == 1);
        let iterm = Protocol::ITerm.encode(strip()).unwrap();
        assert!(iterm.starts_with("\x1b]1337;File=inline=1;") && iterm.ends_with('\x07'));
        let sixel = Protocol::Sixel.encode(strip()).unwrap();
        assert!(sixel.starts_with("\x1bP") && sixel.ends_with("\x1b\\"), "{:?}", &sixel[..20]);
    }
}
