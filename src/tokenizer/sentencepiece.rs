//! SentencePiece BPE, step for step as the C++ library does it (`bpe_model.cc`, `normalizer.cc`,
//! `sentencepiece_processor.cc`), for models whose normaliser is the identity. Gemma's and PaliGemma's are.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use prost::Message;

use super::proto::{ModelProto, ModelType, Piece, PieceType};
use super::trie::Trie;
use super::{Error, Special};

/// U+2581, which stands for a blank inside pieces.
pub(super) const SPACE: &str = "\u{2581}";

/// A loaded `.model` file.
#[derive(Debug, Clone)]
pub(super) struct SentencePiece {
    proto: ModelProto,
    kinds: Vec<PieceType>,
    /// Pieces that merging may produce: normal, user-defined and unused ones.
    pieces: HashMap<String, i32>,
    /// Control, unknown and byte pieces, which text never produces.
    reserved: HashMap<String, i32>,
    user_defined: Trie,
    /// Ids of `<0x00>` to `<0xFF>`, when the model falls back to bytes.
    bytes: Option<Box<[i32; 256]>>,
    /// The byte of a byte piece, by id.
    byte_of: HashMap<i32, u8>,
    pub special: Special,
    unk_surface: String,
    normalizer: Normalizer,
}

#[derive(Debug, Clone, Copy)]
struct Normalizer {
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
}

impl SentencePiece {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let proto = ModelProto::decode(bytes).map_err(|error| Error::NotAModel(error.to_string()))?;
        SentencePiece::from_proto(proto)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.proto.encode_to_vec()
    }

    pub fn from_proto(proto: ModelProto) -> Result<Self, Error> {
        if proto.pieces.is_empty() {
            return Err(Error::NotAModel("it holds no pieces".into()));
        }
        if i32::try_from(proto.pieces.len()).is_err() {
            return Err(Error::NotAModel(format!("{} pieces do not fit in 32 bits", proto.pieces.len())));
        }
        let trainer = proto.trainer_spec.clone().unwrap_or_default();
        if trainer.model_type() != ModelType::Bpe {
            let kind = format!("{:?} model", trainer.model_type());
            return Err(Error::Unsupported { what: kind, supported: "BPE" });
        }
        if trainer.treat_whitespace_as_suffix() {
            let what = "treat_whitespace_as_suffix".to_owned();
            return Err(Error::Unsupported { what, supported: "blanks before words" });
        }
        let spec = proto.normalizer_spec.clone().unwrap_or_default();
        let denormalizer = proto.denormalizer_spec.clone().unwrap_or_default();
        if !spec.precompiled_charsmap().is_empty() || !denormalizer.precompiled_charsmap().is_empty() {
            let what = format!("normaliser \"{}\"", spec.name());
            return Err(Error::Unsupported { what, supported: "identity" });
        }
        let normalizer = Normalizer {
            add_dummy_prefix: spec.add_dummy_prefix(),
            remove_extra_whitespaces: spec.remove_extra_whitespaces(),
            escape_whitespaces: spec.escape_whitespaces(),
        };

        let (mut pieces, mut reserved) = (HashMap::new(), HashMap::new());
        let mut kinds = Vec::with_capacity(proto.pieces.len());
        let mut byte_of = HashMap::new();
        for (id, piece) in (0i32..).zip(&proto.pieces) {
            let (text, kind) = (piece.piece(), piece.kind());
            if text.is_empty() {
                return Err(Error::NotAModel(format!("piece {id} is empty")));
            }
            let map = match kind {
                PieceType::Normal | PieceType::UserDefined | PieceType::Unused => &mut pieces,
                PieceType::Control | PieceType::Unknown | PieceType::Byte => &mut reserved,
            };
            if let Some(first) = map.insert(text.to_owned(), id) {
                return Err(Error::NotAModel(format!("pieces {first} and {id} are both \"{text}\"")));
            }
            if kind == PieceType::Byte {
                let byte = byte_of_piece(text).ok_or_else(|| {
                    Error::NotAModel(format!("byte piece {id} is \"{text}\" instead of <0x00> to <0xFF>"))
                })?;
                byte_of.insert(id, byte);
            }
            kinds.push(kind);
        }
        let bytes = trainer.byte_fallback().then(|| all_bytes(&reserved)).transpose()?;
        let user_defined = Trie::new(
            proto.pieces.iter().filter(|piece| piece.kind() == PieceType::UserDefined).map(Piece::piece),
        );

        let find = |role: &'static str, name: &str, wanted: PieceType| match reserved.get(name) {
            Some(&id) if kinds[id as usize] == wanted => Ok(id),
            _ => Err(Error::NoSpecial { role, name: name.to_owned() }),
        };
        let special = Special {
            pad: find("padding", trainer.pad_piece(), PieceType::Control)?,
            eos: find("end of sentence", trainer.eos_piece(), PieceType::Control)?,
            bos: find("beginning of sentence", trainer.bos_piece(), PieceType::Control)?,
            unk: find("unknown", trainer.unk_piece(), PieceType::Unknown)?,
        };
        let unk_surface = trainer.unk_surface().to_owned();
        Ok(SentencePiece {
            proto,
            kinds,
            pieces,
            reserved,
            user_defined,
            bytes,
            byte_of,
            special,
            unk_surface,
            normalizer,
        })
    }

    /// The model with `extras` as user-defined pieces, as `_add_pieces` of big_vision's `pp/ops_text.py`
    /// does it: known pieces keep their id, new ones get the next free ids in the order given.
    pub fn with_pieces(&self, extras: &[String]) -> Result<Self, Error> {
        let mut proto = self.proto.clone();
        for extra in extras {
            let text = extra.replace(' ', SPACE);
            let piece = Piece {
                piece: Some(text.clone()),
                score: Some(0.0),
                kind: Some(PieceType::UserDefined as i32),
            };
            match self.piece_to_id(&text) {
                Some(id) => proto.pieces[id as usize] = piece,
                None => proto.pieces.push(piece),
            }
        }
        SentencePiece::from_proto(proto)
    }

    pub fn vocab_size(&self) -> usize {
        self.proto.pieces.len()
    }

    pub fn id_to_piece(&self, id: i32) -> Option<&str> {
        self.proto.pieces.get(usize::try_from(id).ok()?).map(Piece::piece)
    }

    pub fn piece_to_id(&self, piece: &str) -> Option<i32> {
        self.reserved.get(piece).or_else(|| self.pieces.get(piece)).copied()
    }

    fn kind(&self, id: i32) -> PieceType {
        self.kinds[id as usize]
    }

    fn normalize(&self, text: &str) -> String {
        let Normalizer { add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces } = self.normalizer;
        let space = if escape_whitespaces { SPACE } else { " " };
        let text = if remove_extra_whitespaces { text.trim_matches(' ') } else { text };
        if text.is_empty() {
            return String::new();
        }
        let mut out = String::with_capacity(text.len() * 3 / 2);
        if add_dummy_prefix {
            out.push_str(space);
        }
        let mut after_space = false;
        for c in text.chars() {
            match c {
                ' ' if after_space && remove_extra_whitespaces => {}
                ' ' => out.push_str(space),
                c => out.push(c),
            }
            after_space = c == ' ';
        }
        out
    }

    pub fn encode(&self, text: &str) -> Vec<i32> {
        let text = self.normalize(text);
        let mut symbols = self.split(&text);
        let merges = self.merge(&text, &mut symbols);

        let mut ids = Vec::with_capacity(symbols.len());
        let mut after_unknown = false;
        let mut at = if symbols.is_empty() { NONE } else { 0 };
        let mut stack = Vec::new();
        while at != NONE {
            let symbol = &symbols[at];
            stack.push((symbol.start, symbol.len));
            // Unused pieces fall apart into what they were merged from.
            while let Some((start, len)) = stack.pop() {
                let piece = &text[start..start + len];
                let id = self.piece_to_id(piece).unwrap_or(self.special.unk);
                if self.kind(id) == PieceType::Unused
                    && let Some(&left) = merges.get(piece)
                {
                    stack.push((start + left, len - left));
                    stack.push((start, left));
                    continue;
                }
                let unknown = self.kind(id) == PieceType::Unknown;
                match &self.bytes {
                    Some(bytes) if unknown => ids.extend(piece.bytes().map(|byte| bytes[byte as usize])),
                    // A run of unknown characters is one unknown piece.
                    _ if unknown && after_unknown => {}
                    _ => ids.push(id),
                }
                after_unknown = unknown;
            }
            at = symbols[at].next;
        }
        ids
    }

    /// User-defined pieces (never merged) and single characters.
    fn split(&self, text: &str) -> Vec<Symbol> {
        let mut symbols = Vec::with_capacity(text.len());
        let mut start = 0;
        while let Some(c) = text[start..].chars().next() {
            let matched = self.user_defined.longest_prefix(&text[start..]);
            let len = matched.unwrap_or(c.len_utf8());
            let at = symbols.len();
            let prev = if at == 0 { NONE } else { at - 1 };
            symbols.push(Symbol { prev, next: at + 1, start, len, frozen: matched.is_some() });
            start += len;
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }

    /// Merges the best-scored neighbours until none is left. The result tells, for every unused piece that
    /// was a candidate, the length of its left half.
    fn merge<'t>(&self, text: &'t str, symbols: &mut [Symbol]) -> HashMap<&'t str, usize> {
        let mut agenda = BinaryHeap::new();
        let mut halves = HashMap::new();
        let mut propose = |symbols: &[Symbol], agenda: &mut BinaryHeap<Pair>, left: usize, right: usize| {
            if left == NONE || right == NONE || symbols[left].frozen || symbols[right].frozen {
                return;
            }
            let len = symbols[left].len + symbols[right].len;
            let piece = &text[symbols[left].start..symbols[left].start + len];
            let Some(&id) = self.pieces.get(piece) else { return };
            // Adding zero makes -0 and 0 the same score.
            let score = self.proto.pieces[id as usize].score() + 0.0;
            agenda.push(Pair { score, left, right, len });
            if self.kind(id) == PieceType::Unused {
                halves.insert(piece, symbols[left].len);
            }
        };
        for right in 1..symbols.len() {
            propose(symbols, &mut agenda, right - 1, right);
        }
        while let Some(Pair { left, right, len, .. }) = agenda.pop() {
            let (l, r) = (symbols[left].len, symbols[right].len);
            if l == 0 || r == 0 || l + r != len {
                continue; // one of the two was merged in the meantime
            }
            let next = symbols[right].next;
            symbols[left].len = len;
            symbols[left].next = next;
            symbols[right].len = 0;
            if next != NONE {
                symbols[next].prev = left;
            }
            propose(symbols, &mut agenda, symbols[left].prev, left);
            propose(symbols, &mut agenda, left, next);
        }
        halves
    }

    /// What one id adds to the text: a byte of an unfinished character, or a string. `at_start` says that
    /// nothing was written yet.
    pub fn surface(&self, id: i32, at_start: bool) -> Result<Surface, Error> {
        let piece = self.id_to_piece(id).ok_or(Error::IdOutOfRange { id, vocab_size: self.vocab_size() })?;
        Ok(match self.kind(id) {
            PieceType::Byte => Surface::Byte(self.byte_of[&id]),
            PieceType::Control => Surface::Text(String::new()),
            PieceType::Unknown => Surface::Text(self.unk_surface.clone()),
            PieceType::Normal | PieceType::UserDefined | PieceType::Unused => {
                let Normalizer { add_dummy_prefix, remove_extra_whitespaces, .. } = self.normalizer;
                let strip = at_start && (add_dummy_prefix || remove_extra_whitespaces);
                let piece = if strip { piece.strip_prefix(SPACE).unwrap_or(piece) } else { piece };
                Surface::Text(piece.replace(SPACE, " "))
            }
        })
    }
}

/// See [`SentencePiece::surface`].
pub(super) enum Surface {
    Byte(u8),
    Text(String),
}

const NONE: usize = usize::MAX;

/// A slice of the text in a linked list of slices; `len` 0 means merged away.
struct Symbol {
    prev: usize,
    next: usize,
    start: usize,
    len: usize,
    frozen: bool,
}

/// A possible merge of two neighbours into `len` bytes.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

/// The best score first, then the leftmost.
impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// `<0x0A>` and the like.
pub(super) fn byte_piece(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

fn byte_of_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (byte_piece(byte) == piece).then_some(byte)
}

fn all_bytes(reserved: &HashMap<String, i32>) -> Result<Box<[i32; 256]>, Error> {
    let mut ids = Box::new([0; 256]);
    for byte in 0..=255u8 {
        let piece = byte_piece(byte);
        ids[byte as usize] = *reserved.get(&piece).ok_or_else(|| {
            Error::NotAModel(format!("it falls back to bytes, but lacks piece \"{piece}\""))
        })?;
    }
    Ok(ids)
}
