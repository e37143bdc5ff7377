//! Readers for the stream of an archive: several gzip members in a row, a count of bytes, and a limit.

use std::cell::Cell;
use std::io::{BufRead, Read};

use flate2::bufread::GzDecoder;

/// Limit for the unpacked size of an archive, in bytes. It has room for the file of names, the batches, an HTML page
/// and the headers of a binary layout.
const MOST_BYTES: u64 = 6 * 10_000 * 3_074 + (1 << 20);
/// Archives of pictures may unpack to more, up to this many times their own size: pictures are already compressed.
const MOST_TIMES: u64 = 100;

/// Limit for the unpacked size, in bytes, after `packed` bytes of the archive were read.
pub fn most_unpacked(packed: &Cell<u64>) -> u64 {
    MOST_BYTES.max(MOST_TIMES * packed.get())
}

/// Reads several gzip members, one after the other, as parallel compressors write them (RFC 1952, section 2.2).
/// Ignores zeros after the last member: tapes and some programs pad files with zeros.
pub struct Members<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Members<R> {
    pub fn new(reader: R) -> Self {
        Self(Some(GzDecoder::new(reader)))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let count = member.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            let reader = member.get_mut();
            loop {
                let rest = reader.fill_buf()?;
                if rest.is_empty() {
                    return Ok(0);
                }
                let (zeros, all) = (rest.iter().take_while(|byte| **byte == 0).count(), rest.len());
                reader.consume(zeros);
                if zeros < all {
                    break;
                }
            }
            self.0 = self.0.take().map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Counts the bytes that are read.
pub struct Counted<'a, R> {
    pub reader: R,
    pub count: &'a Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

/// Fails if the archive unpacks to more than its limit.
pub struct Bounded<'a, R> {
    pub reader: R,
    pub packed: &'a Cell<u64>,
    pub unpacked: u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = most_unpacked(self.packed);
        if self.unpacked >= most {
            let what = format!("it unpacks to more than {most} bytes, the limit for an archive of pictures");
            return Err(std::io::Error::other(what));
        }
        let most = buffer.len().min(usize::try_from(most - self.unpacked).unwrap_or(usize::MAX));
        let count = self.reader.read(&mut buffer[..most])?;
        self.unpacked += count as u64;
        Ok(count)
    }
}
