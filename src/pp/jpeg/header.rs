//! Markers and the segments that are not pixels.

use super::huffman::{self, Codes};
use super::{Error, MOST_SAMPLES};

/// What was read of a file up to now, and where.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub data: &'a [u8],
    pub position: usize,
    pub frame: Option<FrameHeader>,
    /// In the order of rows.
    pub quantization: [Option<[u16; 64]>; 4],
    /// Codes of the differences of first coefficients, and of the others.
    pub differences: [Option<Codes>; 4],
    pub coefficients: [Option<Codes>; 4],
    /// MCUs between two restart markers, or 0.
    pub restart_interval: usize,
    pub has_jfif: bool,
    pub adobe_transform: Option<u8>,
    pub exif: Option<&'a [u8]>,
    num_scans: usize,
}

#[derive(Debug)]
pub(super) struct FrameHeader {
    pub is_progressive: bool,
    pub height: usize,
    pub width: usize,
    pub components: Vec<ComponentHeader>,
}

impl FrameHeader {
    /// The largest sampling factors, across and down.
    pub fn largest_factors(&self) -> (usize, usize) {
        let largest =
            |factor: fn(&ComponentHeader) -> usize| self.components.iter().map(factor).max().unwrap_or(1);
        (largest(|component| component.across), largest(|component| component.down))
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ComponentHeader {
    pub id: u8,
    /// Sampling factors.
    pub across: usize,
    pub down: usize,
    pub quantization: usize,
}

/// What a scan has of which coefficients.
#[derive(Debug)]
pub(super) struct ScanHeader {
    pub components: Vec<ScanComponent>,
    /// In zigzag order.
    pub first: usize,
    pub last: usize,
    /// The bit that earlier scans went down to, or 0, and the one that this goes down to.
    pub high: u32,
    pub low: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct ScanComponent {
    /// Of the frame's.
    pub index: usize,
    pub differences: usize,
    pub coefficients: usize,
}

pub(super) enum Next {
    Scan(ScanHeader),
    End,
}

/// Where the coefficients of a block, as they come in a file, have their places. Damaged files go past the end by up
/// to a run of 16.
pub(super) const ZIGZAG: [u8; 80] = {
    let mut order = [63; 80];
    let (mut index, mut diagonal) = (0, 0);
    while diagonal < 15 {
        let mut step = 0;
        while step <= diagonal {
            // Odd diagonals go down, even ones up.
            let (row, column) =
                if diagonal % 2 == 1 { (step, diagonal - step) } else { (diagonal - step, step) };
            if row < 8 && column < 8 {
                order[index] = (row * 8 + column) as u8;
                index += 1;
            }
            step += 1;
        }
        diagonal += 1;
    }
    order
};

const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
pub(super) const FIRST_RESTART: u8 = 0xD0;

fn damaged(message: impl Into<String>) -> Error {
    Error::Damaged(message.into())
}

impl<'a> Header<'a> {
    pub fn new(data: &'a [u8]) -> Result<Self, Error> {
        if data.len() < 2 {
            return Err(Error::Cut { part: "its first marker" });
        }
        if data[..2] != [0xFF, START_OF_IMAGE] {
            return Err(damaged("it does not begin with the marker of a JPEG file"));
        }
        Ok(Header {
            data,
            position: 2,
            frame: None,
            quantization: [None; 4],
            differences: [const { None }; 4],
            coefficients: [const { None }; 4],
            restart_interval: 0,
            has_jfif: false,
            adobe_transform: None,
            exif: None,
            num_scans: 0,
        })
    }

    /// Reads segments up to and with the next scan's header, or to the end marker.
    pub fn next(&mut self) -> Result<Next, Error> {
        loop {
            let part = if self.num_scans == 0 { "its header" } else { "front of its end marker" };
            let marker = self.next_marker().ok_or(Error::Cut { part })?;
            match marker {
                END_OF_IMAGE => return Ok(Next::End),
                START_OF_IMAGE => return Err(damaged("it has a second start marker")),
                0xC0..=0xC2 => self.read_frame(marker == 0xC2)?,
                0xC4 => self.read_huffman()?,
                0xC3 | 0xC5..=0xC7 | 0xCB | 0xCD..=0xCF => {
                    return Err(Error::Unsupported("lossless or hierarchical coding".to_owned()));
                }
                0xC9 | 0xCA | 0xCC => return Err(Error::Unsupported("arithmetic coding".to_owned())),
                0xDA => return self.read_scan().map(Next::Scan),
                0xDB => self.read_quantization()?,
                0xDD => {
                    let &[high, low] = self.segment()? else {
                        return Err(damaged("its restart interval has a wrong length"));
                    };
                    self.restart_interval = usize::from(u16::from_be_bytes([high, low]));
                }
                0xE0..=0xEF => self.read_application(marker)?,
                // Comments and numbers of lines.
                0xFE | 0xDC => drop(self.skipped_segment()?),
                // Without segments.
                FIRST_RESTART..=0xD7 | 0x01 => {}
                _ => return Err(damaged(format!("it has the unknown marker {marker:#04x}"))),
            }
        }
    }

    /// Passes the next marker, skipping whatever is before it; nothing at the end of the file.
    pub fn next_marker(&mut self) -> Option<u8> {
        loop {
            let rest = self.data.get(self.position..)?;
            let at = rest.iter().position(|&byte| byte == 0xFF)?;
            let after = rest[at..].iter().position(|&byte| byte != 0xFF)?;
            self.position += at + after + 1;
            match rest[at + after] {
                0 => {}
                marker => return Some(marker),
            }
        }
    }

    /// The bytes of a segment whose length must be right.
    fn segment(&mut self) -> Result<&'a [u8], Error> {
        let (bytes, length) = self.lengthy_segment()?;
        if length < 2 { Err(damaged("it has a segment of impossible length")) } else { Ok(bytes) }
    }

    /// The bytes of a segment that is of no interest: an impossible length counts as none.
    fn skipped_segment(&mut self) -> Result<&'a [u8], Error> {
        Ok(self.lengthy_segment()?.0)
    }

    fn lengthy_segment(&mut self) -> Result<(&'a [u8], usize), Error> {
        let cut = Error::Cut { part: "its header" };
        let rest = self.data.get(self.position..).unwrap_or_default();
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk().ok_or(cut.clone())?));
        let bytes = rest.get(2..length.max(2)).ok_or(cut)?;
        self.position += 2 + bytes.len();
        Ok((bytes, length))
    }

    fn read_frame(&mut self, is_progressive: bool) -> Result<(), Error> {
        let bytes = self.segment()?;
        if self.frame.is_some() {
            return Err(damaged("it has two frames"));
        }
        let &[precision, h1, h0, w1, w0, count, ref specs @ ..] = bytes else {
            return Err(damaged("its frame header is too short"));
        };
        let (height, width) =
            (usize::from(u16::from_be_bytes([h1, h0])), usize::from(u16::from_be_bytes([w1, w0])));
        if height == 0 || width == 0 || count == 0 {
            return Err(damaged(format!("it has {height}x{width} pixels of {count} components")));
        }
        if specs.len() != usize::from(count) * 3 {
            return Err(damaged("its frame header has a wrong length"));
        }
        if precision != 8 {
            return Err(Error::Unsupported(format!("{precision}-bit samples")));
        }
        if height as u64 * width as u64 * u64::from(count) >= MOST_SAMPLES {
            return Err(Error::Unsupported(format!("{height}x{width} pixels of {count} components")));
        }
        let component = |spec: &[u8; 3]| ComponentHeader {
            id: spec[0],
            across: usize::from(spec[1] >> 4),
            down: usize::from(spec[1] & 15),
            quantization: usize::from(spec[2]),
        };
        let components: Vec<_> = specs.as_chunks::<3>().0.iter().map(component).collect();
        if components.iter().any(|c| !(1..=4).contains(&c.across) || !(1..=4).contains(&c.down)) {
            return Err(damaged("its sampling factors are not within 1 and 4"));
        }
        self.frame = Some(FrameHeader { is_progressive, height, width, components });
        Ok(())
    }

    fn read_quantization(&mut self) -> Result<(), Error> {
        let mut rest = self.segment()?;
        while let [kind, table @ ..] = rest {
            let (is_wide, index) = (kind >> 4 != 0, usize::from(kind & 15));
            let size = if is_wide { 128 } else { 64 };
            let (Some(bytes), 0..4) = (table.get(..size), index) else {
                return Err(damaged("it has a wrong quantization table"));
            };
            let mut values = [0; 64];
            for (i, &place) in ZIGZAG[..64].iter().enumerate() {
                values[usize::from(place)] = match is_wide {
                    true => u16::from_be_bytes([bytes[2 * i], bytes[2 * i + 1]]),
                    false => u16::from(bytes[i]),
                };
            }
            self.quantization[index] = Some(values);
            rest = &table[size..];
        }
        Ok(())
    }

    fn read_huffman(&mut self) -> Result<(), Error> {
        let wrong = || damaged("it has a wrong Huffman table");
        let mut rest = self.segment()?;
        while !rest.is_empty() {
            let (&[kind, ref counts @ ..], after) = rest.split_first_chunk::<17>().ok_or_else(wrong)?;
            let count: usize = counts.iter().map(|&count| usize::from(count)).sum();
            let symbols = after.get(..count).filter(|_| count <= 256).ok_or_else(wrong)?;
            let codes = Codes { counts: *counts, symbols: symbols.to_vec() };
            let tables = if kind & 0x10 == 0 { &mut self.differences } else { &mut self.coefficients };
            *tables.get_mut(usize::from(kind & !0x10)).ok_or_else(wrong)? = Some(codes);
            rest = &after[count..];
        }
        Ok(())
    }

    fn read_application(&mut self, marker: u8) -> Result<(), Error> {
        let bytes = self.skipped_segment()?;
        match marker {
            0xE0 if bytes.len() >= 14 && bytes.starts_with(b"JFIF\0") => self.has_jfif = true,
            0xE1 if self.exif.is_none() => self.exif = bytes.strip_prefix(b"Exif\0\0"),
            0xEE if bytes.len() >= 12 && bytes.starts_with(b"Adobe") => {
                self.adobe_transform = Some(bytes[11])
            }
            _ => {}
        }
        Ok(())
    }

    fn read_scan(&mut self) -> Result<ScanHeader, Error> {
        let wrong = || damaged("it has a wrong scan header");
        let bytes = self.segment()?;
        let frame = self.frame.as_ref().ok_or_else(|| damaged("it has a scan before its frame"))?;
        let (&count, rest) = bytes.split_first().ok_or_else(wrong)?;
        let count = usize::from(count);
        if !(1..=4).contains(&count) || rest.len() != count * 2 + 3 {
            return Err(wrong());
        }
        let mut components: Vec<ScanComponent> = Vec::with_capacity(count);
        for (at, &[id, tables]) in rest[..2 * count].as_chunks::<2>().0.iter().enumerate() {
            // Of components with the same name, later ones are meant later.
            let index = (0..frame.components.len().min(4)).find(|&i| frame.components[i].id == id && i >= at);
            let index = index.filter(|&index| components.iter().all(|other| other.index != index));
            components.push(ScanComponent {
                index: index
                    .ok_or_else(|| damaged(format!("a scan names component {id}, which is not there")))?,
                differences: usize::from(tables >> 4),
                coefficients: usize::from(tables & 15),
            });
        }
        let [first, last, bits] = rest[2 * count..] else { return Err(wrong()) };
        if self.num_scans == 0 && !frame.is_progressive {
            for (tables, of_differences) in [(&mut self.differences, true), (&mut self.coefficients, false)] {
                for (table, is_chrominance) in tables.iter_mut().zip([false, true]) {
                    table.get_or_insert_with(|| huffman::standard(of_differences, is_chrominance));
                }
            }
        }
        self.num_scans += 1;
        Ok(ScanHeader {
            components,
            first: usize::from(first),
            last: usize::from(last),
            high: u32::from(bits >> 4),
            low: u32::from(bits & 15),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zigzag_visits_every_place_once() {
        assert_eq!(ZIGZAG[..16], [0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5]);
        assert_eq!(ZIGZAG[58..64], [61, 54, 47, 55, 62, 63][..]);
        let mut places = ZIGZAG[..64].to_vec();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..64));
        assert!(ZIGZAG[64..].iter().all(|&place| place == 63));
    }
}
