//! Entropy-coded segments.

use super::Error;
use super::bits::BitReader;
use super::frame::Frame;
use super::header::{ComponentHeader, FIRST_RESTART, Header, ScanHeader, ZIGZAG};
use super::huffman::{Codes, Coefficient, Table, extend};
use super::idct::Block;

/// Reads the segments of one scan into the frame.
pub(super) fn read(header: &mut Header, frame: &mut Frame, scan: &ScanHeader) -> Result<(), Error> {
    let kind = kind(frame, scan)?;
    take_quantization(header, frame, scan)?;
    if kind != Kind::Sequential {
        for component in &scan.components {
            let progress = &mut frame.planes[component.index].progress;
            progress.note(scan.first, scan.last, scan.low, frame.num_scans == 0);
        }
    }
    frame.num_scans += 1;
    let tables = Tables::new(header, scan, kind)?;
    let layout = Layout::new(frame, scan)?;
    let mut reader = Reader {
        bits: BitReader::new(header.data, header.position),
        differences: vec![0; scan.components.len()],
        zero_blocks: 0,
        starved: false,
    };
    let mut restarts =
        Restarts { interval: header.restart_interval, to_go: header.restart_interval, number: 0 };
    for y in 0..layout.mcus_down {
        for x in 0..layout.mcus_across {
            if restarts.interval > 0 {
                if restarts.to_go == 0 {
                    restarts.restart(header, &mut reader)?;
                }
                restarts.to_go -= 1;
            }
            if !reader.starved {
                frame.last_good_mcu_row = y / layout.rows_per_mcu;
            }
            for block in &layout.blocks {
                let plane = &mut frame.planes[block.plane];
                let (x, y) = (x * block.across + block.x, y * block.down + block.y);
                let tables = &tables.of_components[block.component];
                match kind {
                    Kind::Sequential if plane.coefficients.is_empty() => {
                        let mut values = [0; 64];
                        let is_flat =
                            reader.starved || reader.sequential(tables, block.component, &mut values)?;
                        plane.write(frame.idct, x, y, &values, is_flat);
                    }
                    _ => {
                        let values = &mut plane.coefficients[y * plane.stored_across + x];
                        reader.buffered(kind, scan, tables, block.component, values)?;
                    }
                }
            }
            if reader.bits.is_starved() && !reader.starved {
                if reader.bits.is_at_end() {
                    return Err(Error::Cut { part: "its pixels" });
                }
                reader.starved = true;
            }
        }
    }
    header.position = reader.bits.position();
    Ok(())
}

/// What a scan has of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sequential,
    FirstDc,
    FirstAc,
    RefinedDc,
    RefinedAc,
}

fn kind(frame: &Frame, scan: &ScanHeader) -> Result<Kind, Error> {
    if !frame.is_progressive() {
        return Ok(Kind::Sequential);
    }
    let ScanHeader { first, last, high, low, .. } = *scan;
    let is_dc = first == 0;
    let band_is_right =
        if is_dc { last == 0 } else { first <= last && last < 64 && scan.components.len() == 1 };
    let bits_are_right = (high == 0 || low + 1 == high) && low <= 13;
    if !(band_is_right && bits_are_right) {
        return Err(Error::Damaged(format!(
            "it has a scan of coefficients {first} to {last}, bits {high} to {low}"
        )));
    }
    Ok(match (is_dc, high == 0) {
        (true, true) => Kind::FirstDc,
        (true, false) => Kind::RefinedDc,
        (false, true) => Kind::FirstAc,
        (false, false) => Kind::RefinedAc,
    })
}

/// Components keep the quantization table that they have when their first scan begins.
fn take_quantization(header: &Header, frame: &mut Frame, scan: &ScanHeader) -> Result<(), Error> {
    for component in &scan.components {
        let plane = &mut frame.planes[component.index];
        if plane.quantization.is_none() {
            let table = header.quantization.get(plane.header.quantization).and_then(Option::as_ref);
            let table = table.ok_or_else(|| Error::Damaged("a quantization table is missing".to_owned()))?;
            plane.multipliers = frame.idct.multipliers(table);
            plane.quantization = Some(*table);
        }
    }
    Ok(())
}

/// The codes of a scan's components.
struct Tables {
    of_components: Vec<ComponentTables>,
}

struct ComponentTables {
    differences: Option<Table>,
    coefficients: Option<Table>,
}

impl Tables {
    fn new(header: &Header, scan: &ScanHeader, kind: Kind) -> Result<Self, Error> {
        let table = |tables: &[Option<Codes>; 4], index: usize, of_differences: bool, is_needed: bool| {
            if !is_needed {
                return Ok(None);
            }
            let codes = tables.get(index).and_then(Option::as_ref);
            let codes = codes.ok_or_else(|| Error::Damaged("a Huffman table is missing".to_owned()))?;
            let table = Table::new(codes, of_differences);
            Ok(Some(table.ok_or_else(|| Error::Damaged("a Huffman table is no prefix code".to_owned()))?))
        };
        let needs_differences = matches!(kind, Kind::Sequential | Kind::FirstDc);
        let needs_coefficients = matches!(kind, Kind::Sequential | Kind::FirstAc | Kind::RefinedAc);
        let of_components = scan.components.iter().map(|component| {
            Ok(ComponentTables {
                differences: table(&header.differences, component.differences, true, needs_differences)?,
                coefficients: table(&header.coefficients, component.coefficients, false, needs_coefficients)?,
            })
        });
        Ok(Tables { of_components: of_components.collect::<Result<_, Error>>()? })
    }
}

/// How the blocks of an MCU lie in the planes.
struct Layout {
    mcus_across: usize,
    mcus_down: usize,
    /// Of this layout, in an MCU of a scan with all components.
    rows_per_mcu: usize,
    blocks: Vec<McuBlock>,
}

struct McuBlock {
    /// Of the scan, and the plane that it is.
    component: usize,
    plane: usize,
    /// Blocks of the plane in an MCU, and which of them this is.
    across: usize,
    down: usize,
    x: usize,
    y: usize,
}

impl Layout {
    fn new(frame: &Frame, scan: &ScanHeader) -> Result<Self, Error> {
        if let [component] = scan.components[..] {
            let plane = &frame.planes[component.index];
            return Ok(Layout {
                mcus_across: plane.blocks_across,
                mcus_down: plane.blocks_down,
                rows_per_mcu: plane.header.down,
                blocks: vec![McuBlock {
                    component: 0,
                    plane: component.index,
                    across: 1,
                    down: 1,
                    x: 0,
                    y: 0,
                }],
            });
        }
        let mut blocks = Vec::new();
        for (component, spec) in scan.components.iter().enumerate() {
            let ComponentHeader { across, down, .. } = frame.planes[spec.index].header;
            let places = (0..down).flat_map(|y| (0..across).map(move |x| (x, y)));
            blocks.extend(places.map(|(x, y)| McuBlock { component, plane: spec.index, across, down, x, y }));
        }
        if blocks.len() > 10 {
            return Err(Error::Damaged(format!("it has {} blocks in an MCU, 10 are the most", blocks.len())));
        }
        Ok(Layout { mcus_across: frame.mcus_across, mcus_down: frame.mcus_down, rows_per_mcu: 1, blocks })
    }
}

struct Restarts {
    interval: usize,
    to_go: usize,
    /// Of the next marker, modulo 8.
    number: u8,
}

impl Restarts {
    /// Goes on behind the next restart marker. If it is not the one that comes next, does as libjpeg: earlier ones
    /// are passed, for later ones and for other markers the segment between counts as empty.
    fn restart(&mut self, header: &mut Header, reader: &mut Reader) -> Result<(), Error> {
        let cut = || Error::Cut { part: "its pixels" };
        header.position = reader.bits.position();
        let mut marker = header.next_marker().ok_or_else(cut)?;
        let is_passed = loop {
            let ahead = match marker {
                FIRST_RESTART..=0xD7 => marker.wrapping_sub(FIRST_RESTART + self.number) & 7,
                // Not a marker that JPEG has.
                ..0xC0 => 7,
                _ => 1,
            };
            match ahead {
                1 | 2 => break false,
                6 | 7 => marker = header.next_marker().ok_or_else(cut)?,
                _ => break true,
            }
        };
        // A marker that is not passed ends the next segment too.
        reader.bits.restart(if is_passed { header.position } else { header.position - 2 });
        reader.starved &= !is_passed;
        reader.differences.fill(0);
        reader.zero_blocks = 0;
        self.number = (self.number + 1) & 7;
        self.to_go = self.interval;
        Ok(())
    }
}

struct Reader<'a> {
    bits: BitReader<'a>,
    /// The last first coefficient of each component.
    differences: Vec<i32>,
    /// Blocks to come whose band has nothing new.
    zero_blocks: u32,
    /// Whether the segment has ended early: the blocks up to the next restart are gray.
    starved: bool,
}

impl Reader<'_> {
    /// Reads a block of zeros full; says whether all but its first coefficient stayed zero.
    #[inline(always)]
    fn sequential(
        &mut self,
        tables: &ComponentTables,
        component: usize,
        block: &mut Block,
    ) -> Result<bool, Error> {
        let ComponentTables { differences: Some(differences), coefficients: Some(coefficients) } = tables
        else {
            return Err(missing_table());
        };
        let mut bits = self.bits;
        if let Coefficient::Value { value, .. } = differences.coefficient(&mut bits) {
            self.differences[component] = self.differences[component].wrapping_add(value);
        }
        block[0] = self.differences[component] as i16;
        let mut at = 1;
        while at < 64 {
            match coefficients.coefficient(&mut bits) {
                Coefficient::Value { run, value } => {
                    at += run as usize;
                    block[usize::from(ZIGZAG[at]) & 63] = value as i16;
                    at += 1;
                }
                Coefficient::Special(15) => at += 16,
                Coefficient::Special(_) => break,
            }
        }
        self.bits = bits;
        // A run of zeros to the end of the block looks like a coefficient, which costs time only.
        Ok(at == 1)
    }

    /// Reads what a scan has of a block that is kept.
    fn buffered(
        &mut self,
        kind: Kind,
        scan: &ScanHeader,
        tables: &ComponentTables,
        component: usize,
        block: &mut Block,
    ) -> Result<(), Error> {
        if self.starved {
            return Ok(());
        }
        match kind {
            Kind::Sequential => drop(self.sequential(tables, component, block)?),
            Kind::FirstDc => {
                let table = tables.differences.as_ref().ok_or_else(missing_table)?;
                if let Coefficient::Value { value, .. } = table.coefficient(&mut self.bits) {
                    self.differences[component] = self.differences[component].wrapping_add(value);
                }
                block[0] = (self.differences[component] << scan.low) as i16;
            }
            Kind::RefinedDc => block[0] |= (self.bits.take(1) << scan.low) as i16,
            Kind::FirstAc => {
                self.first_ac(scan, tables.coefficients.as_ref().ok_or_else(missing_table)?, block)
            }
            Kind::RefinedAc => {
                self.refined_ac(scan, tables.coefficients.as_ref().ok_or_else(missing_table)?, block)
            }
        }
        Ok(())
    }

    fn first_ac(&mut self, scan: &ScanHeader, table: &Table, block: &mut Block) {
        if self.zero_blocks > 0 {
            self.zero_blocks -= 1;
            return;
        }
        let mut at = scan.first;
        while at <= scan.last {
            let symbol = table.symbol(&mut self.bits);
            let (run, size) = (symbol >> 4, symbol & 15);
            match (run, size) {
                (15, 0) => at += 16,
                (run, 0) => {
                    self.zero_blocks = (1 << run) + self.bits.take(run) - 1;
                    return;
                }
                (run, size) => {
                    at += run as usize;
                    let value = extend(self.bits.take(size), size);
                    block[usize::from(ZIGZAG[at])] = (value << scan.low) as i16;
                    at += 1;
                }
            }
        }
    }

    fn refined_ac(&mut self, scan: &ScanHeader, table: &Table, block: &mut Block) {
        let bit = 1i16 << scan.low;
        let mut at = scan.first;
        if self.zero_blocks == 0 {
            while at <= scan.last {
                let symbol = table.symbol(&mut self.bits);
                let (mut run, size) = (symbol >> 4, symbol & 15);
                let mut value = 0;
                if size != 0 {
                    value = if self.bits.take(1) == 1 { bit } else { -bit };
                } else if run != 15 {
                    self.zero_blocks = (1 << run) + self.bits.take(run);
                    break;
                }
                // Passes the run's zeros, and refines what is between them.
                while at <= scan.last {
                    let place = &mut block[usize::from(ZIGZAG[at])];
                    if *place != 0 {
                        refine(place, bit, &mut self.bits);
                    } else if run == 0 {
                        break;
                    } else {
                        run -= 1;
                    }
                    at += 1;
                }
                if value != 0 {
                    block[usize::from(ZIGZAG[at])] = value;
                }
                at += 1;
            }
        }
        if self.zero_blocks > 0 {
            for &place in ZIGZAG.get(at..=scan.last).unwrap_or_default() {
                let place = &mut block[usize::from(place)];
                if *place != 0 {
                    refine(place, bit, &mut self.bits);
                }
            }
            self.zero_blocks -= 1;
        }
    }
}

/// Adds a bit to a coefficient that is known in part, if the file says so.
fn refine(coefficient: &mut i16, bit: i16, bits: &mut BitReader) {
    if bits.take(1) == 1 && *coefficient & bit == 0 {
        *coefficient = coefficient.wrapping_add(if *coefficient >= 0 { bit } else { -bit });
    }
}

fn missing_table() -> Error {
    Error::Damaged("a Huffman table is missing".to_owned())
}
