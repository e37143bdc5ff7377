//! A picture of a few pixels whose decoder needs gigabytes.

/// Bits in the order of WebP: the least significant bit first, except in prefix codes.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn number(&mut self, value: u32, count: u32) {
        self.0.extend((0..count).map(|bit| value >> bit & 1 == 1));
    }

    fn code(&mut self, code: &str) {
        self.0.extend(code.bytes().map(|bit| bit == b'1'));
    }

    /// A prefix code with one symbol, which needs no bits (RFC 9649, section 3.7.2.1.1).
    fn one_symbol(&mut self, symbol: u32) {
        self.number(1, 1);
        self.number(0, 1);
        if symbol < 2 {
            self.number(0, 1);
            self.number(symbol, 1);
        } else {
            self.number(1, 1);
            self.number(symbol, 8);
        }
    }
}

/// A lossless WebP picture of 16 × 16 pixels, with `groups` groups of prefix codes. Every block uses the last group,
/// but the decoder keeps all of them, each with a tree of 2,048 codes.
pub fn webp(groups: u32) -> Vec<u8> {
    const SIDE: u32 = 16;
    let mut head = Bits::default();
    head.number(0x2F, 8);
    head.number(SIDE - 1, 14);
    head.number(SIDE - 1, 14);
    head.number(0, 4);
    // No transform; a cache of 2^11 colours; several groups, chosen for blocks of 4 × 4.
    head.number(0, 1);
    head.number(1, 1);
    head.number(11, 4);
    head.number(1, 1);
    head.number(0, 3);
    head.number(0, 1);
    for symbol in [(groups - 1) & 255, (groups - 1) >> 8, 0, 0, 0] {
        head.one_symbol(symbol);
    }
    let mut group = Bits::default();
    group.number(0, 1);
    group.number(15 - 4, 4);
    for symbol in [17u32, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11] {
        let length = match symbol {
            11 | 18 => 2,
            16 => 1,
            _ => 0,
        };
        group.number(length, 3);
    }
    group.number(0, 1);
    // 2,048 codes of 11 bits, and no code for the rest.
    group.code("10");
    for _ in 0..341 {
        group.code("0");
        group.number(3, 2);
    }
    group.code("10");
    for run in [138, 131, 11] {
        group.code("11");
        group.number(run - 11, 7);
    }
    (0..4).for_each(|_| group.one_symbol(0));
    let mut bits = head.0;
    (0..groups).for_each(|_| bits.extend(&group.0));
    bits.resize((bits.len() + 11 * (SIDE * SIDE) as usize + 64).next_multiple_of(16), false);
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    let data: Vec<u8> = bits.chunks(8).map(byte).collect();
    let length = |length: usize| (length as u32).to_le_bytes();
    [&b"RIFF"[..], &length(12 + data.len()), b"WEBPVP8L", &length(data.len()), &data].concat()
}
