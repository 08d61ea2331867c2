//! The language of pp strings: `decode|resize(224, antialias=True)|strfmt("caption {lang}", outkey="prefix")`.
//!
//! A string is cut at every `|`, also inside quotes; empty sections are skipped. A section is what Python's
//! `ast` takes for a name, an attribute or a call with literal arguments (big_vision's `pp/registry.py`).
//! Blanks, newlines and comments are free inside parentheses; a section may not begin with a blank, and the
//! name of a section without parentheses includes any blank behind it.
//!
//! Refused although Python's parser takes it, because no op could use it: `**{...}`, `...`, complex numbers,
//! integers beyond 64 bits and `\N{...}` escapes.

use super::literal::{Literal, push_unique, set_item};

/// What is wrong at byte `at` of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub at: usize,
    pub message: String,
}

/// One section: the name of an op and its arguments, each with the byte it begins at.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub name: String,
    pub at: usize,
    pub args: Vec<(Literal, usize)>,
    /// In the order of their first appearance; of repeated ones, the last value counts.
    pub kwargs: Vec<(String, Literal, usize)>,
}

/// The sections of a whole pp string; positions count from its beginning.
///
/// # Errors
/// When a section is not a name or a call with literal arguments.
pub fn parse(pp: &str) -> Result<Vec<Call>, SyntaxError> {
    let mut calls = Vec::new();
    let mut begin = 0;
    for section in pp.split('|') {
        if !section.is_empty() {
            let moved = |error: SyntaxError| SyntaxError { at: begin + error.at, ..error };
            let mut call = parse_section(section).map_err(moved)?;
            call.at += begin;
            call.args.iter_mut().for_each(|arg| arg.1 += begin);
            call.kwargs.iter_mut().for_each(|arg| arg.2 += begin);
            calls.push(call);
        }
        begin += section.len() + 1;
    }
    Ok(calls)
}

/// One section, big_vision's `registry.parse_name`.
pub fn parse_section(section: &str) -> Result<Call, SyntaxError> {
    let mut parser = Parser::new(section);
    if section.starts_with(char::is_whitespace) {
        return Err(parser.error_at(0, "a section may not begin with a blank"));
    }
    let mut name = parser.identifier("the name of an op")?;
    let (mut args, mut kwargs, mut num_calls, mut is_call) = (Vec::new(), Vec::new(), 0, false);
    loop {
        parser.skip_blanks();
        match parser.peek() {
            Some('.') => {
                parser.bump();
                parser.skip_blanks();
                name = format!("{name}.{}", parser.identifier("a name behind the dot")?);
                is_call = false;
            }
            Some('(') => {
                if num_calls > 0 {
                    return Err(parser.error("the result of a call cannot be called"));
                }
                (args, kwargs) = parser.call_arguments()?;
                num_calls += 1;
                is_call = true;
            }
            _ => break,
        }
    }
    while parser.peek() == Some('\n') || parser.peek() == Some('\r') {
        parser.bump();
        parser.skip_blanks();
    }
    if parser.peek().is_some() {
        return Err(parser.error("expected the end of the section or `|`"));
    }
    if !is_call {
        name = section.to_owned();
        args.clear();
        kwargs.clear();
    }
    Ok(Call { name, at: 0, args, kwargs })
}

/// Deeper nesting than this is not a pp string but an attack on the stack.
const MAX_DEPTH: usize = 64;

const KEYWORDS: &str = "False None True and as assert async await break class continue def del elif else except \
    finally for from global if import in is lambda nonlocal not or pass raise return try while with yield";

pub(super) struct Parser<'s> {
    text: &'s str,
    at: usize,
    /// Open brackets; newlines and comments are blanks when there is one.
    depth: usize,
}

type Arguments = (Vec<(Literal, usize)>, Vec<(String, Literal, usize)>);

impl<'s> Parser<'s> {
    pub fn new(text: &'s str) -> Self {
        Parser { text, at: 0, depth: 0 }
    }

    pub fn error(&self, message: impl Into<String>) -> SyntaxError {
        self.error_at(self.at, message)
    }

    fn error_at(&self, at: usize, message: impl Into<String>) -> SyntaxError {
        SyntaxError { at, message: message.into() }
    }

    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    pub fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    pub fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    pub fn skip_blanks(&mut self) {
        loop {
            match self.peek() {
                Some(' ' | '\t' | '\x0c') => self.at += 1,
                Some('\n' | '\r') if self.depth > 0 => self.at += 1,
                Some('#') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                Some('\\') if self.rest()[1..].starts_with('\n') => self.at += 2,
                _ => return,
            }
        }
    }

    pub fn open(&mut self) -> Result<(), SyntaxError> {
        self.bump();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error(format!("more than {MAX_DEPTH} brackets inside each other")));
        }
        self.skip_blanks();
        Ok(())
    }

    fn close(&mut self) {
        self.bump();
        self.depth -= 1;
    }

    fn word(&self) -> &'s str {
        let is_first = |c: char| c == '_' || c.is_alphabetic();
        let rest = self.rest();
        if !rest.starts_with(is_first) {
            return "";
        }
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        &rest[..end]
    }

    pub fn identifier(&mut self, what: &str) -> Result<String, SyntaxError> {
        let word = self.word();
        if word.is_empty() {
            return Err(self.error(format!("expected {what}")));
        }
        if KEYWORDS.split_whitespace().any(|keyword| keyword == word) {
            return Err(self.error(format!("`{word}` is a reserved word")));
        }
        self.at += word.len();
        Ok(word.to_owned())
    }

    fn call_arguments(&mut self) -> Result<Arguments, SyntaxError> {
        let (mut args, mut kwargs): Arguments = Default::default();
        self.items(')', |parser| {
            let begin = parser.at;
            if parser.peek() == Some('*') {
                return Err(parser.error("starred arguments are not supported"));
            }
            let word = parser.word();
            let mut ahead = Parser { text: parser.text, at: begin + word.len(), depth: parser.depth };
            ahead.skip_blanks();
            let is_keyword = ahead.take("=") && !ahead.rest().starts_with('=');
            if word.is_empty() || !is_keyword {
                if !kwargs.is_empty() {
                    return Err(parser.error("an argument without a name follows one with a name"));
                }
                args.push((parser.literal()?, begin));
                return Ok(());
            }
            let name = parser.identifier("the name of an argument")?;
            parser.at = ahead.at;
            parser.skip_blanks();
            let value = parser.literal()?;
            match kwargs.iter_mut().find(|(known, ..)| *known == name) {
                Some(known) => *known = (name, value, begin),
                None => kwargs.push((name, value, begin)),
            }
            Ok(())
        })?;
        Ok((args, kwargs))
    }

    /// `item, item, …` up to `end`, with an optional comma at the end. Returns whether a comma came last.
    pub fn items(
        &mut self,
        end: char,
        mut item: impl FnMut(&mut Self) -> Result<(), SyntaxError>,
    ) -> Result<bool, SyntaxError> {
        self.open()?;
        let mut comma = false;
        loop {
            if self.peek() == Some(end) {
                self.close();
                return Ok(comma);
            }
            item(self)?;
            self.skip_blanks();
            comma = self.take(",");
            self.skip_blanks();
            if !comma && self.peek() != Some(end) {
                return Err(self.unexpected(end));
            }
        }
    }

    fn unexpected(&self, end: char) -> SyntaxError {
        match self.peek() {
            None => {
                self.error(format!("expected `,` or `{end}`, the section ends here (it is cut at every `|`)"))
            }
            Some('+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '!' | '&' | '^' | '@' | '.' | '(' | '[') => {
                self.error("only literal values are allowed, nothing is computed")
            }
            Some(_) => self.error(format!("expected `,` or `{end}`")),
        }
    }

    /// A literal value: what Python's `ast.literal_eval` takes.
    pub fn literal(&mut self) -> Result<Literal, SyntaxError> {
        let sign = self.peek().filter(|&c| c == '-' || c == '+');
        if sign.is_none() {
            return Ok(self.atom()?.0);
        }
        self.bump();
        self.skip_blanks();
        let at = self.at;
        match (self.atom()?, sign) {
            ((Literal::Int(value), true), Some('-')) => Ok(Literal::Int(-value)),
            ((Literal::Float(value), true), Some('-')) => Ok(Literal::Float(-value)),
            ((value @ (Literal::Int(_) | Literal::Float(_)), true), _) => Ok(value),
            _ => Err(self.error_at(at, "a sign must stand before a number")),
        }
    }

    /// A value without sign, and whether it is one that may have a sign.
    fn atom(&mut self) -> Result<(Literal, bool), SyntaxError> {
        let Some(c) = self.peek() else { return Err(self.error("expected a value, the section ends here")) };
        let number = c.is_ascii_digit()
            || c == '.' && self.rest()[1..].starts_with(|next: char| next.is_ascii_digit());
        if number {
            return Ok((self.number()?, true));
        }
        match c {
            '(' => return self.parenthesis(),
            '[' => {
                let mut items = Vec::new();
                self.items(']', |parser| {
                    items.push(parser.literal()?);
                    Ok(())
                })?;
                return Ok((Literal::List(items), false));
            }
            '{' => return Ok((self.braces()?, false)),
            '\'' | '"' => return Ok((self.strings()?, false)),
            _ => {}
        }
        let word = self.word();
        if self.rest()[word.len()..].starts_with(['\'', '"']) && !word.is_empty() {
            return Ok((self.strings()?, false));
        }
        let value = match word {
            "None" => Literal::None,
            "True" => Literal::Bool(true),
            "False" => Literal::Bool(false),
            "set" if self.rest()[3..].trim_start().starts_with('(') => {
                self.at += 3;
                self.skip_blanks();
                self.items(')', |parser| Err(parser.error("`set()` takes no values here, write `{…}`")))?;
                return Ok((Literal::Set(Vec::new()), false));
            }
            "" => return Err(self.error(format!("expected a value, got `{c}`"))),
            word => return Err(self.error(format!("`{word}` is not a value (are quotes missing?)"))),
        };
        self.at += word.len();
        Ok((value, false))
    }

    fn parenthesis(&mut self) -> Result<(Literal, bool), SyntaxError> {
        let mut items = Vec::new();
        let mut is_number = false;
        let comma = self.items(')', |parser| {
            let signed = matches!(parser.peek(), Some('-' | '+'));
            let item = parser.literal()?;
            is_number = !signed && matches!(item, Literal::Int(_) | Literal::Float(_));
            items.push(item);
            Ok(())
        })?;
        match (comma, items.pop()) {
            (false, Some(only)) if items.is_empty() => Ok((only, is_number)),
            (_, last) => {
                items.extend(last);
                Ok((Literal::Tuple(items), false))
            }
        }
    }

    fn braces(&mut self) -> Result<Literal, SyntaxError> {
        let (mut set, mut dict) = (Vec::new(), Vec::new());
        self.items('}', |parser| {
            let at = parser.at;
            let key = parser.literal()?;
            parser.skip_blanks();
            let has_value = parser.take(":");
            if !key.is_hashable() {
                return Err(parser.error_at(at, "lists, sets and dicts cannot be keys or members of sets"));
            }
            let mixed = if has_value { !set.is_empty() } else { !dict.is_empty() };
            if mixed {
                return Err(parser.error("expected either only `key: value` pairs or only values"));
            }
            if has_value {
                parser.skip_blanks();
                set_item(&mut dict, key, parser.literal()?);
            } else {
                push_unique(&mut set, key);
            }
            Ok(())
        })?;
        Ok(if set.is_empty() { Literal::Dict(dict) } else { Literal::Set(set) })
    }

    fn number(&mut self) -> Result<Literal, SyntaxError> {
        let begin = self.at;
        let rest = self.rest();
        let mut end = 0;
        let bytes = rest.as_bytes();
        let based = rest.len() > 1 && bytes[0] == b'0' && b"xXoObB".contains(&bytes[1]);
        while let Some(&byte) = bytes.get(end) {
            let after_e = end > 0 && matches!(bytes[end - 1], b'e' | b'E') && !based;
            if byte.is_ascii_alphanumeric()
                || byte == b'_'
                || byte == b'.'
                || after_e && b"+-".contains(&byte)
            {
                end += 1;
            } else {
                break;
            }
        }
        self.at += end;
        let text = &rest[..end];
        parse_number(text).map_err(|message| self.error_at(begin, format!("`{text}` {message}")))
    }

    /// One or more quoted strings, which are joined.
    fn strings(&mut self) -> Result<Literal, SyntaxError> {
        let first = self.at;
        let mut joined: Option<(bool, Vec<u8>)> = None;
        loop {
            let begin = self.at;
            let prefix = self.word().to_ascii_lowercase();
            let next = self.rest()[prefix.len()..].chars().next();
            if !matches!(next, Some('\'' | '"')) {
                break;
            }
            let (raw, bytes) = match prefix.as_str() {
                "" | "u" => (false, false),
                "r" => (true, false),
                "b" => (false, true),
                "br" | "rb" => (true, true),
                _ => return Err(self.error(format!("strings with prefix `{prefix}` are not supported"))),
            };
            self.at += prefix.len();
            let part = self.quoted(raw, bytes)?;
            match &mut joined {
                None => joined = Some((bytes, part)),
                Some((kind, _)) if *kind != bytes => {
                    return Err(self.error_at(begin, "text and bytes cannot be joined"));
                }
                Some((_, text)) => text.extend(part),
            }
            self.skip_blanks();
        }
        let (is_bytes, content) = joined.unwrap_or_default();
        if is_bytes {
            return Ok(Literal::Bytes(content));
        }
        let text = String::from_utf8(content);
        Ok(Literal::Str(text.map_err(|_| self.error_at(first, "string holds half a character"))?))
    }

    fn quoted(&mut self, raw: bool, bytes: bool) -> Result<Vec<u8>, SyntaxError> {
        let begin = self.at;
        let quote = self.bump().unwrap_or('"');
        let triple: String = [quote; 3].iter().collect();
        let end = if self.rest().starts_with(&triple[1..]) { triple } else { quote.to_string() };
        self.at += end.len() - 1;
        let mut out = Vec::new();
        loop {
            if self.take(&end) {
                return Ok(out);
            }
            let at = self.at;
            match self.bump() {
                None => {
                    let message = "string has no end in its section (sections are cut at every `|`)";
                    return Err(self.error_at(begin, message));
                }
                Some('\n') if end.len() == 1 => {
                    return Err(self.error_at(begin, "string has no end in its line"));
                }
                Some('\\') if raw => {
                    out.push(b'\\');
                    let mut buffer = [0; 4];
                    out.extend(
                        self.bump().map(|c| c.encode_utf8(&mut buffer).as_bytes()).unwrap_or_default(),
                    );
                }
                Some('\\') => self.escape(at, bytes, &mut out)?,
                Some(c) if bytes && !c.is_ascii() => {
                    return Err(self.error_at(at, "bytes can only contain ASCII"));
                }
                Some(c) => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// What follows a backslash. Unknown escapes stay as they are.
    fn escape(&mut self, at: usize, bytes: bool, out: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let Some(c) = self.bump() else { return Ok(()) };
        let code = match c {
            '\n' => return Ok(()),
            '\\' | '\'' | '"' => c as u32,
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            '0'..='7' => {
                let digits =
                    self.text[self.at - 1..].bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b));
                let (value, count) = digits.fold((0, 0), |(v, n), b| (v * 8 + u32::from(b - b'0'), n + 1));
                self.at += count - 1;
                value
            }
            'x' => self.hex(at, 2)?,
            'u' if !bytes => self.hex(at, 4)?,
            'U' if !bytes => self.hex(at, 8)?,
            'N' if !bytes => return Err(self.error_at(at, "characters by name are not supported")),
            c => {
                out.push(b'\\');
                out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
        };
        if bytes {
            out.push(code as u8);
            return Ok(());
        }
        let c = char::from_u32(code).ok_or_else(|| self.error_at(at, "escape is not a character"))?;
        out.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn hex(&mut self, at: usize, len: usize) -> Result<u32, SyntaxError> {
        let digits = self.rest().get(..len).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += if value.is_some() { len } else { 0 };
        value.ok_or_else(|| self.error_at(at, format!("escape needs {len} hexadecimal digits")))
    }
}

fn parse_number(text: &str) -> Result<Literal, &'static str> {
    const NOT_A_NUMBER: &str = "is not a number";
    // An underscore must stand between two digits (or behind the base's letter).
    let bytes = text.as_bytes();
    let misplaced = (0..bytes.len()).any(|i| {
        let digit = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
        bytes[i] == b'_' && !(i > 0 && digit(bytes.get(i - 1)) && digit(bytes.get(i + 1)))
    });
    if misplaced {
        return Err(NOT_A_NUMBER);
    }
    let plain = text.replace('_', "");
    let radix = match plain.get(..2).map(str::to_ascii_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let digits = if radix == 10 { plain.as_str() } else { &plain[2..] };
    if digits.chars().all(|c| c.is_digit(radix)) && !digits.is_empty() {
        if radix == 10 && digits.len() > 1 && digits.starts_with('0') && digits.contains(|c| c != '0') {
            return Err("begins with 0 (write 0o for octal numbers)");
        }
        return i64::from_str_radix(digits, radix).map(Literal::Int).map_err(|_| "does not fit in 64 bits");
    }
    if plain.ends_with(['j', 'J']) {
        return Err("is complex, which no op takes");
    }
    let shape_is_right = radix == 10 && plain.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let is_word = plain.contains(|c: char| c.is_ascii_alphabetic() && c != 'e' && c != 'E');
    match plain.parse() {
        Ok(value) if shape_is_right && !is_word => Ok(Literal::Float(value)),
        _ => Err(NOT_A_NUMBER),
    }
}
