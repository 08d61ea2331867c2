//! The header of numpy's `.npy` format, versions 1 to 3 (numpy's `lib/format.py`), which stands before
//! every array of an `.npz`.

use std::io::{self, Read};

use crate::array::{DType, Shape};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// numpy itself refuses longer ones, unless it is told to trust the file.
const MAX_HEADER_BYTES: usize = 1 << 16;

/// Why bytes are not an array of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it does not start with numpy's magic bytes")]
    Magic,
    #[error("it is npy version {0}.{1}, known are 1.0, 2.0 and 3.0")]
    Version(u8, u8),
    #[error("its header is {0} bytes long, more than the {MAX_HEADER_BYTES} allowed")]
    HeaderTooLong(usize),
    #[error("it cannot be read or unpacked")]
    Read(#[from] io::Error),
    #[error("its header {header:?} is malformed: {problem}")]
    Header { header: String, problem: &'static str },
    #[error(
        "its dtype '{0}' is big-endian; save it little-endian (numpy: `array.astype(array.dtype.newbyteorder('<'))`)"
    )]
    BigEndian(String),
    #[error(
        "its dtype '{0}' is not supported; supported are f2, f4, f8, i1, i4, i8, u1, u4, u8, b1 and V2 (bfloat16)"
    )]
    DType(String),
    #[error("its dtype '{0}' is not text; text is U or S, little-endian")]
    NotText(String),
    #[error("its element {index} is not Unicode")]
    NotUnicode { index: usize },
    #[error("its text of dtype '{0}' is longer than a gigabyte")]
    TooMuchText(String),
    #[error("its shape {shape:?} of {dtype} does not fit in memory")]
    TooLarge { shape: Vec<usize>, dtype: DType },
    #[error("its header says {shape}, which is {} bytes of data, but {got} follow", .shape.num_bytes())]
    DataSize { shape: Shape, got: u64 },
    #[error("it claims to unpack from {packed} to {unpacked} bytes, more than deflate can do")]
    Bomb { packed: u64, unpacked: u64 },
    #[error("its name does not end in \".npy\"")]
    Name,
}

/// What stands before an array's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub shape: Shape,
    /// Whether the first axis runs fastest in the data.
    pub fortran_order: bool,
    /// Bytes up to the data.
    pub len: usize,
}

impl Header {
    /// Reads up to the first byte of the data.
    ///
    /// # Errors
    /// When the header is malformed, or describes an array that [`HostArray`](crate::array::HostArray)
    /// cannot hold.
    pub fn read(reader: &mut impl Read) -> Result<Self, Error> {
        let Raw { descr, fortran_order, dims, len } = Raw::read(reader)?;
        let dtype = dtype_of(&descr)?;
        let bytes = dims.iter().try_fold(dtype.num_bytes(), |size, &dim| size.checked_mul(dim));
        if bytes.is_none_or(|bytes| bytes > isize::MAX as usize) {
            return Err(Error::TooLarge { shape: dims, dtype });
        }
        Ok(Header { shape: Shape::new(dtype, dims), fortran_order, len })
    }

    /// The bytes that numpy writes before a row-major array of this shape.
    pub fn write(shape: &Shape) -> Vec<u8> {
        let dims = shape.dims();
        let list: Vec<String> = dims.iter().map(usize::to_string).collect();
        let comma = if dims.len() == 1 { "," } else { "" };
        let mut text = format!(
            "{{'descr': '{}', 'fortran_order': False, 'shape': ({}{comma}), }}",
            descr_of(shape.dtype()),
            list.join(", ")
        );
        // numpy leaves room for the first extent to grow to 21 digits, then fills up to a multiple of 64.
        if let Some(first) = list.first() {
            text.push_str(&" ".repeat(21usize.saturating_sub(first.len())));
        }
        let prefix = MAGIC.len() + 4;
        let total = (prefix + text.len() + 1).next_multiple_of(64);
        text.push_str(&" ".repeat(total - prefix - text.len() - 1));
        text.push('\n');
        let len = u16::try_from(text.len()).expect("a few dozen digits per dimension stay below 64 KiB");
        [MAGIC.as_slice(), &[1, 0], &len.to_le_bytes(), text.as_bytes()].concat()
    }
}

/// A header of an array of any dtype.
struct Raw {
    descr: String,
    fortran_order: bool,
    dims: Vec<usize>,
    len: usize,
}

impl Raw {
    fn read(reader: &mut impl Read) -> Result<Self, Error> {
        let mut start = [0; 8];
        reader.read_exact(&mut start)?;
        if start[..6] != *MAGIC {
            return Err(Error::Magic);
        }
        let (prefix, text_len) = match (start[6], start[7]) {
            (1, 0) => {
                let mut len = [0; 2];
                reader.read_exact(&mut len)?;
                (10, usize::from(u16::from_le_bytes(len)))
            }
            (2 | 3, 0) => {
                let mut len = [0; 4];
                reader.read_exact(&mut len)?;
                (12, u32::from_le_bytes(len) as usize)
            }
            (major, minor) => return Err(Error::Version(major, minor)),
        };
        if text_len > MAX_HEADER_BYTES {
            return Err(Error::HeaderTooLong(text_len));
        }
        let mut text = vec![0; text_len];
        reader.read_exact(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let (descr, fortran_order, dims) = Parser::new(&text)
            .dict()
            .map_err(|problem| Error::Header { header: text.trim_end().to_owned(), problem })?;
        Ok(Raw { descr, fortran_order, dims, len: prefix + text_len })
    }
}

/// Reads an array of text (numpy's `U` and `S`), which no [`HostArray`](crate::array::HostArray) can hold: its
/// elements in the order of the file.
///
/// # Errors
/// When the array is of something else, or is not Unicode.
pub fn read_strings(reader: &mut impl Read) -> Result<Vec<String>, Error> {
    const MOST_BYTES: usize = 1 << 30;
    let Raw { descr, dims, .. } = Raw::read(reader)?;
    let not_text = || Error::NotText(descr.clone());
    let (is_wide, width) = match descr.trim_start_matches(['<', '|']).split_at_checked(1) {
        Some(("U", width)) => (true, width),
        Some(("S", width)) => (false, width),
        _ => return Err(not_text()),
    };
    let width: usize = width.parse().map_err(|_| not_text())?;
    let size = width.checked_mul(if is_wide { 4 } else { 1 });
    let count = dims.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim));
    let bytes = size.zip(count).and_then(|(size, count)| size.checked_mul(count));
    let (Some(size), Some(count), Some(bytes)) = (size, count, bytes.filter(|&bytes| bytes <= MOST_BYTES))
    else {
        return Err(Error::TooMuchText(descr));
    };
    if size == 0 {
        // A file is not made longer by empty strings, so that their number is no promise of memory.
        return if count <= MOST_BYTES / 64 { Ok(vec![String::new(); count]) } else { Err(not_text()) };
    }
    let mut data = vec![0; bytes];
    reader.read_exact(&mut data)?;
    let text = |(index, element): (usize, &[u8])| {
        let text = match is_wide {
            true => element
                .chunks_exact(4)
                .map(|code| char::from_u32(u32::from_le_bytes([code[0], code[1], code[2], code[3]])))
                .collect::<Option<String>>(),
            false => String::from_utf8(element.to_vec()).ok(),
        };
        // numpy fills up with zeros.
        text.map(|text| text.trim_end_matches('\0').to_owned()).ok_or(Error::NotUnicode { index })
    };
    data.chunks_exact(size).enumerate().map(text).collect()
}

fn dtype_of(descr: &str) -> Result<DType, Error> {
    match parse_descr(descr) {
        None => Err(Error::DType(descr.to_owned())),
        Some((_, true)) => Err(Error::BigEndian(descr.to_owned())),
        Some((dtype, false)) => Ok(dtype),
    }
}

/// The dtype that numpy's string for it means, and whether its bytes stand in big-endian order; `None` for
/// what this program has no type for.
pub(crate) fn parse_descr(descr: &str) -> Option<(DType, bool)> {
    let (order, kind) = match descr.chars().next()? {
        order @ ('<' | '>' | '|' | '=') => (order, &descr[1..]),
        _ => ('|', descr),
    };
    let dtype = match kind {
        "f2" => DType::F16,
        "f4" => DType::F32,
        "f8" => DType::F64,
        "i1" => DType::S8,
        "i4" => DType::S32,
        "i8" => DType::S64,
        "u1" => DType::U8,
        "u2" => DType::U16,
        "u4" => DType::U32,
        "u8" => DType::U64,
        "b1" => DType::Pred,
        // numpy has no bfloat16: it stores two raw bytes, as '<V2' at first and '|V2' once saved again.
        "V2" => DType::BF16,
        _ => return None,
    };
    Some((dtype, order == '>' && dtype.num_bytes() > 1))
}

/// numpy's string for a dtype.
pub(crate) fn descr_of(dtype: DType) -> &'static str {
    match dtype {
        DType::Pred => "|b1",
        DType::S8 => "|i1",
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::S32 => "<i4",
        DType::U32 => "<u4",
        DType::S64 => "<i8",
        DType::U64 => "<u8",
        DType::F16 => "<f2",
        DType::BF16 => "<V2",
        DType::F32 => "<f4",
        DType::F64 => "<f8",
    }
}

/// Copies an array whose first axis runs fastest into row-major order.
pub(crate) fn fortran_to_row_major(shape: &Shape, data: &[u8], out: &mut [u8]) {
    let (dims, size) = (shape.dims(), shape.dtype().num_bytes());
    // Distance in `data`, in elements, between neighbours along each axis.
    let strides: Vec<usize> = (0..dims.len()).map(|axis| dims[..axis].iter().product()).collect();
    let mut index = vec![0; dims.len()];
    for to in out.chunks_exact_mut(size) {
        let from: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        to.copy_from_slice(&data[from * size..(from + 1) * size]);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
}

/// Reads the Python literal that a header is: a dict of a string, a bool and a tuple of integers.
struct Parser<'t> {
    rest: &'t str,
}

type Parsed<T> = Result<T, &'static str>;

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Self {
        Parser { rest: text }
    }

    fn dict(&mut self) -> Parsed<(String, bool, Vec<usize>)> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect('{', "it is not a dict")?;
        while !self.accept('}') {
            let key = self.string()?;
            self.expect(':', "a key has no value")?;
            let fresh = match key {
                "descr" => descr.replace(self.string().map_err(|_| "its dtype is structured")?).is_none(),
                "fortran_order" => fortran_order.replace(self.bool()?).is_none(),
                "shape" => shape.replace(self.tuple()?).is_none(),
                _ => return Err("it has a key besides 'descr', 'fortran_order' and 'shape'"),
            };
            if !fresh {
                return Err("a key occurs twice");
            }
            if !self.accept(',') {
                self.expect('}', "it does not end after a value")?;
                break;
            }
        }
        if !self.rest.trim_start().is_empty() {
            return Err("something follows the dict");
        }
        let descr = descr.ok_or("'descr' is missing")?;
        Ok((
            descr.to_owned(),
            fortran_order.ok_or("'fortran_order' is missing")?,
            shape.ok_or("'shape' is missing")?,
        ))
    }

    fn accept(&mut self, symbol: char) -> bool {
        let rest = self.rest.trim_start().strip_prefix(symbol);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn expect(&mut self, symbol: char, problem: &'static str) -> Parsed<()> {
        if self.accept(symbol) { Ok(()) } else { Err(problem) }
    }

    fn string(&mut self) -> Parsed<&'t str> {
        let quote = if self.accept('\'') {
            '\''
        } else {
            self.expect('"', "a string is expected")?;
            '"'
        };
        let (string, rest) = self.rest.split_once(quote).ok_or("a string does not end")?;
        self.rest = rest;
        Ok(string)
    }

    fn bool(&mut self) -> Parsed<bool> {
        let text = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = text.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err("'fortran_order' is neither True nor False")
    }

    fn tuple(&mut self) -> Parsed<Vec<usize>> {
        let mut values = Vec::new();
        self.expect('(', "'shape' is not a tuple")?;
        while !self.accept(')') {
            let text = self.rest.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            values.push(text[..end].parse().map_err(|_| "'shape' holds something else than extents")?);
            // Python 2 wrote long integers as `3L`.
            self.rest = text[end..].strip_prefix('L').unwrap_or(&text[end..]);
            if !self.accept(',') {
                self.expect(')', "'shape' does not end after an extent")?;
                break;
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_text(version: u8, text: &str) -> Vec<u8> {
        let mut bytes = [MAGIC.as_slice(), &[version, 0]].concat();
        match version {
            1 => bytes.extend((text.len() as u16).to_le_bytes()),
            _ => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        bytes.extend(text.as_bytes());
        bytes
    }

    fn parse(version: u8, text: &str) -> Result<Header, Error> {
        Header::read(&mut with_text(version, text).as_slice())
    }

    #[test]
    fn all_versions_and_spellings_are_read() {
        let expected = Shape::new(DType::F32, [3, 4]);
        for version in [1, 2, 3] {
            let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n";
            let header = parse(version, text).unwrap();
            assert_eq!((header.shape, header.fortran_order), (expected.clone(), false));
            assert_eq!(header.len, with_text(version, text).len());
        }
        let header = parse(1, "{\"shape\":(3L,4L),\"fortran_order\":True,\"descr\":\"f4\"}").unwrap();
        assert_eq!((header.shape, header.fortran_order), (expected, true));
        let one = |descr: &str, shape: &str| {
            parse(1, &format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"))
                .unwrap()
                .shape
        };
        assert_eq!(one("<V2", "()"), Shape::scalar(DType::BF16));
        assert_eq!(one("|V2", "(7,)"), Shape::new(DType::BF16, [7]));
        assert_eq!(one(">u1", "(7,)"), Shape::new(DType::U8, [7]));
        assert_eq!(one("|b1", "(0, 2)"), Shape::new(DType::Pred, [0, 2]));
    }

    #[test]
    fn bad_headers_are_explained() {
        let message = |text: &str| parse(1, text).unwrap_err().to_string();
        let dict = |descr: &str, shape: &str| {
            format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")
        };
        assert!(message(&dict("'>f4'", "(3,)")).starts_with("its dtype '>f4' is big-endian"));
        assert!(message(&dict("'<U5'", "(3,)")).starts_with("its dtype '<U5' is not supported"));
        assert!(message(&dict("[('a', '<f4')]", "(3,)")).ends_with("its dtype is structured"));
        assert!(message(&dict("'<f4'", "(3, -1)")).ends_with("'shape' holds something else than extents"));
        assert!(message(&dict("'<f4'", "(3")).ends_with("'shape' does not end after an extent"));
        assert!(message(&dict("'<f4'", &format!("({}, 4)", usize::MAX))).ends_with("does not fit in memory"));
        assert!(message("{'descr': '<f4', 'shape': (3,)}").ends_with("'fortran_order' is missing"));
        assert!(message("{'shape': (3,), 'shape': (3,)}").ends_with("a key occurs twice"));
        assert!(message("").ends_with("it is not a dict"));
        assert!(matches!(parse(4, "{}"), Err(Error::Version(4, 0))));
        assert!(matches!(Header::read(&mut &b"PK\x03\x04 something"[..]), Err(Error::Magic)));
        let mut long = with_text(2, "");
        long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Header::read(&mut long.as_slice()), Err(Error::HeaderTooLong(_))));
        let whole = with_text(1, &dict("'<f4'", "(3,)"));
        for len in 0..whole.len() {
            assert!(matches!(Header::read(&mut &whole[..len]), Err(Error::Read(_))), "cut at {len}");
        }
    }

    #[test]
    fn text_is_read_in_both_widths() {
        let array = |descr: &str, shape: &str, data: &[u8]| {
            let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}");
            read_strings(&mut [with_text(1, &text).as_slice(), data].concat().as_slice())
        };
        let wide: Vec<u8> = "aé\0日🐱\0".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        assert_eq!(array("<U3", "(2,)", &wide).unwrap(), ["aé", "日🐱"]);
        assert_eq!(array("|S2", "(3,)", b"abc\0\0\0").unwrap(), ["ab", "c", ""]);
        assert_eq!(array("<U0", "(2,)", b"").unwrap(), ["", ""]);
        let message = |descr, shape, data| array(descr, shape, data).unwrap_err().to_string();
        assert_eq!(
            message("<f4", "(1,)", b"abcd"),
            "its dtype '<f4' is not text; text is U or S, little-endian"
        );
        assert_eq!(
            message(">U1", "(1,)", b"abcd"),
            "its dtype '>U1' is not text; text is U or S, little-endian"
        );
        assert_eq!(message("|S1", "(2,)", b"a\xff"), "its element 1 is not Unicode");
        assert!(message("|S9", "(99999999999,)", b"").ends_with("is longer than a gigabyte"));
        assert!(matches!(array("|S4", "(2,)", b"abcde"), Err(Error::Read(_))));
    }

    #[test]
    fn fortran_order_is_turned_over() {
        // [[1, 2, 3], [4, 5, 6]], first axis fastest.
        let mut out = [0; 6];
        fortran_to_row_major(&Shape::new(DType::U8, [2, 3]), &[1, 4, 2, 5, 3, 6], &mut out);
        assert_eq!(out, [1, 2, 3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(dims in prop::collection::vec(0usize..1_000_000, 0..4), dtype in 0..DType::ALL.len()) {
            let shape = Shape::new(DType::ALL[dtype], dims);
            let bytes = Header::write(&shape);
            let header = Header::read(&mut bytes.as_slice());
            match header {
                Ok(header) => {
                    prop_assert_eq!(header.len % 64, 0);
                    prop_assert_eq!(header, Header { shape, fortran_order: false, len: bytes.len() });
                }
                Err(error) => prop_assert!(matches!(error, Error::TooLarge { .. }), "{error}"),
            }
        }

        #[test]
        fn no_header_makes_it_panic(text in "[{}()',:0-9a-zA-Z<>|' \n-]{0,60}") {
            let _ = parse(1, &text);
        }
    }
}
