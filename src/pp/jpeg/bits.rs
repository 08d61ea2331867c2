//! Bits of an entropy-coded segment.

/// Reads bits, most significant first, up to the next marker or the end of the file; behind that come zeros.
///
/// Loops are fast on a copy of their own, which the compiler keeps in registers: rare work is done by value.
#[derive(Debug, Clone, Copy)]
pub(super) struct BitReader<'a> {
    data: &'a [u8],
    position: usize,
    /// The next bits, from the top. What is below `count` bits is either zero or what comes next.
    buffer: u64,
    count: u32,
    /// How many of the last of `count` bits are zeros that the file does not have.
    padding: u32,
    /// Whether zeros were taken that the file does not have.
    starved: bool,
    at_end: bool,
}

impl<'a> BitReader<'a> {
    pub fn new(data: &'a [u8], position: usize) -> Self {
        BitReader { data, position, buffer: 0, count: 0, padding: 0, starved: false, at_end: false }
    }

    /// Makes at least 32 bits available: a code and what it says follows it.
    #[inline(always)]
    pub fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(bytes) = self.data.get(self.position..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_be_bytes(*bytes);
            if !has_marker_byte(word) {
                self.buffer |= word >> self.count;
                let taken = (63 - self.count) / 8;
                self.position += taken as usize;
                self.count += taken * 8;
                return;
            }
        }
        *self = self.refilled_by_bytes();
    }

    #[inline(never)]
    fn refilled_by_bytes(mut self) -> Self {
        while self.count <= 56 {
            let byte = match self.data.get(self.position) {
                Some(&0xFF) => {
                    // Any number of 0xFF may precede what they announce: a marker, or with 0 the byte 0xFF.
                    let rest = &self.data[self.position..];
                    let fill = rest.iter().take_while(|&&byte| byte == 0xFF).count();
                    match rest.get(fill) {
                        Some(0) => self.position += fill + 1,
                        Some(_) => return self.padded(),
                        None => {
                            self.at_end = true;
                            return self.padded();
                        }
                    }
                    0xFF
                }
                Some(&byte) => {
                    self.position += 1;
                    byte
                }
                None => {
                    self.at_end = true;
                    return self.padded();
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
        self
    }

    fn padded(mut self) -> Self {
        if self.padding > self.count {
            self.starved = true;
            self.padding = self.count;
        }
        self.padding += 63 - self.count;
        self.count = 63;
        self
    }

    /// The next 1 to 32 bits, which [`refill`](Self::refill) must have made available.
    #[inline(always)]
    pub fn peek(&self, bits: u32) -> u32 {
        (self.buffer >> (64 - bits)) as u32
    }

    #[inline(always)]
    pub fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// Takes up to 16 bits.
    #[inline(always)]
    pub fn take(&mut self, bits: u32) -> u32 {
        self.refill();
        // In two steps, as a shift by 64 is none.
        let value = (self.buffer >> 1 >> (63 - bits)) as u32;
        self.skip(bits);
        value
    }

    /// Whether more bits were taken than there are before the next marker.
    #[inline(always)]
    pub fn is_starved(&self) -> bool {
        self.starved || self.padding > self.count
    }

    /// Whether it is the end of the file, not a marker, that limits the bits.
    pub fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Where the search for the next marker goes on.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets what is left of a segment and goes on at `position`.
    pub fn restart(&mut self, position: usize) {
        *self = BitReader::new(self.data, position);
    }
}

fn has_marker_byte(word: u64) -> bool {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    (!word).wrapping_sub(LOW) & word & HIGH != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuffed_bytes_markers_and_ends() {
        let data = [0xA5, 0xFF, 0x00, 0x12, 0xFF, 0xFF, 0x00, 0x34, 0xFF, 0xD9, 0x77];
        let mut bits = BitReader::new(&data, 0);
        let expected = [0xA5, 0xFF, 0x12, 0xFF, 0x34];
        for byte in expected {
            assert_eq!(bits.take(8), byte);
        }
        assert!(!bits.is_starved());
        assert_eq!(bits.take(0), 0);
        assert_eq!(bits.take(1), 0);
        assert!(bits.is_starved() && !bits.is_at_end());
        assert_eq!(bits.position(), 8);
        for _ in 0..20 {
            assert_eq!(bits.take(16), 0);
        }
        assert!(bits.is_starved());
        bits.restart(10);
        assert_eq!(bits.take(8), 0x77);
        assert!(!bits.is_starved());
        bits.take(1);
        assert!(bits.is_starved() && bits.is_at_end());
    }

    #[test]
    fn any_split_reads_the_same() {
        let data: Vec<u8> = (0..200u32)
            .flat_map(|i| {
                let byte = (i * 37 % 256) as u8;
                if byte == 0xFF { vec![0xFF, 0] } else { vec![byte] }
            })
            .collect();
        let plain: Vec<u8> = (0..200u32).map(|i| (i * 37 % 256) as u8).collect();
        for width in 1..=16u32 {
            let mut bits = BitReader::new(&data, 0);
            for at in 0..1600 / width {
                let expected = (0..width).fold(0, |value, i| {
                    let bit = (at * width + i) as usize;
                    value << 1 | u32::from(plain[bit / 8] >> (7 - bit % 8) & 1)
                });
                assert_eq!(bits.take(width), expected);
                assert!(!bits.is_starved());
            }
        }
    }
}
