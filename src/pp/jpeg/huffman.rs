//! Huffman codes.

use super::bits::BitReader;

/// Codes of up to so many bits are looked up, the few longer ones are searched.
const LOOKUP_BITS: u32 = 10;

/// A table as a file has it.
#[derive(Debug, Clone)]
pub(super) struct Codes {
    /// How many codes there are of 1 to 16 bits.
    pub counts: [u8; 16],
    /// What they stand for, shortest first.
    pub symbols: Vec<u8>,
}

/// A table to decode with.
#[derive(Debug)]
pub(super) struct Table {
    /// For every `LOOKUP_BITS` bits what a coefficient begins with: see [`Coefficient`].
    coefficients: Box<[u32; 1 << LOOKUP_BITS]>,
    /// For the same the length of the code, above its symbol; 0 for longer codes.
    codes: Box<[u16; 1 << LOOKUP_BITS]>,
    /// The largest code of 0 to 16 bits, or -1.
    largest: [i32; 17],
    /// What to add to a code of these many bits for the index of its symbol.
    offsets: [i32; 17],
    symbols: [u8; 256],
}

/// What a code says: skip `run` zeros, then comes `value`; or, without a value, its meaning is the symbol's own.
pub(super) enum Coefficient {
    Value {
        run: u32,
        value: i32,
    },
    /// The high half of a symbol whose low half is 0.
    Special(u32),
}

/// An entry of `Table::coefficients` holds run and value, and the length is that of both.
const HAS_VALUE: u32 = 1 << 7;

impl Table {
    /// Nothing for codes that are not a prefix code, or not one of JPEG, which has none of ones only; for
    /// differences of the first coefficient, symbols above 15 are none either.
    pub fn new(codes: &Codes, of_differences: bool) -> Option<Self> {
        let mut table = Table {
            coefficients: Box::new([0; 1 << LOOKUP_BITS]),
            codes: Box::new([0; 1 << LOOKUP_BITS]),
            largest: [-1; 17],
            offsets: [0; 17],
            symbols: [0; 256],
        };
        table.symbols.get_mut(..codes.symbols.len())?.copy_from_slice(&codes.symbols);
        if of_differences && codes.symbols.iter().any(|&symbol| symbol > 15) {
            return None;
        }
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(&codes.counts) {
            if count > 0 {
                table.offsets[length as usize] = index as i32 - code as i32;
                for _ in 0..count {
                    let symbol = *codes.symbols.get(index)?;
                    if length <= LOOKUP_BITS && code < 1 << length {
                        table.fill(code, length, symbol);
                    }
                    code += 1;
                    index += 1;
                }
                if code >= 1 << length {
                    return None;
                }
                table.largest[length as usize] = code as i32 - 1;
            }
            code <<= 1;
        }
        Some(table)
    }

    fn fill(&mut self, code: u32, length: u32, symbol: u8) {
        let free = LOOKUP_BITS - length;
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        for rest in 0..1u32 << free {
            let at = (code << free | rest) as usize;
            self.codes[at] = (length as u16) << 8 | u16::from(symbol);
            self.coefficients[at] = if (1..=free).contains(&size) {
                let value = extend(rest >> (free - size), size);
                (value as u32) << 16 | run << 8 | HAS_VALUE | (length + size)
            } else {
                u32::from(symbol) << 8 | length
            };
        }
    }

    /// The next symbol. What is no code counts as 17 bits of symbol 0.
    #[inline(always)]
    pub fn symbol(&self, bits: &mut BitReader) -> u32 {
        bits.refill();
        let entry = self.codes[bits.peek(LOOKUP_BITS) as usize];
        if entry != 0 {
            bits.skip(u32::from(entry >> 8));
            return u32::from(entry & 0xFF);
        }
        let (symbol, length) = self.long_symbol(bits.peek(16));
        bits.skip(length);
        symbol
    }

    /// The symbol of a code that is not looked up, and its length, given the next 16 bits.
    #[inline(never)]
    fn long_symbol(&self, next: u32) -> (u32, u32) {
        for length in LOOKUP_BITS + 1..=16 {
            let code = (next >> (16 - length)) as i32;
            if code <= self.largest[length as usize] {
                let index = (code + self.offsets[length as usize]) & 0xFF;
                return (u32::from(self.symbols[index as usize]), length);
            }
        }
        (0, 17)
    }

    /// The next code and the coefficient that follows it.
    #[inline(always)]
    pub fn coefficient(&self, bits: &mut BitReader) -> Coefficient {
        bits.refill();
        let entry = self.coefficients[bits.peek(LOOKUP_BITS) as usize];
        if entry & HAS_VALUE != 0 {
            bits.skip(entry & 31);
            return Coefficient::Value { run: entry >> 8 & 15, value: entry as i32 >> 16 };
        }
        let symbol = if entry != 0 {
            bits.skip(entry & 31);
            entry >> 8
        } else {
            let (symbol, length) = self.long_symbol(bits.peek(16));
            bits.skip(length);
            symbol
        };
        match symbol & 15 {
            0 => Coefficient::Special(symbol >> 4),
            // Enough is left for this of what was made available above.
            size => {
                let value = extend(bits.peek(size), size);
                bits.skip(size);
                Coefficient::Value { run: symbol >> 4, value }
            }
        }
    }
}

/// The number that `size` bits stand for: those below half of their range are negative.
#[inline(always)]
pub(super) fn extend(bits: u32, size: u32) -> i32 {
    let value = bits as i32;
    if value < 1 << (size - 1) { value - (1 << size) + 1 } else { value }
}

/// The tables of ITU-T T.81, annex K.3: luminance and chrominance. Motion JPEG leaves them out.
pub(super) fn standard(of_differences: bool, is_chrominance: bool) -> Codes {
    const DIFFERENCES: [[u8; 16]; 2] =
        [[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]];
    const COUNTS: [[u8; 16]; 2] = [
        [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
        [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119],
    ];
    const FREQUENT: [&[u8]; 2] = [
        &[
            0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
            0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xA1, 0x08, 0x23, 0x42, 0xB1, 0xC1, 0x15, 0x52, 0xD1, 0xF0,
            0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0A, 0x16, 0x17, 0x18, 0x19, 0x1A,
        ],
        &[
            0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
            0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xA1, 0xB1, 0xC1, 0x09, 0x23, 0x33, 0x52, 0xF0,
            0x15, 0x62, 0x72, 0xD1, 0x0A, 0x16, 0x24, 0x34, 0xE1, 0x25, 0xF1, 0x17, 0x18, 0x19, 0x1A,
        ],
    ];
    let which = usize::from(is_chrominance);
    if of_differences {
        return Codes { counts: DIFFERENCES[which], symbols: (0..=11).collect() };
    }
    // The rest of the runs of 0 to 15 and sizes of 1 to 10 follow in ascending order.
    let mut symbols = FREQUENT[which].to_vec();
    let all = (0..=15u8).flat_map(|run| (1..=10u8).map(move |size| run << 4 | size));
    symbols.extend(all.filter(|symbol| !FREQUENT[which].contains(symbol)));
    Codes { counts: COUNTS[which], symbols }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_tables_are_complete() {
        for (of_differences, is_chrominance) in [(true, false), (true, true), (false, false), (false, true)] {
            let codes = standard(of_differences, is_chrominance);
            let count: usize = codes.counts.iter().map(|&count| usize::from(count)).sum();
            assert_eq!(count, if of_differences { 12 } else { 162 });
            assert_eq!(codes.symbols.len(), count);
            assert!(Table::new(&codes, of_differences).is_some());
        }
    }

    #[test]
    fn what_is_no_prefix_code_is_refused() {
        let codes = |counts: &[u8], symbols: &[u8]| {
            let mut all = [0; 16];
            all[..counts.len()].copy_from_slice(counts);
            Codes { counts: all, symbols: symbols.to_vec() }
        };
        assert!(Table::new(&codes(&[1], &[5]), true).is_some());
        // A code of ones only, too many codes, an impossible size, too few symbols.
        assert!(Table::new(&codes(&[2], &[5, 6]), true).is_none());
        assert!(Table::new(&codes(&[1, 2], &[5, 6, 7]), true).is_none());
        assert!(Table::new(&codes(&[1], &[16]), true).is_none());
        assert!(Table::new(&codes(&[1, 1], &[5]), false).is_none());
    }

    #[test]
    fn values_and_bad_codes() {
        let table = Table::new(&standard(false, false), false).unwrap();
        // 1010 is the end of a block, 00 announces one bit, 1111111111111111 is no code.
        let data = [0b1010_0010, 0b0011_1111, 0xFF, 0, 0xFF, 0, 0b1101_0000];
        let mut bits = BitReader::new(&data, 0);
        assert!(matches!(table.coefficient(&mut bits), Coefficient::Special(0)));
        assert!(matches!(table.coefficient(&mut bits), Coefficient::Value { run: 0, value: 1 }));
        assert!(matches!(table.coefficient(&mut bits), Coefficient::Value { run: 0, value: -1 }));
        assert_eq!(bits.take(6), 0b11_1111);
        assert_eq!(table.symbol(&mut bits), 0);
        assert_eq!(bits.take(4), 0b1010);
        assert!(!bits.is_starved());
    }
}
